"""Hellos: what is built is what is declared and what is read; nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.errors import MalformedPacket
from vsync.links import Hello, build_hello, is_hello, parse_hello
from vsync.links.hello import HEARD_MAX, HELLO, HELLO_BYTES_MAX, LINKS_MAX, Heard
from vsync.vocabulary import NodeId

uint8, uint32, uint64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
node_ids = st.integers(1, 2**32 - 1).map(NodeId)
hellos = st.builds(
    Hello,
    link=st.integers(1, LINKS_MAX),
    network=uint32,
    node=node_ids,
    life=uint64,
    counter=uint64,
    sent_us=uint64,
    heard=st.dictionaries(node_ids, st.builds(Heard, uint8, uint64, uint32), max_size=HEARD_MAX),
)


@given(hellos)
def test_a_hello_comes_back_and_is_as_declared(hello: Hello) -> None:
    packet = build_hello(hello)
    assert is_hello(packet)
    assert len(packet) <= HELLO_BYTES_MAX
    declared = HELLO.parse(packet)
    assert parse_hello(packet) == hello
    assert {entry.node for entry in declared.heard} == set(hello.heard)
    assert (declared.link, declared.node) == (hello.link, hello.node)


@given(hellos, st.integers(0, 2000))
def test_a_hello_may_be_made_longer(hello: Hello, size: int) -> None:
    packet = build_hello(hello, size)
    assert len(packet) == max(size, len(build_hello(hello)))
    assert parse_hello(packet) == hello


@given(hellos, st.data())
def test_a_hello_that_was_damaged_is_refused(hello: Hello, data: st.DataObject) -> None:
    packet = bytearray(build_hello(hello))
    place = data.draw(st.integers(0, len(packet) - 1))
    packet[place] ^= 1 << data.draw(st.integers(0, 7))
    if place == 3:  # the link's number is not summed up, but compared with the link it came on
        return
    with pytest.raises(MalformedPacket):
        parse_hello(bytes(packet))


@given(hellos, st.data())
def test_a_hello_that_was_cut_is_refused(hello: Hello, data: st.DataObject) -> None:
    packet = build_hello(hello)
    with pytest.raises(MalformedPacket):
        parse_hello(packet[: data.draw(st.integers(0, len(packet) - 1))])


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_raises_nothing_else(garbage: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse_hello(b"VL\x01\x01" + garbage)
