"""The live picture of the demo: three nodes side by side, and the keys that harm them."""

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from vsync_cli.demo.cluster import Cluster
from vsync_cli.demo.processes import Condition, NodeProcess

REFRESH_S: Final = 0.1

HELP: Final = (
    ("1 2 3", "choose a node"),
    ("k", "kill -9"),
    ("l", "leave"),
    ("r", "restart"),
    ("p", "pause or continue"),
    ("c", "cut off"),
    ("h", "heal"),
    ("s", "send"),
    ("q", "quit"),
)

_VERBS: Final = {"k": "kill", "l": "leave", "r": "restart", "c": "cut", "h": "heal", "s": "send"}

CONFIGURATIONS_SHOWN: Final = 6

_STATE_STYLES: Final = {
    "operational": "bold green",
    "paused": "bold yellow",
    "ended": "bold red",
}


class Screen:
    """What is shown, and which node the keys are for."""

    def __init__(self, cluster: Cluster, console: Console) -> None:
        self._cluster = cluster
        self._console = console
        self._selected = 1
        self._said = "Choose a node with 1, 2 or 3; then kill, pause or cut it, and see the others."
        self._finished = anyio.Event()

    async def run(self) -> None:
        """Show the cluster and obey the keys, until ``q``."""
        with (
            _keys_at_once(),
            Live(self._picture(), console=self._console, screen=True, auto_refresh=False) as live,
        ):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_keys)
                tasks.start_soon(self._refresh, live)
                await self._finished.wait()
                tasks.cancel_scope.cancel()

    async def _refresh(self, live: Live) -> None:
        while True:
            live.update(self._picture(), refresh=True)
            await anyio.sleep(REFRESH_S)

    async def _read_keys(self) -> None:
        while True:
            await anyio.wait_readable(sys.stdin)
            typed = os.read(sys.stdin.fileno(), 64)
            if not typed:  # the terminal is gone
                self._finished.set()
                return
            for key in typed.decode(errors="replace"):
                self._press(key.lower())

    def _press(self, key: str) -> None:
        node = self._cluster.node(self._selected)
        if key == "q":
            self._finished.set()
        elif key in "123" and key:
            self._selected = int(key)
            self._said = f"The keys are for node {key} now."
        elif key == "p":
            if node.condition is Condition.PAUSED:
                node.resume()
                self._said = f"Node {node.node} goes on (SIGCONT)."
            elif node.condition is Condition.RUNNING:
                node.pause()
                self._said = f"Node {node.node} is stopped where it stands (SIGSTOP)."
        elif key == "r" and node.condition is not Condition.ENDED:
            self._said = f"Node {node.node} runs; kill it first, or let it leave."
        elif key in _VERBS:
            self._cluster.do(_VERBS[key], node.node)
            self._said = {
                "k": f"Node {node.node} was killed (SIGKILL).",
                "l": f"Node {node.node} was asked to leave (SIGTERM).",
                "r": f"Node {node.node} starts a new life.",
                "c": f"Node {node.node} is cut off: no packet comes in or goes out.",
                "h": f"Node {node.node} has its network back.",
                "s": f"Node {node.node} sends a message.",
            }[key]

    def _picture(self) -> Layout:
        height = self._console.size.height
        layout = Layout()
        layout.split_column(Layout(name="nodes"), Layout(self._bottom(), name="help", size=2))
        layout["nodes"].split_row(
            *(Layout(self._panel(node, height - 4)) for node in self._cluster.nodes)
        )
        return layout

    def _bottom(self) -> RenderableType:
        keys = Text(no_wrap=True, overflow="ellipsis")
        for key, meaning in HELP:
            keys.append(f" {key} ", style="reverse")
            keys.append(f" {meaning}  ")
        return Group(Text(f" {self._said}", no_wrap=True, overflow="ellipsis"), keys)

    def _panel(self, node: NodeProcess, height: int) -> Panel:
        follower = node.follower
        lines = [self._state(node)]
        configuration = follower.configuration
        if node.condition is not Condition.ENDED and configuration is not None:
            members = " ".join(map(str, configuration["members"]))
            lines.append(Text.assemble("members  ", (members, "bold")))
        else:
            lines.append(Text("members  -"))
        lines.append(Text(f"sent {follower.sent}, delivered {follower.delivered}", style="dim"))
        lines.append(Text("configurations", style="underline"))
        for told in list(follower.configurations)[-CONFIGURATIONS_SHOWN:]:
            mark = "R" if told["kind"] == "regular" else "T"
            lines.append(
                Text.assemble(
                    (f"{mark} ", "green" if mark == "R" else "yellow"),
                    f"{told['id']}: ",
                    (" ".join(map(str, told["members"])), "bold"),
                    *((f" +{who}", "green") for who in told["joined"]),
                    *((f" -{who}", "red") for who in told["left"]),
                )
            )
        lines.append(Text("messages (number in the total order)", style="underline"))
        room = max(0, height - len(lines))
        for shown in list(follower.messages)[-room:] if room else []:
            if shown.sender is None:
                lines.append(Text(f"──── {shown.guarantee} {shown.message} ────", style="dim"))
                continue
            number = "-" if shown.number is None else str(shown.number)
            text = self._cluster.texts.get(shown.message, shown.message)
            lines.append(
                Text.assemble(
                    (f"{number:>4} ", "cyan"),
                    (f"{shown.sender}: ", "bold"),
                    f"{text} ",
                    (f"({shown.guarantee})", "dim"),
                )
            )
        for line in lines:
            line.no_wrap = True
            line.overflow = "ellipsis"
        selected = node.node == self._selected
        return Panel(
            Group(*lines),
            title=f"node {node.node}{' ◀' if selected else ''}",
            border_style="bold cyan" if selected else "dim",
        )

    @staticmethod
    def _state(node: NodeProcess) -> Text:
        if node.condition is Condition.ENDED:
            word, more = "ended", f" ({node.why_ended})"
        elif node.condition is Condition.PAUSED:
            word, more = "paused", ""
        else:
            word, more = (node.status["state"] if node.status else "starting"), ""
        text = Text.assemble("state    ", (word, _STATE_STYLES.get(word, "bold magenta")), more)
        if node.cut:
            text.append(" cut off", style="bold red")
        return text


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Read keys without Enter and without echo; put the terminal back in any case."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    # Ctrl-Z would leave the shell on our screen, and the nodes without anyone to end them.
    stopping = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTSTP, stopping)
