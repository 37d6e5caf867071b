"""One measurement: hosts, a peer on them, one window of time, and everything gone again."""

import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.corosync.cases import Case, Lost, Outcome, Part
from benchmarks.corosync.machine import processors
from benchmarks.corosync.members import Failed, Member
from benchmarks.corosync.peers import Peer

from tests.transport_udp.hosts import Ethernet, Host, run

READY_WITHIN_S: Final = 15.0
STARTS: Final = 3
"""How often a ring may be started until it forms: Corosync over udp now and then does not."""

ENDS_WITHIN_S: Final = 10.0
"""How long after the window a member may take to say what it counted."""

DISTURBANCE_S: Final = 0.25
"""So long is looked at what else runs on the machine."""

START_S: Final = 0.05
"""From telling the members until they send."""

LATENCY_LONGER: Final = 2.0
"""Latency is measured for so many times the seconds of a rate: rare events need many samples."""


class NeverFormed(Failed):
    """The ring did not form, so nothing was measured."""


def measure(
    peer: Peer, case: Case, *, attempt: int, seconds: float, warm_s: float, load: float = 0
) -> Outcome:
    """Measure *peer* in *case*; what went wrong is in the outcome."""
    outcome = Outcome(peer=peer.name, case=case, attempt=attempt, offered=load)
    outcome.failed = peer.missing()
    if outcome.failed is None:
        if case.probes:
            seconds *= LATENCY_LONGER
        for tries in range(STARTS, 0, -1):
            try:
                _measure(peer, case, outcome, seconds, warm_s)
                break
            except NeverFormed as failed:
                if tries == 1:
                    outcome.failed = without_directories(str(failed))
            except Failed as failed:
                outcome.failed = without_directories(str(failed))
                break
    return outcome


def without_directories(text: str) -> str:
    """A complaint without the paths of one machine: results are kept, and read elsewhere."""
    return re.sub(r"/(?:[\w.+-]+/)+", "", text)


def _measure(peer: Peer, case: Case, outcome: Outcome, seconds: float, warm_s: float) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vsync-bench-")))
        ethernet = stack.enter_context(Ethernet())
        outcome.disturbed = disturbance()
        hosts = [ethernet.add_host() for _ in range(case.nodes)]
        if case.lost in (Lost.PACKETS, Lost.BURSTS):
            for host in hosts:
                lose(host, case.loss_percent, split=case.lost is Lost.PACKETS)
        members = peer.start(hosts, directory, case, outcome.offered, stack)
        form(members)
        from_ns = time.monotonic_ns() + int((START_S + warm_s) * 1e9)
        to_ns = from_ns + int(seconds * 1e9)
        for member in members:
            member.tell(f"{from_ns} {to_ns}")
        sleep_until(from_ns)
        from_ns = time.monotonic_ns()
        before = processors()
        sleep_until(to_ns)
        spent = processors().since(before)
        # Who runs at real-time priority makes this program late.
        late = (time.monotonic_ns() - from_ns) / 1e9 / seconds
        fill(outcome, hear_all(members), case, seconds)
        outcome.cpu_s, outcome.stolen_s = (each / late for each in spent)


def disturbance() -> float:
    """How many processors are busy while this program does nothing."""
    before = processors()
    time.sleep(DISTURBANCE_S)
    return processors().since(before).busy_s / DISTURBANCE_S


def form(members: Sequence[Member]) -> None:
    """Wait until every member has seen all others."""
    deadline = time.monotonic() + READY_WITHIN_S
    for number, member in enumerate(members, 1):
        try:
            member.hear(max(0.0, deadline - time.monotonic()), f"the ring of all at node {number}")
        except Failed as failed:
            raise NeverFormed(str(failed)) from failed


def lose(host: Host, percent: float, *, split: bool) -> None:
    """Lose packets on their way into *host*; with *split*, what it sends leaves as single packets.

    Splitting belongs to the condition, not to the loss: it is done at 0 % too.
    """
    if split:
        host.ip("link", "set", "dev", "eth0", "gso_max_segs", "1")
    if percent:
        rules = (
            "table netdev lossy {\n"
            "  chain received {\n"
            '    type filter hook ingress device "eth0" priority 0;\n'
            f"    numgen random mod 10000 < {round(percent * 100)} drop\n"
            "  }\n"
            "}\n"
        )
        host.run(lambda: run("nft", rules))


def hear_all(members: Sequence[Member]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + ENDS_WITHIN_S
    return [
        member.hear(max(0.0, deadline - time.monotonic()), f"the count of node {number}")
        for number, member in enumerate(members, 1)
    ]


def fill(outcome: Outcome, told: list[dict[str, Any]], case: Case, seconds: float) -> None:
    """Write what the members told into the outcome. Raises Failed if there is nothing in it."""
    if case.part is Part.RAW:
        told = told[1:]  # the sender hears nothing
    outcome.seconds = seconds
    outcome.rates = [each["received"] / seconds for each in told]
    outcome.byte_rates = [each["bytes"] / seconds for each in told]
    outcome.accepted = sum(each.get("sent", 0) for each in told) / seconds
    if case.probes:
        outcome.own_us = summary([time for each in told for time in each["own_us"]])
        outcome.others_us = summary([time for each in told for time in each["others_us"]])
        if not outcome.others_us:
            raise Failed("collapsed: not one probe was delivered")
    elif not outcome.rate:
        raise Failed("collapsed: a receiver was delivered nothing")


def summary(times: list[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the longest of *times*, and how many there are."""
    times = sorted(times)
    if not times:
        return {}
    quantiles = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    found = {name: times[int(part * (len(times) - 1) + 0.5)] for name, part in quantiles.items()}
    return {**found, "max": times[-1], "count": len(times)}


def sleep_until(then_ns: int) -> None:
    time.sleep(max(0.0, (then_ns - time.monotonic_ns()) / 1e9))
