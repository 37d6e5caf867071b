"""Rings on a real kernel's InfiniBand verbs: Soft-RoCE devices of a guest.

All tests here share one guest, with three devices on one Ethernet: to start it takes longer than
most of what is done in it. Nodes there are slow, so they have more patience than elsewhere.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.guest.machine import Guest
from tests.guest.nodes import GuestNode, GuestRing, add_cards, add_devices, address
from tests.network.nodes import Node, eventually
from tests.transport_udp.hosts import Ethernet
from vsync.trace import Sent

pytestmark = [pytest.mark.infiniband, pytest.mark.timeout(400)]

INSIDE = (11, 12, 13)
OUTSIDE = (1, 2)
PATIENT = "token_lost_s = 3.0\ntoken_resend_s = 0.3\njoin_s = 0.2\nconsensus_s = 3.0\n"
WITHIN_S = 90.0
ROCE = "udp dport 4791"
UDP = "udp dport 5405"

WARM = (
    *("vsync_cli.main", "vsync_cli.commands.run", "vsync_cli.commands.status"),
    *("vsync_cli.commands.send", "vsync.testing", "pytest"),
    *("vsync_transport_ib.transport", "vsync_transport_ib.rdma", "vsync_transport_udp.transport"),
)

WITHOUT_PRIVILEGE = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_IPC_LOCK = 1, 2, 14
kept = (1 << 41) - 1 & ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH | 1 << CAP_IPC_LOCK)
words = (ctypes.c_uint32 * 6)(*[kept & 0xFFFFFFFF] * 2, 0, *[kept >> 32] * 2, 0)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert ctypes.CDLL(None).capset(header, words) == 0
"""
"""What a process of an ordinary user lacks, though it may read root's files."""


class Place:
    """The guest, and the Ethernet that its cards and two hosts are on."""

    def __init__(self, guest: Guest, ethernet: Ethernet, cards: list[str]) -> None:
        self.guest = guest
        self.ethernet = ethernet
        self.cards = dict(zip(INSIDE, cards, strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        ethernet = stack.enter_context(Ethernet())
        for _ in OUTSIDE:
            ethernet.add_host()
        cards = add_cards(ethernet, len(INSIDE))
        directory = tmp_path_factory.mktemp("guest")
        guest = stack.enter_context(Guest(directory, taps=cards, netns=ethernet.name))
        add_devices(guest, INSIDE)
        guest.warm(*WARM)
        yield Place(guest, ethernet, cards)


def section(number: int) -> str:
    """``[transport.ib]`` of a node, inside or outside."""
    provider = "verbs" if number in INSIDE else "soft"
    return f'provider = "{provider}"\ndevice = "{address(number)}"\nreceive_depth = 1024\n'


def twofold(number: int) -> str:
    """``[transport.redundant]``: ``ib`` and ``udp``, both on the same card."""
    ib = f'device = "{address(number)}", receive_depth = 1024'
    return (
        'mode = "passive"\n'
        f'[[transport.redundant.links]]\ntransport = "ib"\nsettings = {{ {ib} }}\n'
        '[[transport.redundant.links]]\ntransport = "udp"\n'
        f'settings = {{ bind = "{address(number)}", group = "239.192.77.2" }}\n'
    )


def make_ring(place: Place, name: str, *, outside: bool = False, links: bool = False) -> GuestRing:
    return GuestRing(
        place.guest,
        place.ethernet,
        place.guest.directory / name,
        inside=INSIDE[:1] if outside else INSIDE,
        outside=OUTSIDE if outside else (),
        transport="redundant" if links else "ib",
        section=twofold if links else section,
        ring=PATIENT,
    )


def test_a_script_in_the_guest_gives_code_output_and_files_and_may_not_take_for_ever(
    place: Place,
) -> None:
    file = place.guest.directory / "written"
    done = place.guest.run(f"uname -r; echo trouble >&2; echo content > {file}; exit 3")
    assert done.code == 3
    assert done.output.endswith("-amd64\ntrouble\n")
    assert file.read_text() == "content\n"
    assert place.guest.run("echo began; sleep 50 & sleep 50", within_s=3) == (None, "began\n")


def test_the_contract_holds_over_verbs_and_devices_do_as_they_say(place: Place) -> None:
    # What it would rewrite is imported already; see `Guest.warm`.
    options = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    inside = "tests/transport_ib/inside_guest.py"
    done = place.guest.call("pytest", *options, inside, within_s=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_ring_of_three_is_loaded_killed_cut_and_merged(place: Place) -> None:
    with make_ring(place, "three") as ring:
        ring.start()
        ring.wait_for(within_s=WITHIN_S)
        load = ring.load("--rate", "20")
        for size, count in ((65_536, 20), (1_048_576, 3)):
            node = ring[12]
            assert isinstance(node, GuestNode)
            done = node.vsync(
                *("send", "--socket", str(node.socket), "red"),
                *("--count", str(count), "--size", str(size)),
            )
            assert done.returncode == 0, done.stderr
        ring.wait_for_messages(200)
        ring[13].kill()
        ring.wait_for(11, 12, within_s=WITHIN_S)
        ring.start(13)
        ring.wait_for(within_s=WITHIN_S)
        ring.drop(*place.cards.values(), what=f"{ROCE} numgen random mod 100 < 3")
        ring.wait_for_messages(100)
        ring.pass_all()
        for number in (12, 13):  # each of the two is alone, and so is the third
            ring.drop(place.cards[number])
        ring.wait_for(11, within_s=WITHIN_S)
        ring.pass_all()
        ring.wait_for(within_s=WITHIN_S)
        ring.wait_for_messages(100)
        report = ring.finish(load, messages=100)
        lines = (line for process in report.history.processes for line in process.lines)
        sizes = {line.size for line in lines if isinstance(line, Sent)}
        assert {65_536, 1_048_576} <= sizes
        ring.leave()


def test_ib_and_udp_as_links_survive_the_loss_of_either(place: Place) -> None:
    with make_ring(place, "links", links=True) as ring:
        ring.start()
        ring.wait_for(within_s=WITHIN_S)
        eventually(
            lambda: all(link_states(node) == ["good", "good"] for node in ring.nodes),
            lambda: f"good links at first{ring.complaints()}",
            WITHIN_S,
        )
        load = ring.load("--rate", "10")
        ring.wait_for_messages(50)
        before = configurations(ring)
        for what, states in ((ROCE, ["faulty", "good"]), (UDP, ["good", "faulty"])):
            ring.drop(*place.cards.values(), what=what)
            wait_for_states(ring, states)
            ring.wait_for_messages(50)
            ring.pass_all()
            wait_for_states(ring, ["good", "good"])
        assert configurations(ring) == before, ring.complaints()
        ring.finish(load, messages=50)
        assert configurations(ring) == before


def test_a_kernel_s_verbs_and_user_space_make_one_ring(place: Place) -> None:
    with make_ring(place, "mixed", outside=True) as ring:
        ring.start()
        ring.wait_for(within_s=WITHIN_S)
        load = ring.load("--rate", "20")
        ring.wait_for_messages(200)
        ring[2].kill()
        ring.wait_for(1, 11, within_s=WITHIN_S)
        ring.start(2)
        ring.wait_for(within_s=WITHIN_S)
        ring.drop(place.cards[11])
        ring.wait_for(1, 2, within_s=WITHIN_S)
        ring.pass_all()
        ring.wait_for(within_s=WITHIN_S)
        ring.wait_for_messages(100)
        ring.finish(load, messages=100)
        providers = [node.status()["transport"]["provider"] for node in ring.nodes]
        assert providers == ["soft", "soft", "verbs"]
        ring.leave()


@pytest.mark.parametrize(
    ("setting", "before", "after", "sentence"),
    [
        ('device = "rxe9"', "", "", "rxe9"),
        ('device = "rxe1"\ngid_index = 77', "", "", "port 1 of rxe1 has no GID 77; it has"),
        (
            'device = "rxe2"',
            "ip link set eth2 down",
            "ip link set eth2 up",
            "port 1 of rxe2 is DOWN, not ACTIVE",
        ),
        ('device = "rxe1"', "", "", "KiB of locked memory, and this process may lock 64 KiB"),
        (
            'device = "rxe1"',
            "for n in /dev/infiniband/uverbs*; do chown nobody $n; chmod 600 $n; done",
            "for n in /dev/infiniband/uverbs*; do chown root $n; chmod 666 $n; done",
            "no permission on /dev/infiniband/uverbs",
        ),
    ],
    ids=["no device", "no GID", "port down", "memory", "permission"],
)
def test_what_is_wrong_is_said_in_a_sentence(
    place: Place, setting: str, before: str, after: str, sentence: str
) -> None:
    file = place.guest.directory / "wrong.toml"
    file.write_text(
        '[node]\nid = 1\nstate_dir = "/run/wrong"\n[ring]\nname = "wrong"\ntransport = "ib"\n'
        f"[transport.ib]\n{setting}\n"
    )
    if before:
        place.guest.need(before)
    try:
        done = place.guest.call(
            *("vsync_cli", "run", "-c", str(file), "--socket", "/run/wrong.sock"),
            prepare=WITHOUT_PRIVILEGE,
        )
    finally:
        if after:
            place.guest.need(after)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")


def test_doctor_looks_at_a_device_of_the_kernel(place: Place) -> None:
    file = place.guest.directory / "doctor.toml"
    file.write_text(
        '[node]\nid = 1\nstate_dir = "/run/doctor"\n[ring]\nname = "doctor"\ntransport = "ib"\n'
        '[transport.ib]\ndevice = "rxe0"\n'
    )
    # Elsewhere what a host sends to itself stays there; the rules of this one send it out.
    own = f"from {address(INSIDE[0])} to {address(INSIDE[0])} lookup local"
    place.guest.need(f"ip rule add pref 5 {own}")
    try:
        done = place.guest.call("vsync_cli", "doctor", "-c", str(file), "--seconds", "1", "--json")
    finally:
        place.guest.need(f"ip rule del pref 5 {own}")
    found = {
        finding["about"]: (finding["level"], finding["text"])
        for finding in json.loads(done.stdout)["findings"]
    }
    assert found["devices"] == (
        "fine",
        "rxe0 (port 1 ACTIVE); rxe1 (port 1 ACTIVE); rxe2 (port 1 ACTIVE)",
    )
    assert found["port"][0] == "fine"
    assert found["port"][1].startswith("port 1 of rxe0 is ACTIVE, with GID ")
    assert "port 1 of rxe0 carries messages of 1024 bytes" in found["MTU"][1]
    assert found["locked memory"][0] == "fine"
    assert found["self-test"][0] == "fine", found
    assert "Traceback" not in done.stderr


def link_states(node: Node) -> list[str]:
    """How a node finds its links."""
    links = node.status()["transport"]["links"]
    return [links[str(link)]["state"] for link in (1, 2)]


def wait_for_states(ring: GuestRing, states: list[str]) -> None:
    """Wait until all nodes have said that their links are like this.

    What they say is read, rather than that they are asked: to ask loads the guest.
    """

    def state(node: Node, link: int) -> str:
        said = [line for line in node.said().splitlines() if f"link {link} is " in line]
        return "faulty" if said and f"link {link} is faulty" in said[-1] else "good"

    def found() -> list[list[str]]:
        return [[state(node, link) for link in (1, 2)] for node in ring.nodes]

    eventually(
        lambda: found() == [states] * len(ring.nodes),
        lambda: f"{states}: {found()}{ring.complaints()}",
        WITHIN_S,
    )


def configurations(ring: GuestRing) -> list[str]:
    """The last configuration of each node, and how many it had."""

    def last(node: Node) -> str:
        node.following.read()
        return f"{node.following.configurations[-1]['id']} {len(node.following.configurations)}"

    return [last(node) for node in ring.nodes]
