"""Faults and load as data: what happens to a cluster, and when.

A schedule is a tuple of steps, so it can be made from a seed, printed, written by hand and cut
down. Each step is one line of text, ``1.250 pause 3 0.4``; ``STEPS`` has what the words mean.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final, NamedTuple, Self

from vsync.errors import MisuseError
from vsync.keys import Key
from vsync.links import Mode
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.testing.network import Action, Conditions, Rule
from vsync.testing.wiring import Wires
from vsync.vocabulary import Guarantee, Priority
from vsync.wire.header import FrameType

FAULTS_FROM_S: Final = 0.15
FAULTS_UNTIL_S: Final = 4.0
"""When faults of a seed's schedule may happen; afterwards everything heals."""

STARVED_S: Final = (0.01, 0.08)
AWAKE_S: Final = 0.005
"""How long a starved node stops at a time, and how long it runs in between."""

PENDING_BYTES_MAX: Final = 200_000
"""A node with more than that waiting sends nothing more, as an application that awaits does."""


class Step(NamedTuple):
    """At *at_s*, do *words*."""

    at_s: float
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.at_s:.5f} {' '.join(self.words)}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read what ``str`` gives. Raises MisuseError if the line is no step."""
        at_s, *words = line.split()
        try:
            step = cls(float(at_s), tuple(words))
        except ValueError:
            raise MisuseError(f"a step begins with a time in seconds, not {at_s!r}") from None
        if not words or words[0] not in STEPS:
            raise MisuseError(f"{line!r} is no step; known are {', '.join(STEPS)}")
        return step


class Running(NamedTuple):
    """A cluster, and what its steps leave for later."""

    cluster: Cluster
    later: Callable[[float, Callable[[], None]], None]
    """Do something that many seconds from now."""


def do(running: Running, words: tuple[str, ...]) -> None:
    """Do one step now. ``STEPS`` has what the words mean; errors are as Python raises them, since
    an engine's own must not be taken for a mistake in the words.
    """
    STEPS[words[0]](running, *words[1:])


# --- the steps: arguments are words -------------------------------------------------------------


def _start(running: Running, *nodes: str) -> None:
    running.cluster.start(*map(int, nodes))


def _crash(running: Running, *nodes: str) -> None:
    running.cluster.crash(*map(int, nodes))


def _restart(running: Running, *nodes: str) -> None:
    running.cluster.restart(*map(int, nodes))


def _leave(running: Running, *nodes: str) -> None:
    running.cluster.leave(*map(int, nodes))


def _pause(running: Running, node: str, seconds: str | None = None) -> None:
    host = running.cluster.hosts[int(node)]
    running.cluster.pause(host.number)
    life = host.life
    if seconds is not None:
        running.later(
            float(seconds),
            lambda: running.cluster.resume(host.number) if host.life == life else None,
        )


def _freeze(running: Running, node: str, seconds: str) -> None:
    """As ``pause``, but its clock does not show it: a virtual machine that was stopped."""
    _pause(running, node, seconds)
    running.cluster.freeze(int(node))


def _starve(running: Running, node: str, seconds: str) -> None:
    """It gets the processor for moments only: it stops again and again, for up to 80 ms."""
    dice = Random(f"starve {node} {seconds}")
    left_s = float(seconds)
    while left_s > 0:
        stop_s = min(left_s, dice.uniform(*STARVED_S))
        running.later(float(seconds) - left_s, partial(_pause, running, node, str(stop_s)))
        left_s -= stop_s + AWAKE_S


def _resume(running: Running, *nodes: str) -> None:
    running.cluster.resume(*map(int, nodes))


def _block(running: Running, node: str, seconds: str | None = None) -> None:
    running.cluster.block(int(node), True)
    if seconds is not None:
        running.later(float(seconds), lambda: running.cluster.block(int(node), False))


def _release(running: Running, node: str) -> None:
    running.cluster.block(int(node), False)


def _partition(running: Running, *sides: str) -> None:
    """Each side as ``1,2,3``; those on no side are one more."""
    running.cluster.partition(*(list(map(int, side.split(","))) for side in sides))


def _cut(running: Running, sender: str, receiver: str) -> None:
    """One way; a word may be ``*`` for all others."""
    cluster = running.cluster
    every = sorted(cluster.hosts)
    for one in every if sender == "*" else [int(sender)]:
        for other in every if receiver == "*" else [int(receiver)]:
            if one != other:
                cluster.cut(one, other)


def _heal(running: Running) -> None:
    running.cluster.heal()


def _link(running: Running, number: str, loss: str) -> None:
    """One of several links loses that share of its packets; 1: all of them."""
    running.cluster.network.lossy[int(number)] = float(loss)


def _close(running: Running, node: str, link: str, seconds: str) -> None:
    """One node closes one of several links, and opens it again at another address."""
    cluster, host = running.cluster, running.cluster.hosts[int(node)]
    life = host.life
    if cluster.close_link(host.number, int(link)):
        running.later(
            float(seconds),
            lambda: cluster.open_link(host.number, int(link)) if host.life == life else None,
        )


def _conditions(running: Running, loss: str, duplication: str, spikes: str) -> None:
    """Shares of all packets that are lost, repeated, and late."""
    running.cluster.network.conditions = Conditions(
        loss=float(loss), duplication=float(duplication), spikes=float(spikes)
    )


def _rule(action: Action) -> Callable[..., None]:
    def add(
        running: Running, frame: str, count: str = "1", sender: str = "*", receiver: str = "*"
    ) -> None:
        """Pick the next *count* packets of a frame type, perhaps of one path."""
        running.cluster.network.rules.append(
            Rule(
                action=action,
                frame=None if frame == "*" else FrameType[frame.upper()],
                count=int(count),
                sender=None if sender == "*" else int(sender),
                receiver=None if receiver == "*" else int(receiver),
            )
        )

    return add


def _is_whole(cluster: Cluster, node: str) -> bool:
    """Whether that node is on a ring with all others: else a change that is begun there leaves
    behind those whom it has forgotten in a restart, as it may."""
    engine = cluster.hosts[int(node)].engine
    every = {host.node for host in cluster.hosts.values()}
    return engine is not None and set(engine.members) == every


def _rotate(running: Running, node: str) -> None:
    """Change the ring's key, where it has one."""
    cluster = running.cluster
    if cluster.sealed and _is_whole(cluster, node):
        new = Key(Random(f"rotate {node} {cluster.now}").randbytes(32))
        with suppress(MisuseError):  # it is being changed already
            cluster.change_key(int(node), new)


def _reload(running: Running, node: str, window_packets: str) -> None:
    """Change the settings of the whole ring."""
    cluster = running.cluster
    engine = cluster.hosts[int(node)].engine
    if engine is not None and _is_whole(cluster, node):
        new = engine.agreement.settings.model_copy(update={"window_packets": int(window_packets)})
        with suppress(MisuseError):
            cluster.change_settings(int(node), new)


def _send(
    running: Running,
    node: str,
    count: str = "1",
    size: str = "100",
    guarantee: str = "agreed",
    priority: str = "medium",
) -> None:
    cluster = running.cluster
    engine = cluster.hosts[int(node)].engine
    for _ in range(int(count)):
        if engine is not None and engine.pending_bytes <= PENDING_BYTES_MAX:
            cluster.submit(
                int(node), int(size), Guarantee[guarantee.upper()], Priority[priority.upper()]
            )


def _join(running: Running, node: str, session: str, group: str, closed: str = "") -> None:
    running.cluster.join(int(node), int(session), group, closed=closed == "closed")


def _quit(running: Running, node: str, session: str, group: str) -> None:
    running.cluster.quit(int(node), int(session), group)


def _die(running: Running, node: str, session: str) -> None:
    running.cluster.end_session(int(node), int(session))


STEPS: Final[Mapping[str, Callable[..., None]]] = {
    "start": _start,  # start NODE…
    "crash": _crash,  # crash NODE…
    "restart": _restart,  # restart NODE…
    "leave": _leave,  # leave NODE…
    "pause": _pause,  # pause NODE [SECONDS]
    "resume": _resume,  # resume [NODE…]
    "freeze": _freeze,  # freeze NODE SECONDS: its clock stands still, too
    "starve": _starve,  # starve NODE SECONDS: it gets little of the processor
    "block": _block,  # block NODE [SECONDS]: its application is slow
    "release": _release,  # release NODE: it is slow no more
    "partition": _partition,  # partition SIDE…, a side as 1,2
    "cut": _cut,  # cut FROM TO, one way
    "heal": _heal,  # heal
    "link": _link,  # link NUMBER LOSS
    "close": _close,  # close NODE LINK SECONDS
    "conditions": _conditions,  # conditions LOSS DUPLICATION SPIKES
    "drop": _rule(Action.DROP),  # drop FRAME [COUNT [FROM [TO]]]
    "repeat": _rule(Action.REPEAT),  # repeat FRAME [COUNT [FROM [TO]]]
    "delay": _rule(Action.DELAY),  # delay FRAME [COUNT [FROM [TO]]]
    "rotate": _rotate,  # rotate NODE: change the ring's key
    "reload": _reload,  # reload NODE PACKETS: change the ring's window
    "join": _join,  # join NODE SESSION GROUP [closed]
    "quit": _quit,  # quit NODE SESSION GROUP
    "die": _die,  # die NODE SESSION: its process, not the node
    "send": _send,  # send NODE [COUNT [SIZE [GUARANTEE [PRIORITY]]]]
}
"""Every step by its first word."""


# --- from a seed --------------------------------------------------------------------------------


def random_settings(random: Random) -> tuple[RingSettings, int]:
    """Settings of a seed's run, and its largest packet."""
    settings = RingSettings(
        transport="simulated",
        preset=random.choice(["lan", "lan", "loopback"]),
        accelerated_packets=random.choice([0, 264]),
        window_packets=random.choice([8, 64, 1024]),
    )
    return settings, random.choice([400, 1472])


def random_wires(random: Random) -> Wires:
    """How the nodes of a seed's run are connected: mostly once, and without seals."""
    return Wires(
        links=random.choice([1, 1, 1, 2, 3]),
        mode=random.choice(list(Mode)),
        sealed=random.random() < 0.3,
    )


def random_link_faults(random: Random, links: int, nodes: int) -> list[Step]:
    """What befalls links of a run that has several: one at a time, mostly."""
    steps = []
    for _ in range(random.choice([0, 0, 1, 3]) if links > 1 else 0):
        node, number = str(random.randint(1, nodes)), str(random.randint(1, links))
        at_s = _time(random, FAULTS_FROM_S, FAULTS_UNTIL_S)
        closed_s = min(random.choice([0.01, 0.3, 1.5]), FAULTS_UNTIL_S - at_s)
        steps.append(Step(at_s, ("close", node, number, str(round(closed_s, 4)))))
    for _ in range(random.choice([0, 1, 2, 4]) if links > 1 else 0):
        number, at_s = str(random.randint(1, links)), _time(random, FAULTS_FROM_S, FAULTS_UNTIL_S)
        steps.append(Step(at_s, ("link", number, random.choice(["1", "1", "0.3", "0.05"]))))
        end_s = min(at_s + random.choice([0.05, 0.5, 1.5]), FAULTS_UNTIL_S)
        steps.append(Step(round(end_s, 4), ("link", number, "0")))
    return steps


def random_changes(random: Random, nodes: int) -> list[Step]:
    """Changes of the ring's key and settings while it is ill-treated.

    All settings that are asked for are the same: two sides that choose differently are two rings
    from then on, until somebody decides.
    """
    steps = []
    window_packets = str(random.choice([8, 60, 1000]))
    for _ in range(random.choice([0, 0, 1, 2, 4])):
        at_s = _time(random, FAULTS_FROM_S, FAULTS_UNTIL_S)
        words = random.choice(
            [
                ("rotate", _node(random, nodes)),
                ("reload", _node(random, nodes), window_packets),
            ]
        )
        steps.append(Step(at_s, words))
        if random.random() < 0.3:  # at once, elsewhere
            steps.append(Step(at_s, (words[0], _node(random, nodes), *words[2:])))
    return steps


def random_schedule(random: Random, nodes: int) -> tuple[Step, ...]:
    """Everything that happens in a seed's run, in the order of time."""
    every = range(1, nodes + 1)
    steps = [Step(_time(random, 0, 0.3), ("start", str(node))) for node in every]
    if random.random() < 0.7:  # all at once
        steps = [Step(0.0, step.words) for step in steps]
    count = random.choice([3, 5, 8, 12])
    pick = random.choices(tuple(FAULTS), weights=[weight for _, weight in FAULTS.values()], k=count)
    # Faults that fall together are the cruel ones.
    clusters = [_time(random, FAULTS_FROM_S, FAULTS_UNTIL_S) for _ in range(max(1, count // 2))]
    for word in pick:
        at_s = random.choice(clusters) + random.choice([0.0, 0.002, 0.02, 0.1, 0.3])
        at_s += random.uniform(0, 0.01)
        make, _ = FAULTS[word]
        steps.append(Step(round(min(at_s, FAULTS_UNTIL_S), 4), make(random, nodes)))
    for at_s in clusters:
        steps += _random_storm(random, nodes, at_s)
    for _ in range(random.choice([0, 1, 2, 3])):
        steps += _random_ambush(random, nodes, _time(random, FAULTS_FROM_S, FAULTS_UNTIL_S - 0.1))
    steps += _random_load(random, nodes)
    steps += _random_groups(random, nodes, [step.at_s for step in steps])
    return tuple(sorted(steps, key=lambda step: step.at_s))


def _time(random: Random, first: float, last: float) -> float:
    return round(random.uniform(first, last), 4)


def _random_storm(random: Random, nodes: int, at_s: float) -> list[Step]:
    """Everyone sends while packets get lost, just when a fault comes: then messages are at some
    nodes only, and recovery has work to do.
    """
    loss = random.choice([0.0, 0.05, 0.2, 0.4])
    began_s = at_s - random.uniform(0.001, 0.02)
    steps = [Step(round(began_s, 4), ("conditions", str(loss), "0.0", "0.0"))] if loss else []
    guarantees = random.choice([["safe"], ["agreed"], ["unordered", "fifo", "agreed", "safe"]])
    for _ in range(random.choice([2, 5, 15])):
        words = (_node(random, nodes), random.choice(["1", "3"]), random.choice(["10", "1000"]))
        sent_s = began_s + random.uniform(0, 0.03)
        steps.append(Step(round(sent_s, 4), ("send", *words, random.choice(guarantees))))
    if loss and random.random() < 0.5:
        steps.append(Step(round(at_s + 0.3, 4), ("conditions", "0.0", "0.0", "0.0")))
    return steps


def _random_ambush(random: Random, nodes: int, at_s: float) -> list[Step]:
    """One side misses a few frames, or all, and loses the other side before they are repaired."""
    every = range(1, nodes + 1)
    side = [node for node in every if random.random() < 0.5] or [nodes]
    others = [node for node in every if node not in side]
    count = random.choice(["1", "2", "500"])
    steps = [Step(at_s, ("drop", "data", count, "*", str(node))) for node in side]
    for _ in range(random.choice([1, 3, 6])):
        words = (_node(random, nodes), random.choice(["1", "4"]), "300")
        guarantee = random.choice(["agreed", "safe", "safe", "fifo"])
        sent_s = at_s + random.uniform(0, 0.002)
        steps.append(Step(round(sent_s, 5), ("send", *words, guarantee)))
    cut_s = round(at_s + random.uniform(0.0005, 0.006), 5)
    if others and random.random() < 0.3:
        steps.append(Step(cut_s, ("crash", *map(str, others))))
        steps.append(Step(round(cut_s + 0.5, 5), ("start", *map(str, others))))
    else:
        steps.append(Step(cut_s, ("partition", ",".join(map(str, side)))))
    return steps


def _random_load(random: Random, nodes: int) -> list[Step]:
    steps: list[Step] = []
    at_s = 0.05
    pace_s = random.choice([0.01, 0.03, 0.08])
    while at_s < FAULTS_UNTIL_S:
        steps.append(
            Step(
                round(at_s, 4),
                (
                    "send",
                    str(random.randint(1, nodes)),
                    str(random.choice([1, 1, 5, 20])),
                    str(random.choice([0, 1, 100, 100, 3000, 20000])),
                    random.choice(list(Guarantee)).word,
                    random.choice(list(Priority)).word,
                ),
            )
        )
        at_s += random.uniform(0.0, 2 * pace_s)
    return steps


def _random_groups(random: Random, nodes: int, busy_s: list[float]) -> list[Step]:
    """Sessions that come and go, mostly just when something else happens."""
    steps: list[Step] = []
    for _ in range(random.choice([0, 6, 15, 40])):
        at_s = random.choice(busy_s) + random.choice([0.0, 0.001, 0.005, 0.05, 0.12])
        member = (_node(random, nodes), str(random.randint(1, 3)))
        group = random.choice(("aa", "bb", "cc"))
        closed = ("closed",) if random.random() < 0.2 else ()
        words = random.choice(
            [("join", *member, group, *closed)] * 5 + [("quit", *member, group), ("die", *member)]
        )
        steps.append(Step(round(min(at_s, FAULTS_UNTIL_S), 4), words))
    return steps


def _node(random: Random, nodes: int) -> str:
    return str(random.randint(1, nodes))


def _one(word: str) -> Callable[[Random, int], tuple[str, ...]]:
    return lambda random, nodes: (word, _node(random, nodes))


def _some(word: str) -> Callable[[Random, int], tuple[str, ...]]:
    def make(random: Random, nodes: int) -> tuple[str, ...]:
        chosen = random.sample(
            range(1, nodes + 1), random.randint(2, nodes - 1) if nodes > 2 else 1
        )
        return (word, *map(str, sorted(chosen)))

    return make


def _for_a_time(word: str, longest_s: float) -> Callable[[Random, int], tuple[str, ...]]:
    return lambda random, nodes: (
        word,
        _node(random, nodes),
        f"{random.uniform(0.01, longest_s):.3f}",
    )


def _random_partition(random: Random, nodes: int) -> tuple[str, ...]:
    sides: dict[int, list[str]] = {}
    count = random.choice([2, 2, 2, 3])
    for node in range(1, nodes + 1):
        sides.setdefault(random.randrange(count), []).append(str(node))
    return ("partition", *(",".join(side) for side in sides.values()))


def _random_cut(random: Random, nodes: int) -> tuple[str, ...]:
    sender, receiver = random.sample([*map(str, range(1, nodes + 1)), "*"], 2)
    return ("cut", sender, receiver)


def _random_conditions(random: Random, nodes: int) -> tuple[str, ...]:
    del nodes
    return (
        "conditions",
        str(random.choice([0.0, 0.01, 0.05, 0.2])),
        str(random.choice([0.0, 0.0, 0.05])),
        str(random.choice([0.0, 0.0, 0.01, 0.1])),
    )


def _random_rule(word: str) -> Callable[[Random, int], tuple[str, ...]]:
    def make(random: Random, nodes: int) -> tuple[str, ...]:
        frame = random.choice(list(FrameType)).name.lower()
        receiver = random.choice(["*", _node(random, nodes)])
        return (word, frame, str(random.choice([1, 2, 5, 10])), "*", receiver)

    return make


FAULTS: Final[Mapping[str, tuple[Callable[[Random, int], tuple[str, ...]], float]]] = {
    "crash": (_one("crash"), 2),
    "restart": (_one("restart"), 3),
    "crash some": (_some("crash"), 0.5),
    "restart some": (_some("restart"), 1),
    "leave": (_one("leave"), 1),
    "pause": (_for_a_time("pause", 1.0), 2),
    "freeze": (_for_a_time("freeze", 1.5), 1),
    "starve": (_for_a_time("starve", 1.5), 1),
    "block": (_for_a_time("block", 0.3), 1),
    "partition": (_random_partition, 3),
    "cut": (_random_cut, 1.5),
    "heal": (lambda random, nodes: ("heal",), 3),
    "conditions": (_random_conditions, 2),
    "drop": (_random_rule("drop"), 2),
    "repeat": (_random_rule("repeat"), 1),
    "delay": (_random_rule("delay"), 1),
}
"""What may happen in a seed's run: how a step is made, and how often next to the others."""
