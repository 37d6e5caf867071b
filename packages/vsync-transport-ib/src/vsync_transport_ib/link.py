"""One queue pair, kept busy: receives always posted, sends in batches, every slot accounted for.

Sans-IO: whatever is done is done by a ``Verbs``, whoever that is.
"""

from collections import Counter
from typing import Final

from vsync.errors import TransportFailed
from vsync.transport import Burst, Packet
from vsync_transport_ib.verbs import Peer, Verbs

FLUSHED: Final = 5
"""``IBV_WC_WR_FLUSH_ERR``: the queue pair has failed, and gives back what was posted."""

STATUS_NAMES: Final = {
    1: "local length error",
    2: "local queue pair operation error",
    4: "local protection error",
    5: "flushed",
    6: "memory window bind error",
    7: "bad response",
    8: "local access error",
    9: "remote invalid request",
    10: "remote access error",
    11: "remote operation error",
    12: "retries exceeded",
    13: "receiver not ready",
    21: "general error",
}
"""``enum ibv_wc_status``, infiniband/verbs.h."""

BATCH_PACKETS_MAX: Final = 1024
"""What one call of ``receive`` returns at most: so that no flood keeps the caller waiting."""

POLL_MESSAGES: Final = 256
"""Completions that are taken, and receives that are posted again, at a time."""


class Link:
    """Carries packets over an open queue pair, of which it becomes the only user.

    All methods raise TransportFailed if the queue pair is of no more use.
    """

    def __init__(self, verbs: Verbs, *, receive_slots: int, send_slots: int) -> None:
        self._verbs = verbs
        self._receive_slots = receive_slots
        self._send_slots = send_slots
        self._next_send = 0
        self._sends_free = send_slots
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        """Post every receive, and ask for the first wake-up."""
        self._verbs.post_receives(range(self._receive_slots))
        self._verbs.arm()

    # --- sending --------------------------------------------------------------------------------

    def send(self, burst: Burst) -> None:
        """Post the packets in batches, as many as there are slots for; those beyond are lost."""
        packets, destination = burst.packets, burst.destination
        if destination is not None and not isinstance(destination, Peer):
            self.counters["packets_lost_sending"] += len(packets)
            return
        start = 0
        while start < len(packets):
            if self._sends_free < len(packets) - start:
                self._take_sends()
            count = min(len(packets) - start, self._sends_free)
            if not count:
                lost = len(packets) - start
                self.counters["packets_lost_send_queue"] += lost
                return
            first = self._next_send
            part = packets if count == len(packets) else packets[start : start + count]
            # Accounted for before: what fails half-way is of no more use anyway.
            self._next_send = (first + count) % self._send_slots
            self._sends_free -= count
            self._verbs.post_sends(first, part, destination)
            self.counters["packets_sent"] += count
            self.counters["sends"] += 1
            start += count

    def _take_sends(self) -> None:
        """Take back the slots of what was sent."""
        for slot, status in self._verbs.poll_sends():
            if status:
                self._failed("sending", status)
            # In order, and each for all before it: what is in use now came after it.
            in_use = (self._next_send - slot - 1) % self._send_slots
            self._sends_free = self._send_slots - in_use

    # --- receiving ------------------------------------------------------------------------------

    def receive(self) -> list[Packet]:
        """What has come, up to some bound; the slots are posted again."""
        verbs, own = self._verbs, self._verbs.own
        packets: list[Packet] = []
        new = tuple.__new__
        armed = False
        while len(packets) < BATCH_PACKETS_MAX:
            completions = verbs.poll_receives(POLL_MESSAGES)
            if not completions:
                if armed:
                    break
                # What came between the last look and this gives no wake-up: so look once more.
                verbs.arm()
                armed = True
                continue
            slots = []
            for slot, status, data, source in completions:
                slots.append(slot)
                if status:
                    self._failed("receiving", status)
                elif source == own:
                    self.counters["packets_own"] += 1
                else:
                    packets.append(new(Packet, (data, source)))
            verbs.post_receives(slots)
        self.counters["packets_received"] += len(packets)
        return packets

    def _failed(self, doing: str, status: int) -> None:
        name = STATUS_NAMES.get(status, f"status {status}")
        self.counters[f"errors_{doing}_{name.replace(' ', '_')}"] += 1
        if status == FLUSHED:
            raise TransportFailed(
                "the queue pair has failed, and its device has given back what was posted; "
                "see the kernel's log (dmesg)"
            )
