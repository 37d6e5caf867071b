"""The machine: what it is, what is installed on it, and how busy its processors are."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import vsync
from vsync.seal.cipher import LIBRARY

DEBIAN: Final = {
    "corosync": "corosync",
    "/usr/include/corosync/cpg.h": "libcpg-dev",
    "/usr/include/isa-l/crc.h": "libisal-dev",
    "/usr/include/openssl/evp.h": "libssl-dev",
    f"{sysconfig.get_path('include')}/Python.h": "python3-dev",
    "cc": "gcc",
    "ip": "iproute2",
    "nft": "nftables",
}
"""What must be there, as a command or a file, and the package of Debian that has it."""


class Processors(NamedTuple):
    """Seconds that all processors together spent since the machine started."""

    busy_s: float
    stolen_s: float

    def since(self, before: "Processors") -> "Processors":
        return Processors(self.busy_s - before.busy_s, self.stolen_s - before.stolen_s)


def processors() -> Processors:
    """Busy is what users, kernel and interrupts took; stolen, what the host of a guest kept."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, stolen = (
        int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[:8]
    )
    return Processors(user + nice + system + irq + softirq, stolen)


def missing_packages() -> list[str]:
    """The packages of Debian that the benchmark needs and that are not there."""
    return [
        package
        for name, package in DEBIAN.items()
        if not (Path(name).exists() if name.startswith("/") else shutil.which(name))
    ]


def described() -> dict[str, str]:
    """The machine and the versions, for people."""
    information = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in information if "model name" in line]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processors": f"{os.cpu_count()} of: {models[0] if models else platform.machine()}",
        "memory": f"{memory_kb / 2**20:.0f} GiB",
        "kernel": f"Linux {platform.release()}",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "python": f"{platform.python_implementation()} {platform.python_version()}, {built_by()}",
        "corosync": package_version("corosync"),
        "libknet": package_version("libknet1"),
        "seals": f"{sealing()}, and cryptography {version('cryptography')} in pure Python",
        "vsync": f"{vsync.__version__}, revision {revision()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def sealing() -> str:
    """What seals packets in this process, and so in those with speedups if it has them."""
    package = {"IPsec-MB": "libipsec-mb1", "OpenSSL": "libssl3"}.get(LIBRARY)
    return LIBRARY if package is None else f"{package} {package_version(package)}"


def built_by() -> str:
    """Who built the Python that runs: it matters, since not everybody lets it be optimised."""
    interpreter = str(Path(sys.executable).resolve())
    owner, _, _ = said("dpkg-query", "-S", interpreter).partition(":")
    return f"Debian's {package_version(owner)}" if owner else "not of a package of Debian"


def package_version(package: str) -> str:
    return said("dpkg-query", "-W", "-f", "${Version}", package) or "unknown"


def revision() -> str:
    """The commit that is measured, by where the package was imported from."""
    packages = str(Path(vsync.__file__).parents[3])
    commit = said("git", "-C", packages, "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = said("git", "-C", packages, "status", "--porcelain", "--", ".")
    return f"{commit} with changes" if changed else commit


def said(*command: str) -> str:
    """What a command printed; empty if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
