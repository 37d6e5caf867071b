"""Receiving: what waits in a socket, in order, joined or not, and what is no news."""

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from vsync.ip import offload
from vsync.ip.offload import Received
from vsync.ip.receiving import receive

Make = Callable[[], socket.socket]
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.fixture(params=HOSTS, ids=["ipv4", "ipv6"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes sockets that are closed in the end."""
    with ExitStack() as opened:

        def make() -> socket.socket:
            one = opened.enter_context(socket.socket(request.param, socket.SOCK_DGRAM))
            one.setblocking(False)
            one.bind((HOSTS[request.param], 0))
            return one

        yield make


def taken(
    receiver: socket.socket, *, count_max: int = 100, bytes_max: int = offload.RECEIVE_BYTES
) -> tuple[list[Received], bool]:
    into: list[Received] = []
    more = receive(receiver, count_max, bytes_max, into)
    return into, more


def test_nothing_waits(make: Make) -> None:
    assert taken(make()) == ([], False)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50])
def test_all_that_waits_comes_in_order_and_says_from_where(make: Make, count: int) -> None:
    sender, receiver = make(), make()
    sent = [bytes([number]) * (number * 7) for number in range(count)]
    for packet in sent:
        sender.sendto(packet, receiver.getsockname())
    came, more = taken(receiver)
    assert came == [(packet, 0, False, sender.getsockname()) for packet in sent]
    assert not more
    assert taken(receiver) == ([], False)


def test_senders_are_told_apart(make: Make) -> None:
    receiver, senders = make(), [make() for _ in range(300)]
    for sender in senders:
        sender.sendto(b"x", receiver.getsockname())
        assert taken(receiver) == ([(b"x", 0, False, sender.getsockname())], False)


@pytest.mark.parametrize("count_max", [1, 3, 16, 20])
def test_no_more_come_than_were_asked_for(make: Make, count_max: int) -> None:
    sender, receiver = make(), make()
    for number in range(40):
        sender.sendto(bytes([number]), receiver.getsockname())
    numbers: list[int] = []
    more = True
    while more:
        came, more = taken(receiver, count_max=count_max)
        assert len(came) <= count_max
        numbers += [data[0] for data, *_ in came]
    assert numbers == list(range(40))


def test_what_the_kernel_joined_says_of_what_packets(make: Make) -> None:
    sender, receiver = make(), make()
    if not (offload.gso_present(sender) and offload.enable_gro(receiver)):
        pytest.fail("this kernel has no segmentation offload for UDP (Linux 5.0 has it)")
    whole = bytes(range(256)) * 200
    sender.sendmsg([whole], offload.segment_ancillary(1400), 0, receiver.getsockname())
    sender.sendto(b"alone", receiver.getsockname())
    source = sender.getsockname()
    came, _ = taken(receiver)
    assert came == [(whole, 1400, False, source), (b"alone", 0, False, source)]


@pytest.mark.parametrize("bytes_max", [10, 5000, 9000])
def test_what_is_too_long_is_marked(make: Make, bytes_max: int) -> None:
    sender, receiver = make(), make()
    for size in (bytes_max, bytes_max + 1, 0):
        sender.sendto(bytes(size), receiver.getsockname())
    came, _ = taken(receiver, bytes_max=bytes_max)
    assert [(len(data), truncated) for data, _, truncated, _ in came] == [
        (bytes_max, False),
        (bytes_max, True),
        (0, False),
    ]


def test_what_came_stays_as_it_is_while_more_is_received(make: Make) -> None:
    sender, receiver = make(), make()
    kept: list[bytes] = []
    sent: Sequence[bytes] = [bytes([number]) * 6000 for number in range(60)]
    for packet in sent:
        sender.sendto(packet, receiver.getsockname())
        kept += [data for data, *_ in taken(receiver)[0]]
        assert taken(receiver) == ([], False)
    assert kept == sent


def test_a_socket_without_addresses_says_of_none(make: Make) -> None:
    told = make()
    told.sendto(b"with an address", told.getsockname())
    taken(told)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.send(b"without")
        assert taken(other, count_max=1) == ([(b"without", 0, False, None)], True)


def test_that_nobody_took_what_was_sent_is_no_error(make: Make) -> None:
    sender, gone = make(), make()
    sender.connect(gone.getsockname())
    gone.close()
    sender.send(b"nobody")
    assert taken(sender)[0] == []
    assert taken(sender) == ([], False)


def test_a_closed_socket_is_an_error() -> None:
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.close()
    with pytest.raises((OSError, ValueError)):
        taken(closed)


def test_another_error_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.setblocking(False)
        with pytest.raises(OSError) as caught:
            taken(stream)
        assert caught.value.errno == errno.ENOTCONN
