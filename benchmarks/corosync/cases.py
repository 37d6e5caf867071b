"""What is measured: a case is a kind of load on a ring, an outcome is what one peer did in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

KB: Final = 1024
SIZES: Final = (64, KB, 8 * KB, 64 * KB, 256 * KB, KB * KB)
COUNTS: Final = tuple(range(2, 9))
LOAD_SIZE: Final = KB
"""Of the messages that are the load while latency is measured."""


class Part(StrEnum):
    """The parts of the benchmark; each can be run alone."""

    RAW = "raw"  #: the yardstick: what a bare program sends through these namespaces
    RATE = "rate"  #: as fast as it goes, by size of the messages
    LATENCY = "latency"  #: from sending to delivery
    LOSS = "loss"  #: both while packets are lost
    NODES = "nodes"  #: rates by number of nodes


class Load(StrEnum):
    """What else the ring carries while latency is measured."""

    NONE = "none"
    HALF = "half"  #: half of what this peer can carry
    EQUAL = "equal"  #: half of what Corosync over udp can carry, whoever is measured


class Lost(StrEnum):
    """Where packets are lost; a burst is what the kernel carries as one packet of up to 64 KB."""

    PACKETS = "packets"  #: on the way in, one by one: the senders' kernels split bursts up before
    BURSTS = "bursts"  #: on the way in, a whole burst at a time
    FAULT = (
        "fault"  #: one by one, in the receiving program: the transport fault; bursts travel whole
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of load on one ring."""

    part: Part
    size: int = LOAD_SIZE
    senders: int = 1
    nodes: int = 3
    guarantee: str = "agreed"
    load: Load = Load.NONE
    loss_percent: float = 0
    lost: Lost | None = None
    probes: bool = False

    def __str__(self) -> str:
        words = [self.part.value]
        if self.part is not Part.RAW:
            words += [size_text(self.size), f"{self.senders} of {self.nodes} send"]
        if self.probes:
            words = [self.part.value, self.guarantee, f"load {self.load.value}"]
        if self.lost is not None:
            words.append(f"{self.loss_percent:g} % of {self.lost.value} lost")
        return ", ".join(words)

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        lost = found["lost"]
        return cls(
            **{
                **found,
                "part": Part(found["part"]),
                "load": Load(found["load"]),
                "lost": None if lost is None else Lost(lost),
            }
        )


@dataclass(kw_only=True)
class Outcome:
    """What one peer did in one try of a case."""

    peer: str
    case: Case
    attempt: int
    failed: str | None = None
    """Why there is nothing else here."""

    seconds: float = 0
    rates: list[float] = field(default_factory=list)
    """Messages a second, delivered at each node."""

    byte_rates: list[float] = field(default_factory=list)
    cpu_s: float = 0
    """Of the whole machine, all processes and the kernel."""

    stolen_s: float = 0
    """What the machine's host took away meanwhile: a measure of noise."""

    disturbed: float = 0
    """How many processors were busy with other work just before: nothing of ours ran."""

    offered: float = 0
    """The load that was asked for, in messages a second; 0 if as much as possible."""

    accepted: float = 0
    """The load that was taken."""

    own_us: dict[str, float] = field(default_factory=dict)
    """Latency at the senders of the messages: p50, p99, p99.9, max and count."""

    others_us: dict[str, float] = field(default_factory=dict)
    """Latency at all other nodes."""

    @property
    def rate(self) -> float:
        """Messages a second at the slowest receiver."""
        return min(self.rates, default=0.0)

    @property
    def byte_rate(self) -> float:
        return min(self.byte_rates, default=0.0)

    def as_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**found, "case": self.case.as_json()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        return cls(**{**found, "case": Case.from_json(found["case"])})


def size_text(size: int) -> str:
    """A size as one says it."""
    for unit, bytes_each in (("MB", KB * KB), ("KB", KB)):
        if size >= bytes_each and size % bytes_each == 0:
            return f"{size // bytes_each} {unit}"
    return f"{size} B"


# --- which cases, and who takes part in each ---------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One case and the peers that take part, one after another."""

    case: Case
    peers: Sequence[str]


RAW_TURNS: Final = 7
"""In each try: nothing regulates that program, so one of its rates may be half of another."""


def plan(
    parts: Iterable[Part],
    peers: Sequence[str],
    *,
    sizes: Sequence[int],
    counts: Sequence[int],
    loss_sizes: Sequence[int],
    loss_percents: Sequence[float],
) -> Iterator[Turn]:
    """What one try of *parts* measures, in order. Rates come first: half a load is half of one."""
    turns: dict[Part, Iterator[Turn]] = {
        Part.RAW: raw(),
        Part.RATE: rates(sizes),
        Part.LATENCY: latencies(),
        Part.LOSS: losses(loss_sizes, loss_percents),
        Part.NODES: numbers_of_nodes(counts),
    }
    for part in Part:
        if part in parts:
            for turn in turns[part]:
                present = [peer for peer in turn.peers if peer in peers or part is Part.RAW]
                if present:
                    yield Turn(turn.case, present)


UDP: Final = ("corosync-udp",)
COROSYNC: Final = ("corosync-udp", "corosync-udp-norr", "corosync-knet", "corosync-knet-aes")
EMBEDDED: Final = ("vsync", "vsync-speedups")
VSYNC: Final = (*EMBEDDED, "vsync-key", "vsync-key-speedups", "vsync-daemon")


def raw() -> Iterator[Turn]:
    for _ in range(RAW_TURNS):
        yield Turn(Case(part=Part.RAW, size=64 * KB), ["raw"])


def rates(sizes: Sequence[int]) -> Iterator[Turn]:
    for size in sizes:
        for senders in (1, 3):
            yield Turn(Case(part=Part.RATE, size=size, senders=senders), [*COROSYNC, *VSYNC])


def latencies() -> Iterator[Turn]:
    for load in Load:
        for guarantee in ("agreed", "safe"):
            # CPG has no safe delivery: it takes the word, and delivers as agreed.
            peers = [*COROSYNC, *VSYNC] if guarantee == "agreed" else list(VSYNC)
            case = Case(part=Part.LATENCY, senders=3, probes=True, load=load, guarantee=guarantee)
            yield Turn(case, peers)


def losses(sizes: Sequence[int], percents: Sequence[float]) -> Iterator[Turn]:
    corosync = [*UDP, "corosync-udp-token300", "corosync-knet"]
    for lost in Lost:
        peers = [*corosync, "vsync"] if lost is Lost.PACKETS else ["vsync"]
        for size in sizes:
            for senders in (1, 3):
                for percent in (0, *percents):
                    yield Turn(
                        Case(
                            part=Part.LOSS,
                            size=size,
                            senders=senders,
                            loss_percent=percent,
                            lost=lost,
                        ),
                        peers,
                    )
    for percent in percents:
        for guarantee in ("agreed", "safe"):
            yield Turn(
                Case(
                    part=Part.LOSS,
                    senders=3,
                    probes=True,
                    guarantee=guarantee,
                    loss_percent=percent,
                    lost=Lost.PACKETS,
                ),
                [*corosync, "vsync"] if guarantee == "agreed" else ["vsync"],
            )


def numbers_of_nodes(counts: Sequence[int]) -> Iterator[Turn]:
    for nodes in counts:
        for senders in (1, nodes):
            yield Turn(Case(part=Part.NODES, senders=senders, nodes=nodes), [*UDP, *EMBEDDED])
