"""The small language of ``vsync demo --script``: read it, and say what it means.

Statements are divided by semicolons or line ends; ``#`` begins a comment. See ``VERBS``.
"""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Final

from vsync.errors import MisuseError
from vsync_cli.demo.processes import NODES

VERBS: Final = {
    "kill": "kill NODE with SIGKILL, as a crash does",
    "restart": "start NODE again after kill or leave",
    "leave": "ask NODE to leave the ring and end (SIGTERM)",
    "pause": "stop NODE where it stands (SIGSTOP)",
    "continue": "let a paused NODE go on (SIGCONT)",
    "cut": "let no packet of NODE in or out",
    "heal": "end the cut of NODE",
    "send": "let NODE send the rest of the statement, or a text of its own",
    "wait": "wait SECONDS",
    "settle": "wait until those who can reach each other have one configuration",
}

WAIT_MAX_S: Final = 3600.0

TOUR: Final = """\
settle; send 1 hello; wait 0.5
kill 2; settle; wait 0.5; restart 2; settle; wait 0.5      # a crash, and a new life
pause 3; settle; wait 0.5; continue 3; settle; wait 0.5    # asleep, unknowing, and back
cut 1; settle; wait 0.5; heal 1; settle; wait 0.5          # a partition, and its merge
leave 2; settle; wait 0.5; restart 2; settle; wait 0.5     # a farewell, and a return
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One statement."""

    verb: str
    node: int | None = None
    seconds: float = 0.0
    text: str | None = None
    source: str
    """The statement as written."""


def parse_script(text: str) -> list[Step]:
    """Read a script. Raises MisuseError with the statement that is wrong, and what to do."""
    statements = [
        statement.strip()
        for line in text.splitlines()
        for statement in line.partition("#")[0].split(";")
    ]
    steps = [_step(statement) for statement in statements if statement]
    if not steps:
        raise MisuseError('the script says nothing; try --script "kill 2; settle; restart 2"')
    return steps


def _step(statement: str) -> Step:
    verb, _, rest = statement.partition(" ")
    rest = rest.strip()
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        advice = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(VERBS)}"
        raise MisuseError(f'the script says "{statement}", and there is no "{verb}"; {advice}')
    if verb == "settle":
        if rest:
            raise MisuseError(f'the script says "{statement}", and settle takes nothing more')
        return Step(verb=verb, source=statement)
    if verb == "wait":
        return Step(verb=verb, seconds=_seconds(statement, rest), source=statement)
    number, _, said = rest.partition(" ")
    if number not in map(str, NODES) or (said and verb != "send"):
        raise MisuseError(
            f'the script says "{statement}", and {verb} takes the number of a node: '
            f"{', '.join(map(str, NODES))}"
        )
    return Step(verb=verb, node=int(number), text=said.strip() or None, source=statement)


def _seconds(statement: str, text: str) -> float:
    seconds = float(text) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) else math.nan
    if not seconds <= WAIT_MAX_S:
        raise MisuseError(
            f'the script says "{statement}", and wait takes seconds, such as 1.5, '
            f"{WAIT_MAX_S:.0f} at most"
        )
    return seconds
