"""The event trace: what is written is read back, and nothing that was flushed is lost."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from vsync.errors import TraceFailed
from vsync.trace import (
    Configured,
    Delivered,
    GroupChanged,
    Sent,
    Started,
    Stopped,
    TraceLine,
    TraceWriter,
    digest,
    encode_line,
    read_trace,
)

GROUP = "ab" * 32
LINES: list[TraceLine] = [
    Started(1, 7, "3f", "0.1", "udp", "my ring"),
    Configured(2, 7, "3f", "4.7", "regular", (7, 8, 9), (7, 8, 9), (), None),
    Configured(3, 7, "3f", "4.7>8.7", "transitional", (7, 8), (), (9,), "8.7"),
    GroupChanged(4, 7, "3f", GROUP, ((7, 1), (8, "x")), ((7, 1),), (), "4.7>8.7"),
    Sent(5, 7, "3f", "7-3f-1", (GROUP,), "safe", "high", 3, "0123456789abcdef"),
    Delivered(6, 7, "3f", "7-3f-1", 7, "4.7>8.7", (GROUP,), "safe", 3, "0123456789abcdef"),
    Stopped(7, 7, "3f", 'asked to, in "words" und Änderung'),
]


def write_all(writer: TraceWriter) -> None:
    writer.start(1, version="0.1", transport="udp", ring="my ring")
    writer.configuration(2, id="4.7", kind="regular", members=[9, 8, 7], joined=[7, 8, 9], left=[])
    writer.configuration(
        3, id="4.7>8.7", kind="transitional", members=[7, 8], joined=[], left=[9], next="8.7"
    )
    writer.group(
        4,
        group=GROUP,
        members=[(7, 1), (8, "x")],
        joined=[(7, 1)],
        left=[],
        configuration="4.7>8.7",
    )
    contents = {"guarantee": "safe", "size": 3, "digest": "0123456789abcdef"}
    writer.send(5, message="7-3f-1", groups=(GROUP,), priority="high", **contents)  # type: ignore[arg-type]
    writer.deliver(
        6,
        message="7-3f-1",
        sender=7,
        configuration="4.7>8.7",
        groups=(GROUP,),
        **contents,  # type: ignore[arg-type]
    )
    writer.stop(7, reason='asked to, in "words" und Änderung')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.trace"


def test_what_is_written_is_read_back(path: Path) -> None:
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
    assert read_trace(path) == LINES


def test_a_line_has_the_fields_of_the_specification_in_its_order(path: Path) -> None:
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
    fields = [list(json.loads(line)) for line in path.read_text().splitlines()]
    common = ["t", "node", "life", "event"]
    assert fields == [
        [*common, "version", "transport", "ring"],
        [*common, "id", "kind", "members", "joined", "left"],
        [*common, "id", "kind", "members", "joined", "left", "next"],
        [*common, "group", "members", "joined", "left", "configuration", "causes", "closed"],
        [*common, "message", "groups", "guarantee", "priority", "size", "digest"],
        [
            *common,
            "message",
            "sender",
            "configuration",
            "groups",
            "guarantee",
            "size",
            "digest",
        ],
        [*common, "reason"],
    ]


def test_a_line_made_by_hand_is_encoded_as_the_writer_writes_it(path: Path) -> None:
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
    assert "".join(map(encode_line, LINES)) == path.read_text()


def test_nothing_is_written_before_the_flush_and_all_of_it_then(path: Path) -> None:
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
        assert path.read_bytes() == b""
        writer.flush()
        assert read_trace(path) == LINES


def test_a_flush_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real = os.write

    def counted(descriptor: int, data: bytes) -> int:
        writes.append(len(data))
        return real(descriptor, data)

    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
        monkeypatch.setattr(os, "write", counted)
        writer.flush()
        writer.flush()
        assert writes == [path.stat().st_size]


def test_a_short_write_is_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
    assert read_trace(path) == LINES


def test_a_full_disk_is_a_sentence_and_what_is_left_comes_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
        taken = 0

        def full(descriptor: int, data: bytes) -> int:
            nonlocal taken
            if taken:
                raise OSError(28, "No space left on device")
            taken = real(descriptor, data[:100])
            return taken

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(TraceFailed, match="No space left on device"):
            writer.flush()
        monkeypatch.setattr(os, "write", real)
    assert read_trace(path) == LINES


def test_several_lives_share_a_file(path: Path) -> None:
    for life in ("a", "b"):
        with TraceWriter(path, node=7, life=life) as writer:
            writer.start(1, version="0.1", transport="udp", ring="r")
    assert [line.life for line in read_trace(path)] == ["a", "b"]


@pytest.mark.parametrize("kept", [5, 40, -2, -1])
def test_a_line_cut_by_a_kill_is_removed_by_the_next_life(path: Path, kept: int) -> None:
    with TraceWriter(path, node=7, life="3f") as writer:
        write_all(writer)
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:kept])
    with TraceWriter(path, node=7, life="40") as writer:
        writer.stop(8, reason="done")
    # Cut just before its line feed, the line is whole all the same.
    expected = LINES if kept == -1 else LINES[:-1]
    assert read_trace(path) == [*expected, Stopped(8, 7, "40", "done")]


@pytest.mark.parametrize("kept", [0, 5, 40, -2])
def test_a_cut_last_line_is_ignored(path: Path, kept: int) -> None:
    text = "".join(map(encode_line, LINES))
    last = encode_line(LINES[-1])
    path.write_text(text.removesuffix(last) + last[:kept])
    assert read_trace(path) == LINES[:-1]


def test_a_last_line_cut_inside_a_character_is_ignored(path: Path) -> None:
    path.write_bytes(encode_line(LINES[0]).encode() + '{"t":1,"node":7,"life":"é'.encode()[:-1])
    assert read_trace(path) == LINES[:1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"t":1,', "not one JSON object"),
        ("", "not one JSON object"),
        ("[1]", "not one JSON object"),
        ('{"t":1,"node":1,"life":"a","event":"dance"}', "the event 'dance' is not one of start"),
        ('{"t":1,"node":1,"life":"a","event":"stop"}', "'stop' lacks the field 'reason'"),
        ('{"t":"1","node":1,"life":"a","event":"stop","reason":""}', "'t' must be a whole number"),
        ('{"t":true,"node":1,"life":"a","event":"stop","reason":""}', "'t' must be a whole number"),
        ('{"t":1,"node":1,"life":2,"event":"stop","reason":""}', "'life' must be a text"),
        (encode_line(LINES[4]).strip().replace("safe", "safest"), "must be one of unordered"),
        (encode_line(LINES[1]).strip().replace("[7,8,9]", "[8,7]"), "must be sorted"),
        (encode_line(LINES[1]).strip().replace("[7,8,9]", '"7"'), "must be a list of node ids"),
        (encode_line(LINES[2]).strip().replace("next", "after"), "lacks the field 'next'"),
        (encode_line(LINES[3]).strip().replace("[7,1]", "[7]"), "must be a list of"),
        (encode_line(LINES[5]).strip().replace('["ab', '[1,"ab'), "must be a list of texts"),
    ],
)
def test_a_bad_line_is_an_error_that_names_file_and_line(path: Path, bad: str, reason: str) -> None:
    path.write_text(encode_line(LINES[0]) + bad + "\n" + encode_line(LINES[-1]))
    with pytest.raises(TraceFailed, match=r"node\.trace, line 2: ") as raised:
        read_trace(path)
    assert reason in str(raised.value)


def test_a_whole_last_line_that_is_wrong_is_an_error(path: Path) -> None:
    path.write_text(encode_line(LINES[0]) + '{"t":1,\n')
    with pytest.raises(TraceFailed, match="line 2"):
        read_trace(path)


def test_bytes_that_are_no_text_are_an_error(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\n" + encode_line(LINES[0]).encode())
    with pytest.raises(TraceFailed, match="line 1: this is not UTF-8"):
        read_trace(path)


def test_fields_of_a_later_version_are_ignored(path: Path) -> None:
    path.write_text(encode_line(LINES[-1]).replace("{", '{"later":[1],', 1))
    assert read_trace(path) == LINES[-1:]


def test_a_trace_that_is_not_there_is_a_sentence(path: Path) -> None:
    with pytest.raises(TraceFailed, match=r"cannot read the trace .*node\.trace: No such file"):
        read_trace(path)


def test_a_trace_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TraceFailed, match="cannot open the trace"):
        TraceWriter(tmp_path / "nowhere" / "node.trace", node=1, life="a")
    with pytest.raises(TraceFailed, match="cannot open the trace"):
        TraceWriter(tmp_path, node=1, life="a")


def test_a_descriptor_stays_the_caller_s() -> None:
    reading, writing = os.pipe()
    try:
        with TraceWriter(writing, node=7, life="3f") as writer:
            write_all(writer)
        os.write(writing, b"still open\n")
        assert os.read(reading, 65536).decode() == "".join(map(encode_line, LINES)) + "still open\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_writer_may_be_closed_twice(path: Path) -> None:
    writer = TraceWriter(path, node=7, life="3f")
    writer.close()
    writer.close()


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(100_000)])
def test_the_digest_is_the_beginning_of_blake2b(payload: bytes) -> None:
    expected = hashlib.blake2b(payload).hexdigest()[:16]
    assert digest(payload) == digest(memoryview(payload)) == expected
