"""Events on their way from the ring's thread to a session."""

import threading

from vsync import Configuration, ConfigurationChanged, Delivery, Kind, MessageId, NodeId, Priority
from vsync.events import Event
from vsync.runtime.mailbox import EVENT_BYTES, Mailbox
from vsync.vocabulary import GroupKey, Guarantee

CONFIGURATION = Configuration(id="4.1", kind=Kind.REGULAR, members=(NodeId(1),))


def delivery(counter: int, size: int = 100) -> Delivery:
    return Delivery(
        MessageId(NodeId(1), 1, Priority.MEDIUM, counter),
        (GroupKey.from_name("a"),),
        bytes(size),
        Guarantee.AGREED,
        CONFIGURATION,
    )


def test_what_was_put_is_taken_in_order_and_once() -> None:
    mailbox = Mailbox("", 1000)
    first: list[Event] = [ConfigurationChanged(CONFIGURATION), delivery(0)]
    mailbox.put(first)
    mailbox.put([delivery(1)])
    assert mailbox.take() == [ConfigurationChanged(CONFIGURATION), delivery(0), delivery(1)]
    assert mailbox.take() == []


def test_it_is_full_beyond_its_bound_and_roomy_at_half() -> None:
    mailbox = Mailbox("", 10 * (EVENT_BYTES + 100))
    for counter in range(10):
        mailbox.put([delivery(counter)])
        assert not mailbox.full
    mailbox.put([delivery(10)])
    assert mailbox.full
    assert not mailbox.roomy
    mailbox.take()
    assert mailbox.roomy
    assert mailbox.waiting_bytes == 0


def test_empty_messages_are_bounded_too() -> None:
    mailbox = Mailbox("", 1000)
    mailbox.put([delivery(counter, 0) for counter in range(100)])
    assert mailbox.full


def test_two_threads_lose_and_repeat_nothing() -> None:
    mailbox = Mailbox("", 10**9)
    count = 20_000

    def put() -> None:
        for counter in range(count):
            mailbox.put([delivery(counter, 0)])

    thread = threading.Thread(target=put)
    thread.start()
    taken: list[int] = []
    while len(taken) < count:
        taken += [event.message.counter for event in mailbox.take() if isinstance(event, Delivery)]
    thread.join()
    assert taken == list(range(count))
    assert mailbox.waiting_bytes == 0
