"""Events as lines for people and as objects for programs."""

import json

import pytest
import rich_click as click

from vsync.events import ConfigurationChanged, Delivery, Envelope
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    NodeId,
    Priority,
)
from vsync_cli.render import event_line, event_record, facts, json_line, payload_text, table

CONFIGURATION = Configuration(
    id="8.1>12.1",
    kind=Kind.TRANSITIONAL,
    members=(NodeId(1), NodeId(3)),
    left=(NodeId(2),),
    next="12.1",
)


def delivery(payload: bytes) -> Delivery:
    groups = (GroupKey.from_name("orders"),)
    envelope = Envelope(NodeId(1), 7, 255, Priority.MEDIUM, Guarantee.SAFE, groups, CONFIGURATION)
    return Delivery(envelope, 7, payload)


def test_a_delivery_as_json_has_exactly_these_fields() -> None:
    assert event_record(delivery(b"hello")) == {
        "event": "deliver",
        "message": "1-ff-2-7",
        "sender": 1,
        "session": 7,
        "groups": [GroupKey.from_name("orders").hex()],
        "guarantee": "safe",
        "configuration": "8.1>12.1",
        "size": 5,
        "payload": "aGVsbG8=",
        "text": "hello",
    }


def test_a_payload_that_is_no_text_has_none() -> None:
    assert "text" not in event_record(delivery(b"\xff"))


def test_a_configuration_as_json_has_exactly_these_fields() -> None:
    assert event_record(ConfigurationChanged(CONFIGURATION)) == {
        "event": "configuration",
        "id": "8.1>12.1",
        "kind": "transitional",
        "members": [1, 3],
        "joined": [],
        "left": [2],
        "next": "12.1",
    }


def test_one_event_is_one_line_whatever_the_payload() -> None:
    line = json_line(event_record(delivery("a\nb\u2028c".encode())))
    assert len(line.splitlines()) <= 2  # U+2028 is a line end to Python, not in JSON Lines
    assert "\n" not in line
    assert json.loads(line)["text"] == "a\nb\u2028c"


def test_lines_for_people() -> None:
    assert event_line(delivery(b"hello")) == "orders: from 1/7 (safe): hello"
    assert (
        event_line(ConfigurationChanged(CONFIGURATION))
        == "transitional configuration 8.1>12.1: members 1 3 (left 2)"
    )


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"two\nlines", r"two\nlines"),
        (b"\xff\xfe", "2 bytes"),
        ("grün".encode(), "grün"),
        (b"x" * 201, "x" * 200 + "… (201 bytes)"),
    ],
)
def test_a_payload_cannot_disturb_a_terminal(payload: bytes, shown: str) -> None:
    assert payload_text(payload) == shown


def test_a_table_without_rows_is_its_headings() -> None:
    assert "NAME" in table(["NAME", "KIND"], [])


def test_facts_of_many_alike_are_a_table() -> None:
    peers = [{"address": "a:1", "heard_s": None}, {"address": "bb:22", "heard_s": 0.5}]
    lines = facts({"mtu": 1500, "peers": peers, "none": []})
    assert [click.unstyle(line) for line in lines] == [
        "mtu    1500",
        "peers:",
        "  address  heard_s",
        "  a:1      -",
        "  bb:22    0.5",
        "none   none",
    ]
