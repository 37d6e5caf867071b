"""``vsync dissect``: names what is in a capture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from vsync_cli.dissect.capture import Captured, read_capture
from vsync_cli.dissect.layers import Answer, Dissected, dissect
from vsync_cli.extensions import hosts_of
from vsync_cli.parameters import json_option
from vsync_cli.render import json_line


@click.command(name="dissect")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--all", "everything", is_flag=True, help="Packets that are no ring's, too.")
@json_option
def dissect_command(file: Path, everything: bool, as_json: bool) -> None:
    """Name the packets of rings in a capture: FILE is a pcap or pcapng file, as tcpdump writes it.

    Shows a line for each packet: its number, the seconds since the first one, and its layers.
    Transports add what they know: vsync-transport-ib reads InfiniBand and RoCE.
    """
    ask = asker()
    first_s = None
    for number, packet in enumerate(read_capture(file), 1):
        first_s = packet.at_s if first_s is None else first_s
        dissected = dissect(packet, ask)
        if not (everything or dissected.ours):
            continue
        if as_json:
            click.echo(json_line(record(number, packet, dissected)))
        else:
            click.echo(f"{number:>6} {packet.at_s - first_s:>10.6f}  {text(dissected)}")


def asker() -> Any:
    """Asks every plugin that has the hook ``vsync_dissect``; the first answer counts."""
    hosts = hosts_of("vsync_dissect")

    def ask(carrier: str, data: bytes, before: bytes) -> Answer:
        for host in hosts:
            for answer in host.vsync_dissect(carrier=carrier, data=data, before=before):
                if answer is not None:
                    found: Answer = answer
                    return found
        return None

    return ask


def record(number: int, packet: Captured, dissected: Dissected) -> dict[str, Any]:
    """JSON-ready."""
    layers = [{"layer": name, **facts} for name, facts in dissected.layers]
    return {"number": number, "at_s": packet.at_s, "bytes": packet.whole_bytes, "layers": layers}


def text(dissected: Dissected) -> str:
    """The layers on one line."""
    return " | ".join(said(name, facts) for name, facts in dissected.layers) or "not a ring's"


def said(name: str, facts: Mapping[str, Any]) -> str:
    """One layer."""
    if name == "udp":
        ports: Sequence[int] = facts["ports"]
        return f"udp {facts['from']}:{ports[0]} > {facts['to']}:{ports[1]}"
    words = [f"{key} {value}" for key, value in facts.items() if value not in (None, [], {}, "")]
    return f"{name}: {', '.join(words)}" if words else name
