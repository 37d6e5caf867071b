"""The transport ``pigeon``: UDP on this machine; a directory tells who listens at which port."""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import vsync


class PigeonSettings(BaseModel):
    """``[transport.pigeon]``"""

    model_config = ConfigDict(extra="forbid")

    loft: str
    """A directory that all nodes share."""


class Pigeon(vsync.Transport):
    """One node's socket, and the file that says where it is."""

    SCHEME = "pigeon"
    SETTINGS = PigeonSettings

    def __init__(self, settings: PigeonSettings, *, node: vsync.NodeId) -> None:
        self._loft = Path(settings.loft)
        self._ring = self._loft / f"{node}.port"
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen, and say where."""
        bird = socket.socket(type=socket.SOCK_DGRAM)
        try:
            bird.setblocking(False)
            bird.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            bird.bind(("127.0.0.1", 0))
            self._ring.write_text(str(bird.getsockname()[1]))
        except OSError as error:
            bird.close()
            raise vsync.TransportFailed(
                f"cannot use the loft {self._loft}: {error.strerror}; make it, for this user"
            ) from error
        self._socket = bird

    def close(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._ring.unlink(missing_ok=True)

    def descriptors(self) -> Sequence[int]:
        """The socket's."""
        return [self._socket.fileno()] if self._socket else []

    def send(self, burst: vsync.Burst) -> None:
        """To one, or to all that are in the loft."""
        if self._socket is None:
            raise vsync.TransportFailed("the loft is closed")
        targets: list[Any] = [burst.destination]
        if burst.destination is vsync.EVERYONE:
            targets = [
                ("127.0.0.1", int(port))
                for ring in self._loft.glob("*.port")
                if ring != self._ring and (port := self._read(ring))
            ]
        for target in targets:
            for packet in burst.packets:
                with contextlib.suppress(OSError):
                    self._socket.sendto(packet, target)

    @staticmethod
    def _read(ring: Path) -> str:
        try:
            return ring.read_text()
        except FileNotFoundError:  # it has just gone
            return ""

    def receive(self) -> Sequence[vsync.Packet]:
        """What has come."""
        packets: list[vsync.Packet] = []
        while self._socket is not None and len(packets) < 200:
            try:
                packets.append(vsync.Packet(*self._socket.recvfrom(2**16)))
            except BlockingIOError:
                break
            except OSError:
                continue
        return packets

    @property
    def packet_bytes_max(self) -> int:
        """More than on any wire, for it is none."""
        return 8192

    @property
    def receive_buffer_bytes(self) -> int:
        """What there really is."""
        if self._socket is None:
            return 2**17
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@vsync.hookimpl
def vsync_register_transports() -> Sequence[type[vsync.Transport]]:
    """What is in this module."""
    return [Pigeon]
