"""Scenario files: what is done to a cluster, ``----``, and what every node then said.

    # Two sides that were apart meet again.
    nodes 3
    start
    settle
    partition 1
    settle
    heal
    settle
    ----
    node 1
      configuration 2.1 regular: 1 2 3 (joined 1 2 3)
      …

Above the line stand the steps of ``vsync.testing.faults``, without times, and the commands of
``COMMANDS``. Below it stands what the application at each node was told, without times, and what
``show`` asked for. Whatever is written there, the run must also hold every property, and it must
have settled by its end. With ``VSYNC_REWRITE=1`` the part below is written anew: read the
difference before you believe it.
"""

import difflib
import os
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vsync.engine import State
from vsync.errors import VsyncError
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster, Host, Line
from vsync.testing.faults import STEPS, Running
from vsync.vocabulary import Guarantee, NodeId, Priority
from vsync.wire.header import FrameType

BAR: Final = "----"
REWRITE_VARIABLE: Final = "VSYNC_REWRITE"
SEED: Final = 7
AWAIT_MOST_S: Final = 10.0
IDS_SHOWN: Final = 12
"""So many message ids are listed in a row; of more, only the first and the last."""


class ScenarioFailed(VsyncError):
    """A scenario file cannot be read, or what it says is not what happened."""


@dataclass
class Scene:
    """One scenario while it is played."""

    settings: dict[str, object] = field(default_factory=dict)
    nodes: int = 3
    packet_bytes_max: int = 1472
    receive_buffer_bytes: int = 4 << 20
    kept: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    said: dict[int, list[str]] = field(default_factory=dict)
    made: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """The cluster; made when it is first needed, since settings come before."""
        if self.made is None:
            self.made = Cluster(
                self.nodes,
                SEED,
                settings=RingSettings.model_validate({"transport": "simulated", **self.settings}),
                packet_bytes_max=self.packet_bytes_max,
                receive_buffer_bytes=self.receive_buffer_bytes,
            )
            self.made.on_line = self.note
        return self.made

    def note(self, host: Host, line: Line) -> None:
        """Keep what the application of *host* was told."""
        text = _told(line)
        if text is not None:
            self.said.setdefault(host.number, []).append(text)

    def transcript(self) -> str:
        """What every node said."""
        out: list[str] = []
        for number in sorted(self.cluster.hosts):
            out.append(f"node {number}")
            out += [f"  {text}" for text in _gathered(self.said.get(number, []))]
        return "\n".join(out) + "\n"


# --- what a node was told -----------------------------------------------------------------------


def _told(line: Line) -> str | None:
    match line["event"]:
        case "start":
            return f"start life {line['life']}"
        case "configuration":
            changes = "".join(
                f" ({word} {' '.join(map(str, line[word]))})"
                for word in ("joined", "left")
                if line[word]
            )
            members = " ".join(map(str, line["members"]))
            return f"configuration {line['id']} {line['kind']}: {members}{changes}"
        case "deliver":
            return f"deliver {line['guarantee']} {line['message']}"
        case "stop":
            return f"stop: {line['reason']}"
    return None


def _gathered(texts: list[str]) -> Iterator[str]:
    """Deliveries of the same kind in a row become one line."""
    row: list[str] = []
    kind = ""
    for text in [*texts, ""]:
        words = text.split()
        this = " ".join(words[:2]) if words[:1] == ["deliver"] else ""
        if row and this != kind:
            yield f"{kind} {_ids(row)}"
            row = []
        kind = this
        if this:
            row.append(words[2])
        elif text:
            yield text


def _ids(ids: list[str]) -> str:
    if len(ids) <= IDS_SHOWN:
        return " ".join(ids)
    return f"{ids[0]} … {ids[-1]} ({len(ids)} messages)"


# --- commands -----------------------------------------------------------------------------------


def _nodes(scene: Scene, count: str) -> None:
    """nodes COUNT"""
    scene.nodes = int(count)


def _set(scene: Scene, name: str, value: str) -> None:
    """set SETTING VALUE: of [ring], or packet_bytes_max, receive_buffer_bytes"""
    if name in ("packet_bytes_max", "receive_buffer_bytes"):
        setattr(scene, name, int(value))
    else:
        scene.settings[name] = value


def _run(scene: Scene, seconds: str) -> None:
    """run SECONDS"""
    scene.cluster.run(float(seconds))


def _settle(scene: Scene, most_s: str = "10") -> None:
    """settle [SECONDS]: run until nothing changes any more"""
    if not scene.cluster.settle(float(most_s)):
        raise ScenarioFailed(f"the cluster did not settle within {most_s} s")


def _await(scene: Scene, state: str, *numbers: str) -> None:
    """await STATE NODE…: run until those nodes are in that state of the engine"""
    cluster = scene.cluster
    wanted = State[state.upper()]

    def there() -> bool:
        engines = [cluster.hosts[int(number)].engine for number in numbers]
        return all(engine is not None and engine.state is wanted for engine in engines)

    if not cluster.run_until(there, AWAIT_MOST_S):
        raise ScenarioFailed(f"{' '.join(numbers)}: not {state} within {AWAIT_MOST_S:g} s")


def _write(
    scene: Scene,
    node: str,
    text: str,
    guarantee: str = "agreed",
    priority: str = "medium",
) -> None:
    """write NODE TEXT [GUARANTEE [PRIORITY]]: send one message, which must be accepted"""
    message = scene.cluster.submit(
        int(node), text.encode(), Guarantee[guarantee.upper()], Priority[priority.upper()]
    )
    if message is None:
        raise ScenarioFailed(f"node {node} cannot send now")


def _twin(scene: Scene, number: str, node: str) -> None:
    """twin HOST NODE: one more host, whose node has the id of another, by mistake"""
    scene.cluster.add(int(number), NodeId(int(node)))


def _keep(scene: Scene, name: str, frame: str, sender: str) -> None:
    """keep NAME FRAME NODE: remember the last packet of that type that the node sent"""
    packet = scene.cluster.network.latest.get((int(sender), FrameType[frame.upper()]))
    if packet is None:
        raise ScenarioFailed(f"node {sender} has sent no {frame} yet")
    scene.kept[name] = (packet, int(sender))


def _replay(scene: Scene, name: str, *receivers: str) -> None:
    """replay NAME NODE…: let a kept packet arrive now, once more"""
    packet, sender = scene.kept[name]
    for receiver in receivers:
        scene.cluster.network.inject(packet, sender, int(receiver), scene.cluster.now)


def _spoil(scene: Scene, name: str, how: str, *receivers: str) -> None:
    """spoil NAME garbage|truncated|damaged|foreign NODE…: let what became of it arrive"""
    packet, sender = scene.kept[name]
    match how:
        case "garbage":
            packets = [bytes(40), b"", b"V", bytes(range(256)) * 5]
        case "truncated":
            packets = [packet[:length] for length in range(len(packet))]
        case "damaged":
            packets = [
                packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :]
                for at in range(len(packet))
            ]
        case "foreign":
            body = b"\0\0\0\1" + packet[12:]
            packets = [packet[:4] + zlib.crc32(body).to_bytes(4, "big") + body]
        case _:
            raise ScenarioFailed(f"{how!r} is no way to spoil a packet")
    for receiver in receivers:
        for spoiled in packets:
            scene.cluster.network.inject(spoiled, sender, int(receiver), scene.cluster.now)


def _mark(scene: Scene, *words: str) -> None:
    """mark TEXT: write that down for every node, to tell what was before from what came after"""
    for number in scene.cluster.hosts:
        scene.said.setdefault(number, []).append(f"-- {' '.join(words)}")


def _show(scene: Scene, what: str) -> None:
    """show COUNTER | blocked_by | failure | state: write it down for every node"""
    for host in scene.cluster.hosts.values():
        engine = host.engine
        if what == "failure":
            text = f"failure: {host.failure or 'none'}"
        elif engine is None:
            text = f"{what}: nothing runs"
        elif what in ("blocked_by", "state"):
            value = getattr(engine, what)
            text = f"{what}: {value.name.lower() if isinstance(value, State) else value}"
        else:
            text = f"{what}: {engine.counters[what]}"
        scene.said.setdefault(host.number, []).append(text)


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "nodes": _nodes,
    "set": _set,
    "run": _run,
    "settle": _settle,
    "await": _await,
    "write": _write,
    "twin": _twin,
    "keep": _keep,
    "replay": _replay,
    "spoil": _spoil,
    "mark": _mark,
    "show": _show,
}
"""What a scenario may do beyond ``vsync.testing.faults.STEPS``."""


# --- a file -------------------------------------------------------------------------------------


def play(script: str) -> str:
    """Do what stands above the bar; what every node said. Raises ScenarioFailed with the line."""
    scene = Scene()
    for number, line in enumerate(script.splitlines(), 1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        try:
            if words[0] in COMMANDS:
                COMMANDS[words[0]](scene, *words[1:])
            elif words[0] in STEPS:
                # Steps that undo themselves later do not fit: a scenario says `run` in between.
                STEPS[words[0]](Running(scene.cluster, _never), *words[1:])
            else:
                known = ", ".join([*COMMANDS, *STEPS])
                raise ScenarioFailed(f"{words[0]!r} is no command; known are {known}")
        except Exception as error:
            error.add_note(f"in line {number} of the scenario: {line}")
            raise
    cluster = scene.cluster
    if not cluster.settle():
        raise ScenarioFailed("the cluster had not settled when the scenario ended")
    findings = cluster.check(quiet=True)
    if not findings.holds:
        breaches = "\n".join(
            f"  {breach.property}: {breach.text}" for breach in findings.violations
        )
        raise ScenarioFailed(f"the run does not hold the properties:\n{breaches}")
    return scene.transcript()


def _never(seconds: float, action: Callable[[], None]) -> None:
    del seconds, action
    raise ScenarioFailed("a scenario says when a fault ends by a command of its own")


def rewriting() -> bool:
    """Whether the environment asks for scenario files to be rewritten."""
    return os.environ.get(REWRITE_VARIABLE) == "1"


def check_scenario(path: Path, *, rewrite: bool = False) -> None:
    """Play a scenario file and hold it against what it says. Raises ScenarioFailed.

    With *rewrite*, the file is made to say what happened.
    """
    script, bar, told = path.read_text().partition(f"{BAR}\n")
    happened = play(script)
    if rewrite:
        path.write_text(f"{script}{BAR}\n{happened}")
    elif not bar:
        raise ScenarioFailed(
            f"{path.name} has no {BAR}: run it once with {REWRITE_VARIABLE}=1 and read the result"
        )
    elif told != happened:
        difference = "\n".join(
            difflib.unified_diff(
                told.splitlines(), happened.splitlines(), "written", "happened", lineterm=""
            )
        )
        raise ScenarioFailed(
            f"{path.name} tells something else:\n{difference}\n"
            f"If that is right, rewrite it with {REWRITE_VARIABLE}=1."
        )
