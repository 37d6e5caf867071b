"""Frames and logs for tests of the engine's parts."""

from collections.abc import Sequence

from vsync.engine.log import Log
from vsync.engine.runs import Run
from vsync.engine.streams import ControlReader, Ordered, Reader
from vsync.vocabulary import Configuration, GroupKey, Guarantee, Kind, NodeId, Priority, RingId
from vsync.wire import Codec, Data, network_of
from vsync.wire.data import flags_of, message_head

RING = RingId(4, NodeId(1))
GROUP = GroupKey.from_name("g")
REGULAR = Configuration(id="4.1", kind=Kind.REGULAR, members=(NodeId(1), NodeId(2), NodeId(3)))
TRANSITIONAL = Configuration(
    id="4.1>5.1", kind=Kind.TRANSITIONAL, members=(NodeId(1), NodeId(2)), next="5.1"
)


class Sender:
    """Makes the data frames of one node, each with its place in the ring's order."""

    def __init__(self, node: int, priority: Priority = Priority.MEDIUM) -> None:
        self._codec = Codec(network_of("test"), NodeId(node), 100 + node)
        self._priority = priority
        self._index = 0
        self._counter = 0

    def frame(self, seq: int, guarantee: Guarantee, *payloads: bytes) -> Data:
        """A frame of whole messages."""
        pieces: list[bytes | memoryview] = [message_head(1, (GROUP,)) + p for p in payloads]
        return self._make(seq, guarantee, pieces, continues=False, unfinished=False)

    def cut(self, seqs: Sequence[int], guarantee: Guarantee, payload: bytes) -> list[Data]:
        """The frames of one message, cut over *seqs*."""
        message = message_head(1, (GROUP,)) + payload
        size = -(-len(message) // len(seqs))
        frames = []
        for place, seq in enumerate(seqs):
            last = place == len(seqs) - 1
            piece = message[place * size : (place + 1) * size]
            frames.append(
                self._make(seq, guarantee, [piece], continues=place > 0, unfinished=not last)
            )
        return frames

    def _make(
        self,
        seq: int,
        guarantee: Guarantee,
        pieces: list[bytes | memoryview],
        *,
        continues: bool,
        unfinished: bool,
    ) -> Data:
        flags = flags_of(guarantee, self._priority, continues=continues, unfinished=unfinished)
        frame = self._codec.data(RING, seq, self._index, self._counter, flags, pieces)
        self._index += 1
        self._counter += len(pieces) - unfinished
        return frame


def new_log() -> Log:
    """An empty log."""
    return Log(RING, Reader(2**20), ControlReader())


def delivered(log: Log) -> list[bytes]:
    """The payloads that *log* delivers now."""
    return payloads(log.deliver(REGULAR))


def payloads(ordered: Sequence[Ordered]) -> list[bytes]:
    """What the deliveries among *ordered* carry."""
    runs = [each for each in ordered if isinstance(each, Run)]
    return [delivery.payload for run in runs for delivery in run.deliveries]
