"""What a node asks of its process: memory that was freed is kept, and threads take turns soon."""

import os
import subprocess
import sys

ASK = """
import gc, resource, sys
from vsync.runtime.process import prepare_process

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take_and_free(rounds):
    for _ in range(rounds):
        pieces = [bytearray(64 * 1024) for _ in range(100)] + [bytearray(2**20) for _ in range(10)]

if sys.argv[1] == "prepared":
    prepare_process()
    prepare_process()
take_and_free(5)
before = faults()
take_and_free(20)
print(faults() - before, sys.getswitchinterval(), gc.get_threshold()[0])
"""
PAGES = 20 * (100 * 64 + 10 * 1024) // 4
"""How many pages are taken, all rounds together."""


def ask(how: str, **environment: str) -> tuple[int, float, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, how],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    faults, interval, young = done.stdout.split()
    return int(faults), float(interval), int(young)


def test_a_process_with_a_node_does_not_ask_the_system_for_the_same_memory_again() -> None:
    assert ask("as it was")[0] > PAGES // 10
    assert ask("prepared")[0] < PAGES // 100


def test_who_says_how_memory_is_to_be_had_is_obeyed() -> None:
    assert ask("prepared", MALLOC_TRIM_THRESHOLD_="131072")[0] > PAGES // 10


def test_threads_take_turns_soon_and_the_collector_waits_for_more() -> None:
    _, interval, young = ask("prepared")
    assert interval <= 0.0002
    assert young >= 20_000
