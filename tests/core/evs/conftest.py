"""One daemon for most tests, and a look at the threads after each."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.evs.daemons import Daemon, Log, daemons, eventually
from vsync import evs


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Whatever a test began has ended with it."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) <= before)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on a ring of its own."""
    with daemons(tmp_path) as (one,):
        yield one


@pytest.fixture
def log() -> Log:
    """What the callbacks of ``handle`` were told."""
    return Log()


@pytest.fixture
def handle(daemon: Daemon, log: Log) -> Iterator[evs.Handle]:
    """A handle, finalized at the end unless the test has."""
    with evs.initialize(log.callbacks, path=daemon.path) as made:
        yield made
