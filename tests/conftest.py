"""What every test has: both event loops, an environment without our variables, the network mark."""

import functools
import os
import shutil
import subprocess

import pytest
from hypothesis import settings

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


@pytest.fixture(autouse=True)
def no_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the variables that change what vsync does: the machine must not decide a test."""
    for name in [name for name in os.environ if name.startswith("VSYNC_")]:
        monkeypatch.delenv(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs the network where there is none to use; in CI that is a failure."""
    if item.get_closest_marker("network") is None:
        return
    lacking = what_the_network_lacks()
    if lacking is None:
        return
    if CI:
        pytest.fail(f"CI must run the tests on network namespaces, but {lacking}", pytrace=False)
    pytest.skip(f"needs network namespaces, but {lacking}")


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


#: A stranger's package has tests of its own, which are run where it is installed.
collect_ignore = ["outside"]
