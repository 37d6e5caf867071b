"""The table of states on the protocol's page is the engine's."""

import os
from pathlib import Path

from vsync.engine import TRANSITIONS, State, Trigger

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
BEGIN, END = "<!-- states: begin -->\n", "<!-- states: end -->\n"


def words(name: str) -> str:
    return name.lower().replace("_", " ")


def table() -> str:
    """The table of states in Markdown: a row a trigger, a column a state."""
    states = list(State)
    rows = [
        "| | " + " | ".join(f"**{words(state.name)}**" for state in states) + " |",
        "|---" * (len(states) + 1) + "|",
    ]
    for trigger in Trigger:
        next_states = [TRANSITIONS[state][trigger] for state in states]
        cells = ["\N{EN DASH}" if state is None else words(state.name) for state in next_states]
        rows.append(f"| {words(trigger.name)} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def test_the_table_of_states_is_the_engines() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    shown, after = rest.split(END)
    if os.environ.get("REWRITE_PAGES") == "1":
        PAGE.write_text(before + BEGIN + table() + END + after)
        return
    assert shown == table(), "rewrite it with REWRITE_PAGES=1"
