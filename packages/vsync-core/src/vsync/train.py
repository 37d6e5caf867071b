"""Train: packets that travel together, in one buffer."""

from collections.abc import Callable, Iterator, Sequence
from typing import final, overload


@final
class Train(Sequence[memoryview]):
    """Packets of one size, the last maybe shorter, one behind the other in one buffer.

    A sequence of packets like any other; transports with segmentation offload carry it in one go.
    """

    __slots__ = ("_count", "buffer", "packet_bytes", "view")

    def __init__(self, buffer: bytes | memoryview, packet_bytes: int) -> None:
        self.buffer = buffer
        self.packet_bytes = packet_bytes
        self.view = memoryview(buffer)
        self._count = -(-len(buffer) // packet_bytes)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> memoryview: ...
    @overload
    def __getitem__(self, place: slice) -> "Train": ...
    def __getitem__(self, place: int | slice) -> "memoryview | Train":
        size = self.packet_bytes
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                raise ValueError("packets of a train stand one behind the other")
            return Train(self.view[start * size : max(start, stop) * size], size)
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError("the train is not that long")
        return self.view[place * size : (place + 1) * size]

    def __iter__(self) -> Iterator[memoryview]:
        view, size = self.view, self.packet_bytes
        return iter([view[start : start + size] for start in range(0, len(view), size)])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, bytes | memoryview):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


class LateTrain(Sequence[memoryview]):
    """A train of *count* packets that *make* makes, as a ``Train``, when it is wanted first.

    To make the packets of a frame takes longer than all else that is done for it, and they are not
    needed before they are sent.
    """

    __slots__ = ("_count", "_make", "_train")

    def __init__(self, count: int, make: Callable[[], Sequence[bytes | memoryview]]) -> None:
        self._count = count
        self._make: Callable[[], Sequence[bytes | memoryview]] | None = make
        self._train: Train | None = None

    @property
    def train(self) -> Train:
        """The train, made now if it was not before."""
        train = self._train
        if train is None:
            assert self._make is not None
            made = self._make()
            assert type(made) is Train
            train = self._train = made
            self._make = None  # with what it was made of
        return train

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> memoryview: ...
    @overload
    def __getitem__(self, place: slice) -> Train: ...
    def __getitem__(self, place: int | slice) -> memoryview | Train:
        return self.train[place]

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self.train)

    def __eq__(self, other: object) -> bool:
        return self.train == other

    __hash__ = None  # type: ignore[assignment]
