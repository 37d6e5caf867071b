"""Ballots as messages: JSON, since there is one a node and configuration."""

import json
from dataclasses import asdict
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vsync.errors import MalformedPacket
from vsync_services.quorum.decision import Ballot

VERSION: Final = 1
BALLOT_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Letter:
    version: int
    configuration: str
    ballot: Ballot


_LETTER: Final = TypeAdapter(_Letter)


def encode(configuration: str, ballot: Ballot) -> bytes:
    """The message that carries *ballot* in *configuration*."""
    letter = {"version": VERSION, "configuration": configuration, "ballot": asdict(ballot)}
    return json.dumps(letter, separators=(",", ":")).encode()


def decode(message: bytes) -> tuple[str, Ballot]:
    """The configuration and the ballot in *message*. Raises MalformedPacket."""
    if len(message) > BALLOT_BYTES_MAX:
        raise MalformedPacket("ballot", f"{len(message)} bytes are too many")
    try:
        letter = _LETTER.validate_json(message)
    except ValidationError as error:
        raise MalformedPacket("ballot", str(error.errors()[0]["msg"])) from error
    if letter.version != VERSION:
        raise MalformedPacket("ballot", f"version {letter.version}, and this is {VERSION}")
    return letter.configuration, letter.ballot
