"""Address handles: what a device wants to have made of each peer before anything is sent to it.

With RoCE the making looks up the peer's hardware address. If it is not known it is asked for (ARP),
and whoever asks for a peer that is gone waits for seconds. The ring may not wait: so handles are
made on threads of their own, from when a peer is first heard; and when one is needed that is not
there yet, it is waited for once, a moment.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from vsync_transport_ib.rdma_core import Pointer
from vsync_transport_ib.verbs import Peer

HANDLES_MAX: Final = 512
PATIENCE_S: Final = 0.02
"""A neighbour that is there answers in less; and a token may be late by that much."""

PREPARED_MAX: Final = 32
"""How many may be in the making for peers that were only heard: anyone can make himself heard."""

THREADS_MAX: Final = 4


class AddressHandles:
    """The handles of the peers that were sent to last; bounded, and made when asked for.

    ``create`` gives a handle or None; with *slow* it may block.
    """

    def __init__(
        self,
        create: Callable[[Peer], Pointer | None],
        destroy: Callable[[Pointer], object],
        *,
        slow: bool,
    ) -> None:
        self._create = create
        self._destroy = destroy
        self._threads = ThreadPoolExecutor(THREADS_MAX, "vsync-handles") if slow else None
        self._made: OrderedDict[Peer, Pointer] = OrderedDict()
        self._coming: dict[Peer, Future[Pointer | None]] = {}
        self._waited: set[Peer] = set()
        """Those of them that were waited for."""

    def find(self, peer: Peer) -> Pointer | None:
        """The handle of *peer*; None if there is none, or not yet."""
        handle = self._made.get(peer)
        if handle is not None:
            self._made.move_to_end(peer)
            return handle
        handle = self._create(peer) if self._threads is None else self._wait_for(peer)
        if handle is not None:
            self._made[peer] = handle
            if len(self._made) > HANDLES_MAX:
                self._destroy(self._made.popitem(last=False)[1])
        return handle

    def prepare(self, peer: Peer) -> None:
        """Begin to make the handle of a peer that was heard, if making takes time."""
        if self._threads is None or peer in self._made or peer in self._coming:
            return
        self._forget_done_beyond(PREPARED_MAX)
        if len(self._coming) < PREPARED_MAX:
            self._coming[peer] = self._threads.submit(self._create, peer)

    def _wait_for(self, peer: Peer) -> Pointer | None:
        assert self._threads is not None
        coming = self._coming.get(peer)
        if coming is None:
            self._forget_done_beyond(HANDLES_MAX)
            if len(self._coming) >= HANDLES_MAX:
                return None
            coming = self._coming[peer] = self._threads.submit(self._create, peer)
        try:
            handle = coming.result(0 if peer in self._waited else PATIENCE_S)
        except TimeoutError:
            self._waited.add(peer)
            return None
        del self._coming[peer]
        self._waited.discard(peer)
        return handle

    def _forget_done_beyond(self, most: int) -> None:
        """If there are so many, drop what was made for peers that nothing was sent to since."""
        if len(self._coming) < most:
            return
        for peer in [peer for peer, coming in self._coming.items() if coming.done()]:
            handle = self._coming.pop(peer).result()
            self._waited.discard(peer)
            if handle is not None:
                self._destroy(handle)

    def close(self) -> None:
        """Destroy all handles; waits for those that are being made."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        late = (each.result() for each in self._coming.values() if not each.cancelled())
        for handle in [*self._made.values(), *filter(None, late)]:
            self._destroy(handle)
        self._made.clear()
        self._coming.clear()
