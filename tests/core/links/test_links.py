"""Links: what goes where, what is seen of it, and when a link is faulty or good."""

from collections.abc import Callable, Iterator

import pytest

from vsync.links import Links, LinkState, Manner, Mode, Path, is_hello
from vsync.links.hello import HEARD_MAX
from vsync.links.links import ADDRESSES_MAX
from vsync.transport import EVERYONE, Address, Burst, Packet, Station
from vsync.vocabulary import NodeId

TOKEN = b"VS\x01\x00 the token"
DATA = b"VS\x01\x01 some data"

Lossy = Callable[[int, int, int], bool]
"""Whether what goes on a link from one node to another is lost."""


class Networks:
    """Nodes on two or more networks that carry everything at once."""

    def __init__(self, nodes: int, links: int, manner: Manner) -> None:
        self.now = 1000.0
        self.manner = manner
        self.nodes = {
            number: Links(Station(NodeId(number), 1, 0), manner=manner, now=self.now)
            for number in range(1, nodes + 1)
        }
        for node in self.nodes.values():
            for link in range(1, links + 1):
                node.add(link, self.now)
        self.lossy: Lossy = lambda link, sender, receiver: False
        self.moved: dict[tuple[int, int], Address] = {}
        """The addresses of nodes on links that have another than at first."""
        self.seen: dict[int, list[bytes]] = {number: [] for number in self.nodes}
        self.count = 0
        self.carrying = ""
        self.carrying_bytes = 0

    def address(self, node: int, link: int) -> Address:
        return self.moved.get((node, link), at(node, link))

    def look(self) -> None:
        for number, links in self.nodes.items():
            links.look(self.now)
            for link, burst in links.take_hellos():
                self.carry(number, link, burst)

    def carry(self, sender: int, number: int, burst: Burst) -> None:
        self.carrying = "hello" if is_hello(burst.packets[0]) else "ring"
        self.carrying_bytes = len(burst.packets[0])
        for receiver, links in self.nodes.items():
            wanted = burst.destination in (EVERYONE, self.address(receiver, number))
            if receiver == sender or not wanted or number not in links.links:
                continue
            if self.lossy(number, sender, receiver):
                continue
            packets = [Packet(packet, self.address(sender, number)) for packet in burst.packets]
            arrived = links.arrived(number, packets, self.now)
            self.seen[receiver] += [bytes(each) for each, _ in arrived]  # type: ignore[arg-type]

    def send(self, sender: int, packet: bytes, to: int | None = None) -> list[int]:
        """Send a packet; the links that it went on."""
        destination = EVERYONE if to is None else Path(1, at(to, 1))
        parts = self.nodes[sender].send(Burst(destination, [packet]))
        for number, burst in parts:
            self.carry(sender, number, burst)
        return [number for number, _ in parts]

    def run(self, seconds: float) -> None:
        """Let everybody say hello for a while."""
        end = self.now + seconds
        while self.now < end:
            for number, links in self.nodes.items():
                links.handle_timeout(self.now)
                for link, burst in links.take_hellos():
                    self.carry(number, link, burst)
            self.now += self.manner.hello_s / 10

    def state(self, node: int, link: int) -> LinkState:
        return self.nodes[node].links[link].state


def at(node: int, link: int) -> Address:
    return f"10.{link}.0.{node}"


@pytest.fixture(params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    yield request.param


def networks(mode: Mode = Mode.PASSIVE, nodes: int = 3, links: int = 2) -> Networks:
    made = Networks(nodes, links, Manner(mode=mode))
    made.run(1.0)
    return made


def test_links_that_work_are_good(mode: Mode) -> None:
    net = networks(mode)
    for node, link in ((1, 1), (1, 2), (3, 1), (3, 2)):
        assert net.state(node, link) is LinkState.GOOD


def test_a_node_alone_says_nothing_of_its_links() -> None:
    net = networks(nodes=1)
    assert net.state(1, 1) is net.state(1, 2) is LinkState.IDLE
    assert net.send(1, DATA) in ([1], [2])


def test_the_token_goes_on_all_links_and_is_seen_once(mode: Mode) -> None:
    net = networks(mode)
    assert net.send(1, TOKEN, to=2) == [1, 2]
    assert net.seen == {1: [], 2: [TOKEN], 3: []}


def test_a_token_that_is_sent_again_is_seen_again() -> None:
    net = networks()
    net.send(1, TOKEN, to=2)
    net.send(1, TOKEN, to=2)
    assert net.seen[2] == [TOKEN, TOKEN]


def test_passive_takes_each_link_about_as_often_and_in_no_pattern() -> None:
    net = networks()
    taken = [net.send(1, DATA) for _ in range(1000)]
    for part in (taken, taken[::2], taken[::3], taken[::4]):
        assert len(part) * 0.4 < part.count([1]) < len(part) * 0.6
        assert part.count([1]) + part.count([2]) == len(part)


def test_active_takes_all_links() -> None:
    assert networks(Mode.ACTIVE).send(1, DATA) == [1, 2]


def test_active_passive_takes_some_in_turn() -> None:
    net = networks(Mode.ACTIVE_PASSIVE, links=3)
    taken = [tuple(sorted(net.send(1, DATA))) for _ in range(60)]
    assert set(taken) == {(1, 2), (2, 3), (1, 3)}


def test_fastest_takes_the_link_with_the_shortest_round_trip() -> None:
    net = networks(Mode.FASTEST)
    for hearing in net.nodes[1].links[1].hearing.values():
        hearing.round_s = 0.002
    for hearing in net.nodes[1].links[2].hearing.values():
        hearing.round_s = 0.001
    assert net.send(1, DATA) == [2]


def test_a_link_that_is_cut_is_left_and_named(mode: Mode) -> None:
    net = networks(mode)
    net.lossy = lambda link, sender, receiver: link == 2
    net.run(0.5)
    assert net.state(1, 2) is LinkState.FAULTY
    assert net.state(1, 1) is LinkState.GOOD
    assert net.send(1, DATA) == [1]
    assert net.send(1, TOKEN, to=2) == [1, 2]  # it is small, and the other link may break, too
    (news,) = net.nodes[1].take_news()
    assert news == "link 2 is faulty: nodes 2, 3 are not heard on it, but on another link"


def test_a_link_that_is_cut_one_way_is_left_by_both_sides() -> None:
    net = networks()
    net.lossy = lambda link, sender, receiver: (link, sender, receiver) == (2, 1, 3)
    net.run(0.6)
    assert net.state(1, 2) is LinkState.FAULTY
    assert "node 3 is not reached" in net.nodes[1].take_news()[0]
    assert net.state(3, 2) is LinkState.FAULTY
    assert net.state(2, 2) is LinkState.GOOD


def test_a_link_that_loses_much_is_left() -> None:
    net = networks()
    count = 0

    def lossy(link: int, sender: int, receiver: int) -> bool:
        nonlocal count
        count += 1
        return link == 2 and count % 3 == 0

    net.lossy = lossy
    net.run(10)
    assert net.state(1, 2) is LinkState.FAULTY


def test_a_link_comes_back_when_it_has_worked_for_a_while() -> None:
    net = networks()
    net.lossy = lambda link, sender, receiver: link == 2
    net.run(0.5)
    net.lossy = lambda link, sender, receiver: False
    net.run(0.3)
    assert net.state(1, 2) is LinkState.FAULTY
    net.run(20)
    assert net.state(1, 2) is LinkState.GOOD
    assert net.nodes[1].take_news()[-1] == "link 2 is good again"


def test_a_link_that_flaps_is_left_longer_each_time() -> None:
    net = networks()
    patience = []
    for _ in range(4):
        net.lossy = lambda link, sender, receiver: link == 2
        net.run(0.6)
        patience.append(net.nodes[1].links[2].patience_s)
        net.lossy = lambda link, sender, receiver: False
        while net.state(1, 2) is LinkState.FAULTY:
            net.run(0.5)
    assert patience == sorted(patience)
    assert patience[-1] > patience[0]


def test_where_no_link_is_good_all_are_used() -> None:
    net = networks()
    net.lossy = lambda link, sender, receiver: (link, receiver) in ((1, 2), (2, 3))
    net.run(0.6)
    assert net.state(1, 1) is net.state(1, 2) is LinkState.FAULTY
    assert net.send(1, DATA) == [1, 2]


def test_under_load_a_link_that_is_cut_is_left_within_30_ms(mode: Mode) -> None:
    net = networks(mode)
    net.lossy = lambda link, sender, receiver: link == 2
    began = net.now
    while LinkState.GOOD in {net.state(node, 2) for node in net.nodes}:
        for sender, receiver in ((1, 2), (2, 3), (3, 1)):
            net.send(sender, b"VS\x01\x00 token %d" % net.count, to=receiver)
            net.send(sender, b"VS\x01\x03 to all %d" % net.count)
            net.count += 1
        net.now += 0.001
        net.look()
    assert net.now - began <= 0.03


def test_a_link_that_loses_tokens_is_left_though_its_hellos_come() -> None:
    net = networks()
    net.lossy = lambda link, sender, receiver: (
        (link, sender) == (2, 1) and net.carrying != "hello" and net.count % 3 == 0
    )
    for _ in range(100):
        for _ in range(5):
            net.send(1, b"VS\x01\x00 token %d" % net.count, to=2)
            net.count += 1
        net.run(0.01)
    assert net.state(2, 2) is LinkState.FAULTY
    assert "of what comes from node 1" in net.nodes[2].take_news()[0]
    assert net.state(1, 2) is LinkState.FAULTY
    assert "node 2 is not reached on it, or badly" in net.nodes[1].take_news()[0]


def test_a_link_that_lost_tokens_is_good_again_when_none_are_sent_any_more() -> None:
    net = networks()
    net.nodes[2].links[2].hearing[NodeId(1)].copy_loss = 0.5
    net.run(0.2)
    assert net.state(2, 2) is LinkState.FAULTY
    net.run(8)
    assert net.state(2, 2) is LinkState.GOOD


def test_who_is_heard_later_on_one_link_than_on_the_other_lost_nothing() -> None:
    net = networks(nodes=2)
    late = Links(Station(NodeId(3), 9, 0), manner=net.manner, now=net.now)
    late.add(1, net.now)
    late.add(2, net.now)
    net.nodes[3], net.seen[3] = late, []
    net.lossy = lambda link, sender, receiver: net.carrying == "hello" and link == 2
    net.run(0.05)
    for _ in range(30):
        net.send(3, b"VS\x01\x03 join %d" % net.count)
        net.count += 1
    net.lossy = lambda link, sender, receiver: False
    net.run(1)
    assert net.nodes[1].links[2].hearing[3].copy_loss == 0
    assert "loses" not in str(net.nodes[1].take_news())


def test_who_was_stopped_himself_blames_no_link() -> None:
    net = networks()
    for _ in range(3):
        before = net.nodes.pop(3)
        net.run(0.25)  # the hellos of this time are lost, since nobody took them
        net.nodes[3] = before
        net.run(0.5)
    assert net.state(3, 1) is net.state(3, 2) is LinkState.GOOD
    assert before.links[1].loss == before.links[2].loss == 0


def test_what_a_full_buffer_of_ones_own_lost_is_no_fault_of_a_link() -> None:
    net = networks()
    for _ in range(3):
        for _ in range(40):  # of one link the buffer took 40 packets, of the other none
            net.lossy = lambda link, sender, receiver: link == 2 and receiver == 3
            net.send(1, TOKEN + b"%d" % net.count)
            net.count += 1
        net.lossy = lambda link, sender, receiver: False
        net.now += 0.3  # nobody's loop ran
        net.run(0.5)
    assert net.nodes[3].links[2].hearing[1].copy_loss == 0
    assert net.nodes[3].take_news() == []


def test_now_and_then_a_hello_is_as_long_as_a_packet_may_be() -> None:
    net = networks()
    net.nodes[1].packet_bytes_max = 1472
    net.lossy = lambda link, sender, receiver: link == 2 and net.carrying_bytes > 1000
    net.run(6)
    assert net.state(2, 2) is LinkState.FAULTY
    assert net.state(2, 1) is LinkState.GOOD


def test_a_ring_of_more_nodes_than_a_hello_tells_of_has_good_links() -> None:
    net = networks(nodes=HEARD_MAX + 3)
    net.run(1)
    states = {links.links[link].state for links in net.nodes.values() for link in (1, 2)}
    assert states == {LinkState.GOOD}
    assert all(links.take_news() == [] for links in net.nodes.values())


def test_a_node_that_is_gone_is_no_fault_of_a_link() -> None:
    net = networks()
    del net.nodes[3]
    net.run(1)
    assert net.state(1, 1) is net.state(1, 2) is LinkState.GOOD
    assert net.nodes[1].take_news() == []


def test_a_node_that_comes_is_no_fault_of_a_link() -> None:
    net = networks()
    late = Links(Station(NodeId(4), 9, 0), manner=net.manner, now=net.now)
    late.add(1, net.now)
    late.add(2, net.now)
    net.nodes[4], net.seen[4] = late, []
    net.run(1)
    assert {net.state(node, link) for node in (1, 4) for link in (1, 2)} == {LinkState.GOOD}
    assert net.nodes[1].take_news() == []


def test_a_faulty_link_is_still_faulty_when_all_others_were_silent_for_a_while() -> None:
    net = networks()
    net.lossy = lambda link, sender, receiver: link == 2
    net.run(0.5)
    net.lossy = lambda link, sender, receiver: True
    net.run(1.0)
    assert net.state(1, 2) is LinkState.FAULTY
    assert net.state(1, 1) is LinkState.IDLE
    net.lossy = lambda link, sender, receiver: link == 2
    net.run(0.02)
    assert net.send(1, DATA) == [1]
    net.run(2)
    assert net.state(1, 2) is LinkState.FAULTY
    net.lossy = lambda link, sender, receiver: False
    net.run(20)
    assert net.state(1, 2) is LinkState.GOOD


def test_on_a_ring_at_rest_a_link_that_is_cut_is_left_when_hellos_are_missed() -> None:
    net = networks()
    net.lossy = lambda link, sender, receiver: link == 2
    began = net.now
    while net.state(1, 2) is LinkState.GOOD:
        net.run(0.01)
    assert net.now - began < net.manner.hello_s * 3.6


def test_a_node_that_stops_is_no_fault_of_the_link_on_which_it_was_heard_earlier() -> None:
    net = networks()
    for _ in range(9):  # the last that comes of node 2 is some data, on one link only
        net.now += 0.01
        for link, burst in net.nodes[2].send(Burst(EVERYONE, [DATA])):
            if link == 2:
                net.carry(2, link, burst)
    net.lossy = lambda link, sender, receiver: sender == 2
    for _ in range(1000):
        net.now += 0.001
        for number in (1, 3):
            net.nodes[number].handle_timeout(net.now)
            for link, burst in net.nodes[number].take_hellos():
                net.carry(number, link, burst)
    assert sorted(net.nodes[1].links[1].hearing) == [3]
    assert net.nodes[1].take_news() == []


def test_who_is_heard_on_one_link_a_moment_earlier_is_no_fault_of_the_other() -> None:
    net = networks(nodes=2)
    late = Links(Station(NodeId(3), 9, 0), manner=net.manner, now=net.now)
    late.add(1, net.now)
    late.add(2, net.now)
    net.nodes[3], net.seen[3] = late, []
    for _ in range(2):  # when it comes, and when it comes back
        net.lossy = lambda link, sender, receiver: link == 2 and 3 in (sender, receiver)
        net.run(0.2)
        for _ in range(10):
            net.send(3, TOKEN + b"%d" % net.count)
            net.count += 1
        net.look()
        net.lossy = lambda link, sender, receiver: False
        net.run(1)
        net.nodes.pop(3)
        net.run(1)
        net.nodes[3] = late
        net.run(0.01)
    assert [news for links in net.nodes.values() for news in links.take_news()] == []


def test_a_link_on_which_who_came_stays_silent_is_left() -> None:
    net = networks(nodes=2)
    late = Links(Station(NodeId(3), 9, 0), manner=net.manner, now=net.now)
    late.add(1, net.now)
    late.add(2, net.now)
    net.nodes[3], net.seen[3] = late, []
    net.lossy = lambda link, sender, receiver: link == 2 and 3 in (sender, receiver)
    net.run(0.6)
    assert net.state(1, 2) is net.state(3, 2) is LinkState.FAULTY
    assert "node 3 is not heard" in str(net.nodes[1].take_news())


def test_a_link_may_come_and_go() -> None:
    net = networks()
    for links in net.nodes.values():
        links.add(3, net.now)
    net.run(1)
    assert net.state(1, 3) is LinkState.GOOD
    for links in net.nodes.values():
        links.remove(1)
    net.run(1)
    assert net.send(1, TOKEN) == [2, 3]
    assert net.state(1, 2) is net.state(1, 3) is LinkState.GOOD


def test_a_node_whose_address_changes_is_found_again() -> None:
    net = networks()
    two = net.nodes[2]
    again = Links(Station(NodeId(2), 2, 0), manner=net.manner, now=net.now)  # a later life
    again.add(1, net.now)
    again.add(2, net.now)
    net.nodes[2] = again
    del two
    net.run(1)
    assert net.send(1, TOKEN, to=2) == [1, 2]
    assert net.seen[2] == [TOKEN]


def test_a_ring_finds_a_node_though_the_link_on_which_it_heard_it_first_is_gone() -> None:
    net = networks()
    for links in net.nodes.values():
        links.remove(1)
    assert net.send(1, TOKEN, to=2) == [2]
    assert net.seen[2] == [TOKEN]


def test_a_ring_finds_a_node_though_its_address_on_the_link_where_it_was_heard_is_another() -> None:
    net = networks()
    first = Path(1, at(2, 1))
    net.moved[2, 1] = "10.1.0.22"
    net.run(1)
    assert sorted(number for number, _ in net.nodes[1].send(Burst(first, [TOKEN]))) == [1, 2]
    net.send(1, TOKEN, to=2)
    assert net.seen[2] == [TOKEN]


def test_a_link_that_was_closed_and_opened_again_is_heard_at_once() -> None:
    net = networks()
    net.run(20)
    net.nodes[2].remove(1)
    net.run(2)
    assert net.state(1, 1) is LinkState.FAULTY
    net.nodes[2].add(1, net.now)
    net.run(1)
    assert net.state(1, 1) is net.state(2, 1) is LinkState.GOOD


def test_addresses_without_end_take_no_memory_without_end() -> None:
    net = networks()
    two = net.nodes[2]
    for number in range(ADDRESSES_MAX + 100):
        two.handle_timeout(net.now + number)
        (_, hello), _ = two.take_hellos()
        net.nodes[1].arrived(1, [Packet(hello.packets[0], f"address {number}")], net.now)
    known = net.nodes[1]._nodes_of
    assert len(known) == ADDRESSES_MAX
    assert (1, f"address {ADDRESSES_MAX + 99}") in known


def test_hellos_of_others_are_counted_and_nothing_else() -> None:
    net = networks()
    stranger = Links(Station(NodeId(9), 1, 7), manner=net.manner, now=net.now)
    stranger.add(1, net.now)
    stranger.handle_timeout(net.now)
    ((_, burst),) = stranger.take_hellos()
    links = net.nodes[1]
    assert links.arrived(1, [Packet(burst.packets[0], "x")], net.now) == []
    assert links.arrived(1, [Packet(b"VL nonsense", "x")], net.now) == []
    assert links.counters["hellos_dropped_other_ring"] == 1
    assert links.counters["hellos_dropped_truncated"] == 1
    assert 9 not in links.links[1].hearing
