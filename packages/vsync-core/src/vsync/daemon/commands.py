"""Commands to a node, from those who may administer it: root, and the user who runs it.

Others that ``[daemon]`` lets in send and receive; what the ring is they do not decide.
"""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vsync.api.node import Node
from vsync.api.reload import RESTART, Difference
from vsync.daemon.peers import Peer
from vsync.errors import DaemonError, NotAllowed
from vsync.vocabulary import NODE_ID_MAX

ARGUMENTS_BYTES_MAX: Final = 2**20


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ReloadArguments(_Arguments):
    """What a ``reload`` is told."""

    dry_run: bool = False
    expected: list[dict[str, Any]] | None = None
    """What was shown before; if something else is to be changed by now, nothing is."""


class RotateArguments(_Arguments):
    """What a ``rotate_key`` is told."""

    copied: bool = False
    without: list[int] = Field(default_factory=list, max_length=512)


async def obey(node: Node, peer: Peer, name: str, arguments: bytes) -> bytes:
    """Do what *peer* wants; the answer is JSON. Raises VsyncError, a sentence that says why not."""
    if peer.uid not in (0, os.geteuid()):
        raise NotAllowed(
            "only root and the user who runs the node may do this; others that [daemon] names may "
            "send and receive"
        )
    command = COMMANDS.get(name)
    if command is None:
        raise DaemonError(f"this daemon knows no command {name!r}; is its vsync-core an older one?")
    try:
        answer = await command(node, arguments)
    except ValidationError as error:
        raise DaemonError(
            f"the command {name} came with arguments that it does not have"
        ) from error
    return json.dumps(answer).encode()


async def _reload(node: Node, given: bytes) -> dict[str, Any]:
    arguments = ReloadArguments.model_validate_json(given)
    expected = None
    if arguments.expected is not None:
        try:
            expected = [Difference(**each) for each in arguments.expected]
        except TypeError as error:
            raise DaemonError("the command reload came with differences that are none") from error
    found = await node.reload(dry_run=arguments.dry_run, expected=expected)
    refused = any(each.where == RESTART for each in found)
    return {
        "settings_file": str(node.settings_file),
        "changed": not (arguments.dry_run or refused),
        "differences": [each.record() for each in found],
    }


async def _rotate_key(node: Node, given: bytes) -> dict[str, Any]:
    arguments = RotateArguments.model_validate_json(given)
    for number in arguments.without:
        if not 1 <= number <= NODE_ID_MAX:
            raise DaemonError(f"{number} is no node's id; ids are 1 to {NODE_ID_MAX}")
    return await node.rotate_key(copied=arguments.copied, without=arguments.without)


COMMANDS: Final[Mapping[str, Callable[[Node, bytes], Awaitable[dict[str, Any]]]]] = {
    "reload": _reload,
    "rotate_key": _rotate_key,
}
