"""Wireshark reads what we send as we mean it, and finds nothing wrong with it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from vsync_transport_ib.datagrams import Sender
from vsync_transport_ib.icrc import ROCE_PORT, Flow
from vsync_transport_ib.verbs import MULTICAST_QPN

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(
        os.environ.get("CI") != "true" and shutil.which("tshark") is None,
        reason="tshark is not installed here; Debian's package has that name",
    ),
]

HERE, GROUP = ("10.0.0.1", ROCE_PORT), ("239.192.77.1", ROCE_PORT)
MESSAGES = [b"VS a message", b"four", b"odd", bytes(1024)]
"""None is empty: tshark 4.0 takes a datagram without payload for a broken one."""


def read(path: Path) -> list[dict[str, Any]]:
    """What tshark finds in each packet, on one level."""
    done = subprocess.run(
        ["tshark", "-r", str(path), "-T", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, Any]] = []
    for packet in json.loads(done.stdout):
        fields: dict[str, Any] = {}
        flatten(packet["_source"]["layers"], fields)
        found.append(fields)
    return found


def flatten(tree: dict[str, Any], into: dict[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            flatten(value, into)
        else:
            into[name] = value


def test_tshark_reads_our_datagrams(tmp_path: Path) -> None:
    sender = Sender(
        Flow(HERE, GROUP),
        destination_qpn=MULTICAST_QPN,
        source_qpn=0x1234,
        qkey=0x01234567,
        pkey=0xFFFF,
    )
    pieces = [bytes(each) for each in sender.pack(MESSAGES, 7, numbered=False)]
    datagrams = [b"".join(pieces[at : at + 3]) for at in range(0, len(pieces), 3)]
    path = tmp_path / "ours.pcap"
    ip = IP(src=HERE[0], dst=GROUP[0], id=0, flags="DF")
    wrpcap(
        str(path),
        [Ether() / ip / UDP(sport=ROCE_PORT, dport=ROCE_PORT) / Raw(each) for each in datagrams],
    )
    for number, (fields, message) in enumerate(zip(read(path), MESSAGES, strict=True)):
        assert int(fields["infiniband.bth.opcode"], 0) == 0x64
        assert int(fields["infiniband.bth.destqp"], 0) == MULTICAST_QPN
        assert int(fields["infiniband.bth.psn"], 0) == 7 + number
        assert int(fields["infiniband.bth.padcnt"], 0) == -len(message) % 4
        assert int(fields["infiniband.bth.p_key"], 0) == 0xFFFF
        assert int(fields["infiniband.deth.srcqp"], 0) == 0x1234
        assert int(fields["infiniband.deth.q_key"], 0) == 0x01234567
        icrc = int(fields["infiniband.invariant.crc"], 0)
        assert icrc == int.from_bytes(datagrams[number][-4:])
        payload = bytes.fromhex(fields["data.data"].replace(":", ""))
        assert payload == message + bytes(-len(message) % 4), "tshark shows the padding, too"
        malformed = [name for name in fields if "malformed" in name or "expert" in name]
        assert not malformed
