"""``vsync init``: write a settings file in which every setting is explained."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import rich_click as click
from pydantic import BaseModel, ValidationError

from vsync.errors import MisuseError
from vsync.plugins import load_transport
from vsync.settings import DaemonSection, NodeSection, RingSettings, SecuritySection
from vsync.vocabulary import NODE_ID_MAX
from vsync_cli.explain import meanings_of, to_toml

WIDTH: Final = 96

WRITTEN: Final[dict[str, set[str]]] = {
    "node": {"id"},
    "ring": {"name", "transport", "preset"},
    "transport.udp": {"bind"},
    "transport.udpu": {"bind", "port"},  # and of peers and seeds what is not empty
    "daemon": set(),
    "security": set(),
}
"""What is not commented out: what a user should look at first."""

PORT: Final = 5405
TRIAL_NODES: Final = 3


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("node.toml"))
@click.option(
    "--id",
    "node",
    type=click.IntRange(1, NODE_ID_MAX),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="The node's number, different on every node of a ring.",
)
@click.option("--ring", default="vsync", show_default=True, metavar="NAME", help="The ring's name.")
@click.option(
    "--transport",
    type=click.Choice(["udp", "udpu"]),
    default="udp",
    show_default=True,
    help="udp: multicast. udpu: unicast to each node, for networks without multicast.",
)
@click.option(
    "--bind",
    default="127.0.0.1",
    show_default=True,
    metavar="WHERE",
    help="The interface: an address of it, its name, or its network.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="HOST:PORT",
    help="With udpu: a node of the ring. Name all; this one may be among them.",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="HOST:PORT",
    help="With udpu: a node from which to learn of all others. Name two or three.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def init(
    file: Path,
    node: int,
    ring: str,
    transport: str,
    bind: str,
    peers: tuple[str, ...],
    seeds: tuple[str, ...],
    force: bool,
) -> None:
    """Write a settings FILE (node.toml) in which every setting is explained. It asks nothing."""
    if transport == "udpu":
        place = unicast(node, bind, peers, seeds)
    elif peers or seeds:
        raise MisuseError("--peer and --seed belong to --transport udpu; multicast needs neither")
    else:
        place = {"bind": bind}
    sections = {
        "node": made(NodeSection, id=node),
        "ring": made(RingSettings, name=ring, transport=transport, preset="lan"),
        f"transport.{transport}": made(load_transport(transport).SETTINGS, **place),
        "daemon": made(DaemonSection),
        "security": made(SecuritySection),
    }
    text = "\n".join(lines(sections)) + "\n"
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise MisuseError(f"{file} is there already; --force replaces it") from error
    except OSError as error:
        raise MisuseError(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{file} is written. Look at it, then: vsync run -c {file}")


def unicast(node: int, bind: str, peers: tuple[str, ...], seeds: tuple[str, ...]) -> dict[str, Any]:
    """Where a node of ``udpu`` is and whom it knows. Raises MisuseError if that is not said.

    On the loopback interface three nodes are taken to be tried out, each at a port of its own.
    """
    found: dict[str, Any] = {"bind": bind}
    if peers or seeds:
        return found | {key: given for key, given in (("peers", peers), ("seeds", seeds)) if given}
    if bind not in ("127.0.0.1", "::1"):
        raise MisuseError(
            "udpu must know the other nodes: name each with --peer HOST:PORT, or two or three with "
            "--seed HOST:PORT, from which it learns of the rest"
        )
    if node > TRIAL_NODES:
        raise MisuseError(
            f"without --peer and --seed, udpu on {bind} is for nodes 1 to {TRIAL_NODES}; name the "
            "nodes with --peer HOST:PORT"
        )
    host = f"[{bind}]" if ":" in bind else bind
    ports = range(PORT, PORT + TRIAL_NODES)
    return found | {"port": ports[node - 1], "peers": tuple(f"{host}:{port}" for port in ports)}


def made(model: type[BaseModel], **values: Any) -> BaseModel:
    """Make a section. Raises MisuseError if the file would not be understood with these values."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise MisuseError(f"{', '.join(map(repr, values.values()))}: {said}") from error


def lines(sections: Mapping[str, BaseModel]) -> Iterator[str]:
    """The lines of the file: what was given as it is, everything else commented out."""
    yield from comment(
        "Settings of one vsync node. What is commented out shows its default. `vsync check` "
        "explains what is in effect; units are at the end of the names."
    )
    for heading, settings in sections.items():
        yield ""
        yield f"[{heading}]"
        meanings = meanings_of(type(settings))
        for name in type(settings).model_fields:
            value = getattr(settings, name)
            yield ""
            yield from comment(meanings.get(name, ""))
            chosen = name in ("peers", "seeds") and value
            if name in WRITTEN[heading] or chosen:
                yield f"{name} = {to_toml(value)}"
            else:
                yield f"#{name} = {'   (not set by default)' if value is None else to_toml(value)}"


def comment(text: str) -> Iterator[str]:
    """Text as comment lines."""
    for line in textwrap.wrap(text, WIDTH - 2):
        yield f"# {line}"
