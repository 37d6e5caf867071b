"""A seal around any transport: all that it carries is sealed, and nothing else is seen.

It has no name in settings files: a key makes every transport a sealed one.
"""

import itertools
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from vsync.keys import KeyRing
from vsync.seal import OVERHEAD_BYTES, Guard, Stamp
from vsync.settings import Strict
from vsync.transport import Address, Arrival, Burst, Packet, Station, Transport, flat

logger = logging.getLogger(__name__)

OPENINGS_FROM_MAX: Final = 2**31


def count_openings() -> Iterator[int]:
    """The openings of one process, and so of each life in it: no two guards seal the same stream.

    From any number on: if the state on disk and the clock are set back together, as when a copy of
    a machine is restored, two lives have one number. Then this tells them apart.
    """
    return itertools.count(1 + secrets.randbelow(OPENINGS_FROM_MAX))


_openings = count_openings()


def serving(transport: Transport, station: Station) -> Transport:
    """*transport*, told whom it serves; sealed, if there is a key and it does not see to that."""
    transport.serve(station)
    if station.keys is None or transport.composed:
        return transport
    return TransportSealed(transport, station, station.keys)


class TransportSealed(Transport):
    """Another transport, with a seal on every packet."""

    SCHEME: ClassVar[str] = "sealed"
    SETTINGS: ClassVar[type[BaseModel]] = Strict

    def __init__(self, inner: Transport, station: Station, keys: KeyRing) -> None:
        self._inner = inner
        self._keys = keys
        self._node = station.node
        stamp = Stamp(station.node, station.instance, station.life, next(_openings))
        self._guard = Guard(keys, stamp, network=station.network, link=station.link)
        self._told: set[bytes] = set()
        """Of which strangers the log has been told; of who seals nothing, empty bytes."""

    def reload(self, settings: BaseModel) -> None:
        """Have the transport within go on with other settings."""
        self._inner.reload(settings)

    def restore(self, settings: BaseModel) -> None:
        """Have the transport within go back to former settings."""
        self._inner.restore(settings)

    def open(self) -> None:
        """Open the transport within."""
        self._inner.open()

    def close(self) -> None:
        """Close the transport within."""
        self._inner.close()

    def descriptors(self) -> Sequence[int]:
        """Those of the transport within."""
        return self._inner.descriptors()

    def send(self, burst: Burst) -> None:
        """Seal and send."""
        self._inner.send(self._guard.seal_burst(burst))

    def receive(self) -> Sequence[Packet]:
        """What has come and is genuine, packet by packet."""
        return flat(self.receive_trains())

    def receive_trains(self) -> Sequence[Arrival]:
        """What has come and is genuine, opened."""
        arrivals = self._inner.receive_trains()
        if not arrivals:
            return arrivals
        opened = self._guard.open_arrivals(arrivals)
        if len(self._guard.strangers) + (self._guard.unsealed_from is not None) > len(self._told):
            self._tell()
        return opened

    def _tell(self) -> None:
        """Tell the log, once, of everyone who cannot be understood."""
        for key_id, sentence in self._complaints().items():
            if key_id not in self._told:
                self._told.add(key_id)
                logger.warning("node %d: %s", self._node, sentence)

    def _complaints(self) -> dict[bytes, str]:
        guard = self._guard
        complaints = {
            key_id: f"node {node} at {_place(source)} seals its packets with key {key_id.hex()}, "
            f"which {self._lacks(key_id)}"
            for key_id, (node, source) in guard.strangers.items()
        }
        if guard.unsealed_from is not None:
            complaints[b""] = (
                f"packets without a seal come from {_place(guard.unsealed_from)} and are dropped: "
                "give that node this ring's key_file in [security], or another ring's port"
            )
        return complaints

    def _lacks(self, key_id: bytes) -> str:
        used = self._keys.used
        if key_id in self._keys.dropped:
            return (
                f"was this ring's before it was changed to {used}: stop that node, copy the key "
                "file of this node to it, and start it"
            )
        return (
            f"this node does not have (it uses {used}); give both the same key_file in [security]; "
            "if one of the two was away while the ring's key was changed, copy the other's file"
        )

    @property
    def packet_bytes_max(self) -> int:
        """What the transport within takes, less the seal."""
        return self._inner.packet_bytes_max - OVERHEAD_BYTES

    @property
    def receive_buffer_bytes(self) -> int:
        """That of the transport within."""
        return self._inner.receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """The facts of the transport within, the keys, and what was not let in."""
        inner = dict(self._inner.status)
        counters = {**inner.pop("counters", {}), **self._guard.counters}
        warnings = [*inner.pop("warnings", ()), *self._complaints().values()]
        return {
            "scheme": self._inner.SCHEME,
            **inner,
            "packet_bytes_max": self.packet_bytes_max,
            "keys": list(map(str, self._keys.keys)),
            "counters": counters,
            "warnings": warnings,
        }


def _place(address: Address) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = str(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)
