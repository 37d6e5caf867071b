"""A bad network on purpose: around any transport, lose, repeat, delay and reorder its packets.

Everything happens to *received* packets, one by one, so each node's faults are its own, and a
burst that the network carried in one piece is not lost in one piece. ``cut`` stops sending too.

A script changes what happens at times that are known before. It can also be changed while the
node runs, from outside and without rights: write the new values to the control file (TOML, the keys
of ``Faults``; best into a file beside it that is then renamed over it). They stand above those of
settings and script; removing the file brings these back.
"""

import heapq
import itertools
import random
import time
import tomllib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from vsync.errors import TransportFailed
from vsync.hookspecs import hookimpl
from vsync.settings import Strict
from vsync.transport import Address, Burst, Packet, Station, Transport
from vsync.transports.inner import check_settings, looking_up, make_inner, told
from vsync.transports.timer import Timer
from vsync.vocabulary import NodeId

CONTROL_INTERVAL_S: Final = 0.02
"""How often at most the control file is read."""


class Faults(Strict):
    """What goes wrong. Probabilities are between 0 and 1, and apply to each packet by itself."""

    loss: float = Field(default=0.0, ge=0, le=1)
    """The probability that a received packet is lost."""

    duplicate: float = Field(default=0.0, ge=0, le=1)
    """The probability that a received packet comes twice."""

    reorder: float = Field(default=0.0, ge=0, le=1)
    """The probability that a received packet is held back by ``reorder_s``."""

    reorder_s: float = Field(default=0.005, ge=0, le=60)
    """How long a packet to be reordered is held back."""

    delay_s: float = Field(default=0.0, ge=0, le=60)
    """How much later every received packet arrives."""

    jitter_s: float = Field(default=0.0, ge=0, le=60)
    """How much later at most, beyond ``delay_s``, chosen anew for every packet."""

    cut: bool = False
    """Nothing comes in and nothing goes out: the node is alone."""

    cut_send: bool = False
    """Nothing goes out."""

    cut_receive: bool = False
    """Nothing comes in."""

    cut_from: tuple[str, ...] = ()
    """Nothing comes in from these addresses, written as ``HOST:PORT`` or ``HOST`` (for the
    transport ``memory``: its number)."""


class ScriptStep(Faults):
    """``[[transport.fault.script]]``: other faults from a time on. What a step does not name is as
    ``[transport.fault]`` says."""

    at_s: float = Field(ge=0)
    """When, after the transport was opened."""


class FaultSettings(Faults):
    """``[transport.fault]``: the faults at the start, and the transport that has them."""

    inner: str = "udp"
    """The transport that really carries the packets."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """The settings of that transport: ``[transport.fault.settings]``."""

    seed: int | None = None
    """For the dice. Unset: different every time."""

    script: tuple[ScriptStep, ...] = ()
    """What changes when, in the order of time: ``[[transport.fault.script]]``, a section each, with
    ``at_s`` and the faults from then on."""

    control: Path | None = None
    """The control file; it need not exist. What it says stands above the script."""

    @field_validator("script")
    @classmethod
    def _check_script(cls, script: tuple[ScriptStep, ...]) -> tuple[ScriptStep, ...]:
        times = [step.at_s for step in script]
        if times != sorted(times):
            raise ValueError(f"steps must be in the order of time, and at_s are {times}")
        return script

    @model_validator(mode="after")
    def _check_inner(self) -> Self:
        if self.inner == TransportFault.SCHEME:
            raise ValueError('inner must be another transport than "fault" itself')
        try:
            check_settings(self.inner, self.settings)
        except ValueError as error:
            raise ValueError(f"inner: {error}") from error
        return self


class TransportFault(Transport):
    """Another transport, with faults."""

    SCHEME: ClassVar[str] = "fault"
    SETTINGS: ClassVar[type[BaseModel]] = FaultSettings

    @classmethod
    def looking_up(cls, settings: BaseModel) -> Callable[[], None] | None:
        """What the transport within has to."""
        assert isinstance(settings, FaultSettings)
        return looking_up(settings.inner, settings.settings)

    def __init__(
        self,
        settings: FaultSettings,
        *,
        node: NodeId,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._inner = make_inner(settings.inner, settings.settings, node)
        self._dice = random.Random(settings.seed)
        self._faults: Faults = settings
        self._script = deque(settings.script)
        self._opened_at = clock()
        self._given: dict[str, Any] = settings.model_dump(include=_FAULTS)
        """What settings and script say now."""
        self._timer = Timer()
        self._waiting: list[tuple[float, int, Packet]] = []
        self._order = itertools.count()
        self._controlled_at = float("-inf")
        self._control_seen: str | None = None
        self._control_error: str | None = None
        self._lost = 0
        self._duplicated = 0
        self._delayed = 0
        self._cut = 0

    @property
    def composed(self) -> bool:
        """As the inner transport. If that is not, the seal is around the faults."""
        return self._inner.composed

    def serve(self, station: Station) -> None:
        """Pass it on to the inner transport."""
        self._inner.serve(station)

    def open(self) -> None:
        """Open the inner transport, and a timer for what is delayed."""
        self._inner.open()
        self._opened_at = self._clock()
        try:
            self._timer.open()
        except OSError as error:
            self._inner.close()
            raise TransportFailed(
                f"the transport fault gets no timer: {error.strerror or error}; "
                "see the limit of file descriptors with ulimit -n"
            ) from error

    def close(self) -> None:
        """Close the inner transport; what is delayed is lost."""
        self._inner.close()
        self._timer.close()
        self._waiting.clear()

    def descriptors(self) -> Sequence[int]:
        """Those of the inner transport, and the timer's."""
        inner = self._inner.descriptors()
        return [*inner, self._timer.descriptor] if inner else []

    def send(self, burst: Burst) -> None:
        """Send through the inner transport, unless cut."""
        self._follow(self._clock())
        faults = self._faults
        if faults.cut or faults.cut_send:
            self._cut += len(burst.packets)
            return
        self._inner.send(burst)

    def receive(self) -> Sequence[Packet]:
        """What the inner transport has, less, more, later, and in another order."""
        now = self._clock()
        self._follow(now)
        arrived = self._inner.receive()
        for packet in arrived:
            self._suffer(packet, now)
        batch = []
        while self._waiting and self._waiting[0][0] <= now:
            batch.append(heapq.heappop(self._waiting)[2])
        self._timer.set(self._waiting[0][0] - now if self._waiting else 0.0)
        return batch

    def _suffer(self, packet: Packet, now: float) -> None:
        faults, dice = self._faults, self._dice
        if (
            faults.cut
            or faults.cut_receive
            or (faults.cut_from and _is_among(packet.source, faults.cut_from))
        ):
            self._cut += 1
            return
        if faults.loss and dice.random() < faults.loss:
            self._lost += 1
            return
        copies = 1
        if faults.duplicate and dice.random() < faults.duplicate:
            self._duplicated += 1
            copies = 2
        for _ in range(copies):
            due = now + faults.delay_s
            if faults.jitter_s:
                due += dice.random() * faults.jitter_s
            if faults.reorder and dice.random() < faults.reorder:
                due += faults.reorder_s
            self._delayed += due > now
            heapq.heappush(self._waiting, (due, next(self._order), packet))

    def _follow(self, now: float) -> None:
        """Have the faults of this time."""
        if self._script and self._script[0].at_s <= now - self._opened_at:
            while self._script and self._script[0].at_s <= now - self._opened_at:
                step = self._script.popleft()
            told_now = step.model_dump(include=_FAULTS, exclude_unset=True)
            self._given = {**self._settings.model_dump(include=_FAULTS), **told_now}
            self._faults = Faults.model_validate(self._given)
            self._controlled_at, self._control_seen = float("-inf"), None
        if self._settings.control and now - self._controlled_at >= CONTROL_INTERVAL_S:
            self._follow_control(self._settings.control, now)

    def _follow_control(self, control: Path, now: float) -> None:
        self._controlled_at = now
        try:
            # Its text is compared, not its time: two changes may have the same one.
            seen = control.read_text(encoding="utf-8")
            if seen == self._control_seen:
                return
            given = tomllib.loads(seen)
            faults = Faults.model_validate({**self._given, **given})
        except FileNotFoundError:
            self._control_seen = self._control_error = None
            self._faults = Faults.model_validate(self._given)
        except (OSError, ValueError) as error:
            # Perhaps half written: what held so far holds on, and the file is read again.
            why = str(error)
            if isinstance(error, ValidationError):
                why = told(error, Faults.model_fields)
            self._control_error = f"the control file {control} is not understood: {why}"
        else:
            self._faults, self._control_seen, self._control_error = faults, seen, None

    @property
    def packet_bytes_max(self) -> int:
        """The inner transport's."""
        return self._inner.packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """The inner transport's."""
        return self._inner.receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """The inner transport's facts under ``inner``, the faults, and what they did."""
        inner = dict(self._inner.status)
        warnings = [
            *inner.pop("warnings", []),
            f"the transport fault spoils the network of {self._settings.inner} on purpose",
        ]
        if self._control_error is not None:
            warnings.append(self._control_error)
        return {
            "inner": {"scheme": self._settings.inner, **inner},
            "faults": self._faults.model_dump(include=_FAULTS, mode="json"),
            "packet_bytes_max": self.packet_bytes_max,
            "counters": {
                "packets_lost_by_fault": self._lost,
                "packets_duplicated": self._duplicated,
                "packets_delayed": self._delayed,
                "packets_cut": self._cut,
            },
            "warnings": warnings,
        }


_FAULTS: Final = set(Faults.model_fields)


def _is_among(source: Address, addresses: Sequence[str]) -> bool:
    if isinstance(source, tuple) and len(source) >= 2:
        return str(source[0]) in addresses or f"{source[0]}:{source[1]}" in addresses
    return str(source) in addresses


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``fault``."""
    return [TransportFault]
