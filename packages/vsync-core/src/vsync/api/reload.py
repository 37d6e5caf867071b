"""Reload: what differs between the settings that a node has and those that its file says now."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from vsync.settings import NodeSettings, mark_of
from vsync.settings_file import transport_of
from vsync.transports.redundant import RedundantSettings, numbered

RING: Final = "ring"
NODE: Final = "node"
RESTART: Final = "restart"

REASONS: Final[Mapping[str, str]] = {
    "node.id": "a node keeps its id while it runs; restart it to give it another",
    "node.state_dir": "what the node knows is there; restart it to have it elsewhere",
    "ring.name": "another name is another ring; restart each node that is to be on it",
    "ring.transport": "the ring's packets are under way on the other one; restart the node",
    "ring.message_bytes_max": "what one node takes for a message another would drop; stop all "
    "nodes, change all their files, and start them",
    "daemon.socket": "programs are connected to the old one; restart the node",
    "security.key_file": "`vsync key rotate` changes the key of a running ring; restart the node "
    "to have the file elsewhere",
}
"""Why something cannot change while the node runs, and what to do."""


class Difference(NamedTuple):
    """One setting that differs."""

    key: str
    """As in ``ring.token_lost_s``."""
    old: Any
    new: Any
    where: str
    """``ring``: changes on the whole ring; ``node``: on this node; ``restart``: it cannot."""
    reason: str = ""
    """Why it cannot, and what to do."""

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return self._asdict()


def differences(old: NodeSettings, new: NodeSettings) -> list[Difference]:
    """All that differs, in the order of the file. Raises SettingsError, PluginNotFound."""
    found = [
        *_section("node", old.node, new.node),
        *_section("ring", old.ring, new.ring),
        *_section("daemon", old.daemon, new.daemon),
        *_section("security", old.security, new.security),
    ]
    if old.ring.transport == new.ring.transport:
        scheme = old.ring.transport
        found += _section(f"transport.{scheme}", transport_of(old)[1], transport_of(new)[1])
    for name in sorted(old.service.keys() | new.service.keys()):
        before, after = old.service.get(name), new.service.get(name)
        if before != after:
            reason = f"the service {name} keeps its settings while it runs; restart the node"
            found.append(Difference(f"service.{name}", before, after, RESTART, reason))
    return found


def _section(name: str, old: BaseModel, new: BaseModel) -> Iterator[Difference]:
    for field in type(new).model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        key = f"{name}.{field}"
        if isinstance(new, RedundantSettings) and field == "links":
            yield from _links(key, old, new)
            continue
        where = str(mark_of(type(new), field, "change") or RESTART)
        reason = ""
        if where == RESTART:
            reason = REASONS.get(key, "this cannot change while the node runs; restart it")
        yield Difference(key, _plain(before), _plain(after), where, reason)


def _links(key: str, old: BaseModel, new: RedundantSettings) -> Iterator[Difference]:
    assert isinstance(old, RedundantSettings)
    before, after = numbered(old.links), numbered(new.links)
    for number in sorted(before.keys() | after.keys()):
        one, other = _link(before.get(number)), _link(after.get(number))
        if one != other:
            yield Difference(f"{key}.{number}", one, other, NODE)


def _link(link: BaseModel | None) -> dict[str, Any] | None:
    return None if link is None else link.model_dump(mode="json", exclude={"number"})


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
