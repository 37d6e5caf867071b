"""The demo without a screen: a script is carried out, and what happens is told line by line."""

import time
from typing import Any

import anyio
import rich_click as click

from vsync_cli.demo.cluster import LOOK_S, Cluster, until
from vsync_cli.demo.follower import configuration_text
from vsync_cli.demo.processes import Condition, NodeProcess
from vsync_cli.demo.script import Step


class Teller:
    """Carries a script out and prints plain lines."""

    def __init__(self, cluster: Cluster, *, with_messages: bool) -> None:
        self._cluster = cluster
        self._with_messages = with_messages
        self._began = time.monotonic()
        self._numbers: dict[int, int] = {}
        cluster.on_line(self._tell_line)

    async def run(self, steps: list[Step]) -> list[str]:
        """Carry out all steps; give what went wrong, as sentences."""
        for step in steps:
            wrong = await self._carry_out(step)
            if wrong is not None:
                return [wrong]
        return await self._conclude()

    async def _carry_out(self, step: Step) -> str | None:
        if step.verb != "wait":
            self._tell(f"> {step.source}")
        if step.verb == "wait":
            await anyio.sleep(step.seconds)
        elif step.verb == "settle":
            began = time.monotonic()
            wrong = await self._cluster.settle()
            if wrong is not None:
                return f"after {time.monotonic() - began:.0f} s {wrong}"
        else:
            assert step.node is not None
            node = self._cluster.node(step.node)
            if step.verb == "restart" and node.condition is not Condition.ENDED:
                return f"the script restarts node {step.node}, which runs; kill it first"
            if step.verb == "restart":
                # It was asked to leave, and is about to.
                await until(lambda: not node.has_process, LOOK_S)
            self._cluster.do(step.verb, step.node, step.text)
        return None

    async def _conclude(self) -> list[str]:
        """See that at the end all live nodes are in one configuration."""
        cut = [node.node for node in self._cluster.nodes if node.live and node.cut]
        wrong = [f"at the end node {number} is still cut off; heal it" for number in cut]
        disagreement = None if cut else await self._cluster.settle()
        if disagreement is not None:
            wrong.append(f"at the end {disagreement}")
        if not any(node.live for node in self._cluster.nodes):
            wrong.append("at the end no node is alive; restart one")
        if not wrong:
            await self._cluster.quiet()
            live = [node for node in self._cluster.nodes if node.live]
            configuration = live[0].follower.configuration
            assert configuration is not None
            self._tell(
                f"{len(live)} live nodes have configuration {configuration['id']}; they delivered "
                + ", ".join(f"{node.follower.delivered} (node {node.node})" for node in live)
                + " messages in this life."
            )
        return wrong

    def _tell_line(self, node: NodeProcess, line: dict[str, Any]) -> None:
        match line["event"]:
            case "configuration":
                self._numbers[node.node] *= line["kind"] != "regular"
                self._tell(f"  node {node.node}: {configuration_text(line)}")
            case "deliver":
                number = "-"
                if line["guarantee"] in ("agreed", "safe"):
                    self._numbers[node.node] += 1
                    number = str(self._numbers[node.node])
                if self._with_messages:
                    text = self._cluster.texts.get(line["message"], line["message"])
                    self._tell(
                        f"  node {node.node}: message {number} from {line['sender']}: {text}"
                    )
            case "start":
                self._numbers[node.node] = 0
                self._tell(f"  node {node.node}: started, life {line['life']}")
            case "stop":
                self._tell(f"  node {node.node}: stopped: {line['reason']}")

    def _tell(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._began:6.2f}  {text}")
