"""What users write on the command line, as click types: groups, seeds, numbers of nodes."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich_click as click
from click.core import ParameterSource

from vsync.daemon import places
from vsync.errors import MisuseError
from vsync.vocabulary import GROUP_KEY_BYTES, GroupKey, Guarantee, Priority

SOCKET_VARIABLE: Final = places.SOCKET_VARIABLE

HEX_PREFIX: Final = "hex:"

if TYPE_CHECKING:
    _ToGroup = click.ParamType[GroupKey]
    _ToRange = click.ParamType[range]
    _ToSize = click.ParamType[int]
else:  # generic to type checkers only, as far as older versions of click are concerned
    _ToGroup = _ToRange = _ToSize = click.ParamType


class GroupParameter(_ToGroup):
    """The name of a group, or ``hex:`` and the 64 hexadecimal digits of its key."""

    name = "group"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> GroupKey:
        """Make the key."""
        if isinstance(value, GroupKey):
            return value
        text = str(value)
        if text.startswith(HEX_PREFIX):
            digits = text.removeprefix(HEX_PREFIX)
            if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * GROUP_KEY_BYTES}}}", digits):
                self.fail(
                    f"{text!r} is no group key: after {HEX_PREFIX} come {2 * GROUP_KEY_BYTES} "
                    f"hexadecimal digits, not {len(digits)} characters.",
                    param,
                    ctx,
                )
            return GroupKey(bytes.fromhex(digits))
        try:
            return GroupKey.from_name(text)
        except MisuseError as error:
            self.fail(f"{error}.", param, ctx)
        except UnicodeEncodeError:
            self.fail(f"{text!r} is not UTF-8; write the key as {HEX_PREFIX}….", param, ctx)


class RangeParameter(_ToRange):
    """Whole numbers: one of them, or the first and the end of a range."""

    name = "range"

    def __init__(self, *, minimum: int, maximum: int, end_included: bool) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._end_included = end_included

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> range:
        """Make the range; never an empty one."""
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is neither a number nor a range such as 3..7.", param, ctx)
        first = int(found[1])
        end = first + 1 if found[2] is None else int(found[2]) + self._end_included
        if end <= first:
            self.fail(f"the range {value} is empty; write the smaller number first.", param, ctx)
        if first < self._minimum or end - 1 > self._maximum:
            self.fail(
                f"{value} goes beyond what is possible, {self._minimum} to {self._maximum}.",
                param,
                ctx,
            )
        return range(first, end)


class SizeParameter(_ToSize):
    """A number of bytes, or of K (1024 bytes) or M (1024 K)."""

    name = "size"

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> int:
        """Make the number of bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})([KM]?)", str(value).strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is no size; write bytes, as 1000, or as 64K or 1M.", param, ctx)
        size = int(found[1]) * {"": 1, "K": 2**10, "M": 2**20}[found[2].upper()]
        if size < self._minimum:
            self.fail(f"{value} is less than the {self._minimum} bytes needed.", param, ctx)
        return size


class NumberRange(click.FloatRange):
    """Numbers of a range; "nan" is none, though it is not beyond any limit."""

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> float:
        """Make the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


GROUP: Final = GroupParameter()
NODES: Final = RangeParameter(minimum=1, maximum=64, end_included=True)
SEEDS: Final = RangeParameter(minimum=0, maximum=10**18, end_included=False)

socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar=SOCKET_VARIABLE,
    show_envvar=True,
    help="The Unix socket of the node. Without it: the only one that is running here.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="JSON for programs instead of text for people."
)

guarantee_option = click.option(
    "--guarantee",
    type=click.Choice([guarantee.word for guarantee in Guarantee]),
    default=Guarantee.AGREED.word,
    show_default=True,
    help="When a message may be delivered.",
)

priority_option = click.option(
    "--priority",
    type=click.Choice([priority.word for priority in Priority]),
    default=Priority.MEDIUM.word,
    show_default=True,
    help="Which of the node's waiting messages goes first.",
)


def refuse_given(context: click.Context, names: Iterable[str], reason: str) -> None:
    """Raise UsageError, with *reason*, if one of these options was given."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and given is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} {reason}")
