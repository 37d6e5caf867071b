"""From the first byte of a captured packet to what a ring sent: link, IP, UDP, and what plugins
know."""

import ipaddress
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from vsync_cli.dissect.capture import Captured
from vsync_cli.dissect.frames import named

LINK_ETHERNET: Final = 1
LINKS_RAW: Final = (12, 101, 228, 229)
LINK_COOKED: Final = 113
LINK_COOKED_2: Final = 276

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD
_VLANS: Final = (0x8100, 0x88A8)
_UDP: Final = 17

Layer: TypeAlias = tuple[str, Mapping[str, Any]]
Answer: TypeAlias = tuple[Sequence[Layer], bytes] | None
Ask: TypeAlias = Callable[[str, bytes, bytes], Answer]
"""Asks the plugins: carrier, what it carries, and the headers of IP and UDP before that."""


class Dissected(NamedTuple):
    """The layers of a packet, outermost first; the last tells what a ring sent, if one did."""

    layers: Sequence[Layer]

    @property
    def ours(self) -> bool:
        """Whether it is a packet of a ring."""
        return any(name.startswith("vsync ") for name, _ in self.layers)


def dissect(packet: Captured, ask: Ask) -> Dissected:
    """Take the layers off. Never raises, whatever the bytes are."""
    layers: list[Layer] = []
    data = packet.data
    if packet.link == LINK_ETHERNET and len(data) >= 14:
        at = 12
        while int.from_bytes(data[at : at + 2]) in _VLANS and len(data) >= at + 6:
            at += 4
        _network(int.from_bytes(data[at : at + 2]), data[at + 2 :], ask, layers)
    elif packet.link == LINK_COOKED and len(data) >= 16:
        _network(int.from_bytes(data[14:16]), data[16:], ask, layers)
    elif packet.link == LINK_COOKED_2 and len(data) >= 20:
        _network(int.from_bytes(data[:2]), data[20:], ask, layers)
    elif packet.link in LINKS_RAW and data:
        ethertype = {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}.get(data[0] >> 4, 0)
        _network(ethertype, data, ask, layers)
    else:
        _inner(f"link {packet.link}", data, b"", ask, layers)
    if packet.whole_bytes > len(packet.data):
        layers.append(("cut", {"bytes": packet.whole_bytes, "captured": len(packet.data)}))
    return Dissected(layers)


def _network(ethertype: int, data: bytes, ask: Ask, layers: list[Layer]) -> None:
    if ethertype == ETHERTYPE_IPV4 and len(data) >= 20 and data[0] >> 4 == 4:
        header_bytes, total = (data[0] & 15) * 4, int.from_bytes(data[2:4])
        source, destination = data[12:16], data[16:20]
        fragment = int.from_bytes(data[6:8]) & 0x3FFF
        protocol, data = data[9], data[: max(total, header_bytes)]
        if header_bytes < 20 or fragment:
            return
    elif ethertype == ETHERTYPE_IPV6 and len(data) >= 40:
        header_bytes, total = 40, 40 + int.from_bytes(data[4:6])
        source, destination = data[8:24], data[24:40]
        protocol, data = data[6], data[:total]
    else:
        _inner(f"ethertype {ethertype:#06x}", data, b"", ask, layers)
        return
    if protocol != _UDP or len(data) < header_bytes + 8:
        return
    from_port, to_port, udp_bytes = struct.unpack_from(">HHH", data, header_bytes)
    if udp_bytes < 8:
        return
    places = [str(ipaddress.ip_address(each)) for each in (source, destination)]
    layers.append(("udp", {"from": places[0], "to": places[1], "ports": [from_port, to_port]}))
    start = header_bytes + 8
    payload = data[start : header_bytes + udp_bytes]
    _inner(f"udp {to_port}", payload, data[:start], ask, layers)


def _inner(carrier: str, data: bytes, before: bytes, ask: Ask, layers: list[Layer]) -> None:
    answer = ask(carrier, data, before)
    if answer is not None:
        layers += answer[0]
        data = answer[1]
    elif not carrier.startswith("udp"):
        return
    layers += named(data)
