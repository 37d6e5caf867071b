"""Settings: what a user may tune, checked alike from files and from code.

Units are at the end of each name. Presets are written as the difference from ``lan``.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vsync.vocabulary import NODE_ID_MAX

ON_RING: Final[dict[str, Any]] = {"change": "ring", "shared": True}
"""Marks a setting that all nodes share and that a reload changes on the whole ring at once."""

ON_NODE: Final[dict[str, Any]] = {"change": "node"}
"""Marks a setting that a reload changes on this node."""

SHARED: Final[dict[str, Any]] = {"shared": True}
"""Marks a setting that all nodes share and that does not change while a ring runs."""

MESSAGE_BYTES_LIMIT: Final = 64 * 2**20
"""No setting may allow a larger message: reassembly memory is bounded by it."""


class Strict(BaseModel):
    """A section of settings: unknown keys are errors, values are not changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def mark_of(model: type[BaseModel], name: str, mark: str) -> Any:
    """What a field of a section is marked with as ``change`` or ``shared``; None: nothing."""
    extra = model.model_fields[name].json_schema_extra
    return extra.get(mark) if isinstance(extra, dict) else None


PRESETS: Final[dict[str, dict[str, Any]]] = {
    "lan": {},
    "loopback": {
        "token_lost_s": 0.2,
        "token_resend_s": 0.05,
        "hold_s": 0.06,
        "consensus_s": 0.08,
        "join_s": 0.02,
        "beacon_s": 0.06,
    },
    "wan": {
        "token_lost_s": 3.0,
        "token_resend_s": 0.7,
        "hold_s": 1.0,
        "consensus_s": 1.5,
        "join_s": 0.2,
        "beacon_s": 1.0,
        "receive_failed_s": 20.0,
    },
}


class RingSettings(Strict):
    """``[ring]``: must be the same on every node of a ring, unless a field says otherwise."""

    name: str = Field(default="vsync", min_length=1, max_length=200)
    """Rings of different names ignore each other on the same network."""

    transport: str = "udp"
    """The transport plugin; its own settings are in ``[transport.NAME]``."""

    preset: str = Field(default="lan", json_schema_extra=ON_NODE)
    """``loopback``, ``lan`` or ``wan``: where the defaults of the timeouts below come from."""

    token_lost_s: float = Field(default=0.3, ge=0.03, le=600, json_schema_extra=ON_RING)
    """Silence of the token after which the ring is given up. Shorter finds a dead node sooner,
    and accuses a slow one sooner."""

    token_resend_s: float = Field(default=0.07, ge=0.005, le=600, json_schema_extra=ON_RING)
    """Wait before a token that may be lost is sent again. Leave room for several tries within
    ``token_lost_s``."""

    hold_s: float = Field(default=0.1, ge=0.001, le=600, json_schema_extra=ON_RING)
    """How long the representative keeps the token of an idle ring. Longer saves CPU; a node with
    something to send wakes the token at once. Leave room for two times ``token_resend_s`` within
    ``token_lost_s``."""

    join_s: float = Field(default=0.025, ge=0.005, le=600, json_schema_extra=ON_RING)
    """Interval between repeated joins while gathering, and between commit token resends."""

    consensus_s: float = Field(default=0.1, ge=0.01, le=600, json_schema_extra=ON_RING)
    """Wait for every node heard of to agree on the membership, before the silent ones are left
    out. Must allow several joins."""

    beacon_s: float = Field(default=0.1, ge=0.005, le=600, json_schema_extra=ON_RING)
    """Interval of the representative's beacon, by which rings find each other after a partition."""

    receive_failed_s: float = Field(default=3.0, ge=0.1, le=3600, json_schema_extra=ON_RING)
    """How long a node may hold up the ring for a message that it cannot get, before it leaves."""

    window_packets: int = Field(default=2048, ge=1, le=65536, json_schema_extra=ON_RING)
    """New packets of all nodes in one rotation of the token. Also limited by the receive buffer."""

    packets_per_visit: int = Field(default=1024, ge=1, le=65536, json_schema_extra=ON_RING)
    """New packets that one node may send at one visit of the token."""

    accelerated_packets: int = Field(default=1024, ge=0, le=65536, json_schema_extra=ON_RING)
    """Packets that a node may send after it passed the token (Accelerated Ring); 0 turns it off."""

    message_bytes_max: int = Field(
        default=2**20, ge=1, le=MESSAGE_BYTES_LIMIT, json_schema_extra=SHARED
    )
    """The largest message, in bytes."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict):
            preset = PRESETS.get(str(given.get("preset", "lan")))
            if preset is None:
                name = str(given.get("preset"))
                close = difflib.get_close_matches(name, PRESETS, n=1)
                advice = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(PRESETS)}"
                raise ValueError(f"preset {name!r} is unknown; {advice}")
            return {**preset, **given}
        return given

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if self.token_resend_s * 2 > self.token_lost_s:
            raise ValueError("token_lost_s must allow at least two times token_resend_s")
        if self.hold_s + self.token_resend_s * 2 > self.token_lost_s:
            raise ValueError("token_lost_s must allow hold_s and two times token_resend_s after it")
        if self.join_s * 2 > self.consensus_s:
            raise ValueError("consensus_s must allow at least two times join_s")
        return self

    def shared(self) -> tuple[tuple[str, float], ...]:
        """What all nodes of a ring must have alike, ascending by name."""
        return tuple((name, float(getattr(self, name))) for name in SHARED_NAMES)

    def with_shared(self, values: Iterable[tuple[str, float]]) -> Self:
        """These settings, but for what all nodes share: that as in *values*.

        Raises ValueError if they are not just those, or impossible.
        """
        given = dict(values)
        if sorted(given) != list(SHARED_NAMES):
            raise ValueError("the other node knows other settings than this one")
        chosen: dict[str, Any] = self.model_dump()
        for name, value in given.items():
            whole = isinstance(chosen[name], int) and value.is_integer()
            chosen[name] = int(value) if whole else value
        return self.model_validate(chosen)


SHARED_NAMES: Final = tuple(
    sorted(name for name in RingSettings.model_fields if mark_of(RingSettings, name, "shared"))
)
"""Settings in ``[ring]`` that all its nodes must have alike, ascending."""


class NodeSection(Strict):
    """``[node]``: this node alone."""

    id: int = Field(ge=1, le=NODE_ID_MAX)
    """This node's number, different on every node of the ring."""

    state_dir: str | None = None
    """Directory for what must outlive a crash (the number of the last ring). Without it:
    ``vsync`` in ``$XDG_STATE_HOME``, else ``/var/lib/vsync`` for root, else ``vsync`` in
    ``~/.local/state``."""

    drain_s: float = Field(default=2.0, ge=0, le=600, json_schema_extra=ON_NODE)
    """How long a closing node waits until all that it accepted is known to be everywhere."""

    synchronize_s: float = Field(default=30.0, ge=0.1, le=3600, json_schema_extra=ON_NODE)
    """How long a service may take to synchronize after a configuration change. Messages of priority
    MEDIUM and LOW are held meanwhile; a service that takes longer is ended on this node."""


class DaemonSection(Strict):
    """``[daemon]``: how local programs reach this node."""

    socket: str | None = None
    """Path of the Unix socket. Without it: a place of this user's own."""

    users: list[str | int] = Field(default_factory=list, json_schema_extra=ON_NODE)
    """Who may use the socket, by name or number, besides root and the user who runs the node."""

    groups: list[str | int] = Field(default_factory=list, json_schema_extra=ON_NODE)
    """Members of which groups may use the socket, by name or number."""

    clients_max: int = Field(default=1000, ge=1, le=100_000, json_schema_extra=ON_NODE)
    """How many local programs may be connected at a time. Each needs a file descriptor."""

    client_stuck_s: float = Field(default=10.0, ge=0.1, le=3600, json_schema_extra=ON_NODE)
    """A local program that holds up the ring for so long, since it does not read, is cut off."""

    slow: Literal["block", "evict", "spill"] = Field(default="block", json_schema_extra=ON_NODE)
    """What happens to a local program that does not say itself what is to happen when it is slow:
    ``block`` (the ring waits for it), ``evict`` (it is ended) or ``spill`` (its events go to
    disk)."""

    may_block: bool = Field(default=True, json_schema_extra=ON_NODE)
    """Whether a local program may make the ring wait. If not, ``slow`` must be another policy."""

    queue_bytes: int = Field(default=32 * 2**20, ge=1, le=2**40, json_schema_extra=ON_NODE)
    """What may wait for a local program in memory, if it does not say itself."""

    queue_bytes_max: int = Field(default=256 * 2**20, ge=1, le=2**40, json_schema_extra=ON_NODE)
    """The most that a local program may ask to have waiting in memory."""

    spill_bytes: int = Field(default=2**30, ge=0, le=2**50, json_schema_extra=ON_NODE)
    """What may go to disk for a local program under ``spill``, if it does not say itself."""

    spill_bytes_max: int = Field(default=4 * 2**30, ge=0, le=2**50, json_schema_extra=ON_NODE)
    """The most that a local program may ask to have on disk."""

    @field_validator("users", "groups", mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        for each in given if isinstance(given, list | tuple) else ():
            number = isinstance(each, int) and not isinstance(each, bool)
            if not (isinstance(each, str) and each) and not (number and 0 <= each < 2**32 - 1):
                raise ValueError(f"each is a name or a number from 0 on, not {each!r}")
        return given

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.slow == "block" and not self.may_block:
            raise ValueError("slow must be evict or spill where may_block is false")
        if self.queue_bytes > self.queue_bytes_max:
            raise ValueError("queue_bytes must not be above queue_bytes_max")
        if self.spill_bytes > self.spill_bytes_max:
            raise ValueError("spill_bytes must not be above spill_bytes_max")
        return self


class SecuritySection(Strict):
    """``[security]``: the ring's key."""

    key_file: str | None = None
    """The file with the key of the ring, made by `vsync keygen` and the same on all nodes. With it
    all packets are sealed: who does not have it can neither read nor send any. Without it, anyone
    on the network can."""

    accepted_key_files: list[str] = Field(default_factory=list, json_schema_extra=ON_NODE)
    """Files with other keys whose seals are accepted, while keys are changed."""

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if self.accepted_key_files and self.key_file is None:
            raise ValueError("accepted_key_files needs key_file, the key that seals")
        return self


class NodeSettings(Strict):
    """Everything that a node is told when it opens; what a settings file says."""

    node: NodeSection
    ring: RingSettings = Field(default_factory=RingSettings)
    transport: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """A section for each transport, by name; read by the transport's own model."""
    service: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """A section for each service that this node runs, by name; read by the service's own model."""
    daemon: DaemonSection = Field(default_factory=DaemonSection)
    security: SecuritySection = Field(default_factory=SecuritySection)
