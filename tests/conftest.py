"""What every test has: both event loops, an environment without our variables, marks that ask for
what a machine may lack.
"""

import ctypes.util
import functools
import os
import shutil
import subprocess

import pytest
from hypothesis import settings

from vsync import speedups

CI = os.environ.get("CI") == "true"

# No deadline: a shared machine pauses a test for longer than any useful one. In CI the same
# examples every time, so that a failure there is a failure here.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if CI else "local")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every test marked ``anyio`` on both event loops."""
    backend: str = request.param
    return backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that break the engine on purpose where it is compiled."""
    if speedups.in_use.startswith(speedups.COMPILED):
        out = [item for item in items if item.get_closest_marker("pure") is not None]
        items[:] = [item for item in items if item.get_closest_marker("pure") is None]
        config.hook.pytest_deselected(items=out)


@pytest.fixture(autouse=True)
def no_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the variables that change what vsync does: the machine must not decide a test."""
    for name in [name for name in os.environ if name.startswith("VSYNC_")]:
        monkeypatch.delenv(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what this machine lacks; in CI that is a failure."""
    for mark, lacks, what in (
        ("network", what_the_network_lacks, "network namespaces"),
        ("infiniband", what_a_guest_lacks, "a guest with Soft-RoCE"),
    ):
        if item.get_closest_marker(mark) is None:
            continue
        lacking = lacks()
        if lacking is None:
            continue
        if CI:
            pytest.fail(f"CI must run the tests that need {what}, but {lacking}", pytrace=False)
        pytest.skip(f"needs {what}, but {lacking}")


@functools.cache
def what_the_network_lacks() -> str | None:
    """Say why tests cannot make network namespaces here, in half a sentence; else ``None``."""
    if os.geteuid() != 0:
        return "this is not root; run them as root."
    for tool, package in (("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            return f"`{tool}` is not installed; on Debian it comes with {package}."
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && nft list ruleset"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        return f"the kernel refused one: {tried.stderr.strip()}"
    return None


GUEST_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "rdma": "iproute2",
}
GUEST_LIBRARIES = {"ibverbs": "libibverbs1 and ibverbs-providers", "rdmacm": "librdmacm1"}


@functools.cache
def what_a_guest_lacks() -> str | None:
    """Say why no guest can be started here, in half a sentence; else ``None``."""
    lacking = what_the_network_lacks()
    if lacking is not None:
        return lacking
    for tool, package in GUEST_TOOLS.items():
        if shutil.which(tool) is None:
            return f"`{tool}` is not installed; on Debian it comes with {package}."
    for library, package in GUEST_LIBRARIES.items():
        if ctypes.util.find_library(library) is None:
            return f"lib{library} is not installed; on Debian it comes with {package}."
    return None


#: A stranger's package has tests of its own, which are run where it is installed.
collect_ignore = ["outside"]
