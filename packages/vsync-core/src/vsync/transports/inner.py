"""Transports inside of others: their settings, checked, and the transport itself."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from vsync.errors import PluginNotFound
from vsync.plugins import load_transport
from vsync.transport import Transport
from vsync.vocabulary import NodeId


def check_settings(scheme: str, settings: dict[str, Any]) -> None:
    """Raise ValueError, a sentence, if there is no such transport or it refuses *settings*."""
    try:
        kind = load_transport(scheme)
        kind.SETTINGS.model_validate(settings)
    except PluginNotFound as error:
        raise ValueError(str(error)) from error
    except ValidationError as error:
        raise ValueError(
            f"settings of the inner transport {scheme}: {told(error, kind.SETTINGS.model_fields)}"
        ) from error


def make_inner(scheme: str, settings: dict[str, Any], node: NodeId) -> Transport:
    """The transport *scheme*, not open yet."""
    kind: Any = load_transport(scheme)
    made: Transport = kind(kind.SETTINGS.model_validate(settings), node=node)
    return made


def looking_up(scheme: str, settings: dict[str, Any]) -> Callable[[], None] | None:
    """What the transport *scheme* has to look up before it opens with *settings*."""
    kind = load_transport(scheme)
    return kind.looking_up(kind.SETTINGS.model_validate(settings))


def told(error: ValidationError, known: Iterable[str]) -> str:
    """What is wrong with settings whose keys are *known*, as a sentence."""
    complaints = []
    for part in error.errors():
        name = ".".join(map(str, part["loc"]))
        if part["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, list(known), n=1)
            advice = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(known)}"
            complaints.append(f'the key "{name}" is unknown; {advice}')
        else:
            said = part["msg"].removeprefix("Value error, ")
            complaints.append(f"{name}: {said}" if name else said)
    return "; ".join(complaints)
