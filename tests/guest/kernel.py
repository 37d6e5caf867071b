"""Debian's stock kernel, and a first file system that leads into this machine's own.

The kernel of this machine, or of a container's host, need not have InfiniBand; Debian's has
``rdma_rxe`` (Soft-RoCE) as a module. Its package is unpacked into a cache, never installed.
"""

import fcntl
import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from tests.guest.archive import Archive

PACKAGE: Final = "linux-image-amd64"
"""The package that stands for the newest kernel of this release of Debian."""

MODULES: Final = (
    *("virtio_pci", "virtio_net", "virtio_console", "9pnet_virtio", "9p", "overlay"),
    *("ib_uverbs", "rdma_ucm", "ib_umad"),
    "crc32_generic",  # rdma_rxe adds no device without it, and does not ask for it
    *("rdma_rxe", "veth", "bridge", "af_packet"),
)

# What the kernel starts first: it mounts this machine's root file system under a layer in memory,
# and there starts the program that talks to the host (agent.py).
INIT: Final = """#!/bin/sh
B=/bin/busybox
$B mkdir -p /proc /sys /dev /ro /rw /new
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
for module in $($B cat /modules/order); do $B insmod /modules/$module; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose root /ro
$B mount -t tmpfs t /rw; $B mkdir -p /rw/upper /rw/work
$B mount -t overlay o -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work /new
for place in proc sys dev; do $B mount --move /$place /new/$place; done
$B mount -t tmpfs t /new/run; $B mkdir -p /new/run/shared
$B mkdir -p /new/dev/shm; $B mount -t tmpfs t /new/dev/shm
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 shared /new/run/shared
while read -r place; do $B mount --bind /tree$place /new$place; done < /new/run/shared/copied
$B chroot /new /bin/sh /run/shared/begin
echo o > /new/proc/sysrq-trigger; $B sleep 5
"""


class NoGuest(Exception):
    """A guest cannot be had here; the text says what is missing and what to do."""


@dataclass(frozen=True)
class Kernel:
    """What QEMU boots."""

    image: Path
    initial: Path
    """The first file system."""
    modules: Path
    """The root of the tree of all modules, for ``modprobe -d``."""


def kernel() -> Kernel:
    """Give the kernel; get and prepare it if that was not done yet.

    Raises NoGuest.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = base / "vsync-guest"
    cache.mkdir(parents=True, exist_ok=True)
    # Others may want it at the same time.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        package = _package()
        place = cache / package
        if not (place / "initial.gz").exists():
            shutil.rmtree(place, ignore_errors=True)
            _unpack(package, place)
            _write_initial(place, _release(place))
    return Kernel(place / "boot" / f"vmlinuz-{_release(place)}", place / "initial.gz", place)


def _package() -> str:
    """The package that really holds the kernel."""
    for _ in range(2):
        told = _run("apt-cache", "depends", PACKAGE).stdout
        found = re.search(r"Depends: (linux-image-\S+)", told)
        if found:
            return found[1]
        _run("apt-get", "update", "-q")
    raise NoGuest(f"apt does not know the package {PACKAGE}; this is for Debian on amd64")


def _unpack(package: str, place: Path) -> None:
    place.mkdir()
    os.chmod(place, 0o755)
    done = _run("apt-get", "download", package, at=place)
    if done.returncode != 0:  # the lists are older than the archive
        _run("apt-get", "update", "-q")
        done = _run("apt-get", "download", package, at=place)
    archives = list(place.glob("*.deb"))
    if not archives:
        raise NoGuest(f"{package} cannot be downloaded: {done.stderr.strip()}")
    _need("dpkg", "-x", str(archives[0]), str(place))
    archives[0].unlink()
    _need("depmod", "-b", str(place), _release(place))


def _release(place: Path) -> str:
    return next((place / "lib" / "modules").iterdir()).name


def _write_initial(place: Path, release: str) -> None:
    """Make the archive that the kernel unpacks into memory: busybox, modules, ``INIT``."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise NoGuest("busybox is not installed; on Debian it comes with busybox-static")
    unfinished = place / "initial.part"
    with gzip.open(unfinished, "wb", compresslevel=1) as file:
        archive = Archive(cast(BinaryIO, file))
        archive.write("init", stat.S_IFREG | 0o755, INIT.encode())
        archive.add(Path(busybox), "bin/busybox")
        archive.write("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
        order: list[str] = []
        for module in MODULES:
            told = _need("modprobe", "-d", str(place), "-S", release, "-D", module)
            for path in re.findall(r"^insmod (\S+)", told, re.MULTILINE):
                name = Path(path).name.removesuffix(".xz")
                if name in order:
                    continue
                order.append(name)
                content = Path(path).read_bytes()
                content = lzma.decompress(content) if path.endswith(".xz") else content
                archive.add(Path(path), f"modules/{name}", content)
        archive.write("modules/order", stat.S_IFREG | 0o644, "\n".join(order).encode())
        archive.close()
    unfinished.rename(place / "initial.gz")


def _run(*command: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise NoGuest(f"`{command[0]}` is not installed")
    return subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)


def _need(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise NoGuest(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
