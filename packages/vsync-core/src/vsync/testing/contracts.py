"""What every transport and every service must do, as tests that authors inherit. Needs pytest.

A plugin's test file has all of it::

    class TestCarrier(TransportContract):
        @pytest.fixture
        def make_transport(self) -> MakeTransport:
            settings = SettingsCarrier(network=unused_network())
            return lambda node: TransportCarrier(settings, node=node)

Transports that ``make_transport`` makes within one test must hear each other, and must hear nobody
else. The network beneath must be a quiet one: the contract expects a few packets not to be lost.
It never expects an order.

A service's test file has all of it::

    class TestCounter(ServiceContract):
        @pytest.fixture
        def service(self) -> type[Service]:
            return Counter

        def change(self, number: int) -> bytes:
            return b"add %d" % number

        def kept(self, service: Service) -> object:
            assert isinstance(service, Counter)
            return service.number

Services are run in virtual time (``vsync.testing.Simulation``), by every node of a cluster. What
follows is what their users rely on: a service keeps the same on all nodes that go on together, it
never holds up the ring for ever, and bad requests harm nobody.
"""

import json
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, ClassVar, Final, TypeAlias

import pytest
from pydantic import ValidationError

from vsync.api.session import Session
from vsync.errors import ServiceFailed, TransportFailed
from vsync.plugins import load_service, load_transport
from vsync.service import SERVICE_API, Service, service_group
from vsync.testing.application import Simulation
from vsync.transport import EVERYONE, TRANSPORT_API, Address, Burst, Packet, Transport
from vsync.vocabulary import NodeId

MakeTransport: TypeAlias = Callable[[NodeId], Transport]

WITHIN_S = 5.0
"""Patience with a busy machine; what arrives is not waited for longer than it takes."""

SILENCE_S = 0.05
"""How long nothing must arrive to say that nothing arrives."""


def receive_within(transport: Transport, count: int, within_s: float = WITHIN_S) -> list[Packet]:
    """Wait on the descriptors until *count* packets came, or the time is over; what came."""
    received: list[Packet] = []
    deadline = time.monotonic() + within_s
    while len(received) < count and (left := deadline - time.monotonic()) > 0:
        select.select(transport.descriptors(), [], [], left)
        received += transport.receive()
    return received


def data_of(packets: Sequence[Packet]) -> list[bytes]:
    """The bytes of each packet, as bytes."""
    return [bytes(packet.data) for packet in packets]


def address_of(sender: Transport, seen_by: Transport) -> Address:
    """The address that *sender* has for *seen_by*."""
    sender.send(Burst(EVERYONE, [b"who am I"]))
    return receive_within(seen_by, 1)[0].source


class TransportContract:
    """Inherit, and override ``make_transport``."""

    COPIES: ClassVar[bool] = False
    """Whether data that is sent once may come several times, as over several networks at once."""

    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        """Give the function that makes transports which hear each other. Override it."""
        raise NotImplementedError("a contract's test class must have a fixture make_transport")

    @pytest.fixture
    def three(self, make_transport: MakeTransport) -> Iterator[list[Transport]]:
        """Three open transports on a network of their own."""
        with ExitStack() as stack:
            opened = [make_transport(NodeId(number)) for number in (1, 2, 3)]
            for transport in opened:
                stack.enter_context(closing(transport))
                transport.open()
            for transport in opened:
                if select.select(transport.descriptors(), [], [], 0)[0]:
                    transport.receive()  # what transports say to each other, and to nobody else
            yield opened

    def expect(self, receiver: Transport, packets: Sequence[bytes]) -> None:
        """See that *packets* arrive, and nothing but them."""
        received = Counter(data_of(receive_within(receiver, len(packets))))
        if self.COPIES:
            received += Counter(data_of(receive_within(receiver, 7 * len(packets), 2 * SILENCE_S)))
            assert set(received) == set(packets)
            assert received >= Counter(packets)
        else:
            assert received == Counter(packets)

    def test_its_name_loads_it(self, make_transport: MakeTransport) -> None:
        made = type(make_transport(NodeId(1)))
        assert load_transport(made.SCHEME) is made
        assert made.API == TRANSPORT_API

    def test_its_settings_refuse_unknown_keys(self, make_transport: MakeTransport) -> None:
        with pytest.raises(ValidationError, match="no_such_key"):
            make_transport(NodeId(1)).SETTINGS.model_validate({"no_such_key": 1})

    def test_making_one_opens_nothing(self, make_transport: MakeTransport) -> None:
        made = make_transport(NodeId(1))
        assert list(made.descriptors()) == []
        made.close()

    def test_it_may_be_closed_twice(self, three: list[Transport]) -> None:
        three[0].close()
        three[0].close()

    def test_sending_on_a_closed_one_is_refused(self, three: list[Transport]) -> None:
        three[0].close()
        with pytest.raises(TransportFailed):
            three[0].send(Burst(EVERYONE, [b"late"]))

    def test_one_that_closed_can_be_replaced(
        self, three: list[Transport], make_transport: MakeTransport
    ) -> None:
        three[0].close()
        with closing(make_transport(NodeId(1))) as again:
            again.open()
            again.send(Burst(EVERYONE, [b"back"]))
            assert data_of(receive_within(three[1], 1)) == [b"back"]

    def test_receive_on_an_empty_one_returns_at_once(self, three: list[Transport]) -> None:
        assert list(three[0].receive()) == []

    def test_what_is_sent_to_everyone_reaches_all_but_the_sender(
        self, three: list[Transport]
    ) -> None:
        three[0].send(Burst(EVERYONE, [b"one", b"two"]))
        for other in three[1:]:
            assert sorted(data_of(receive_within(other, 2))) == [b"one", b"two"]
        assert receive_within(three[0], 1, SILENCE_S) == []

    def test_what_is_sent_to_an_address_reaches_it_alone(self, three: list[Transport]) -> None:
        first, second, third = three
        address = address_of(second, seen_by=first)
        receive_within(third, 1)
        first.send(Burst(address, [b"for you"]))
        assert data_of(receive_within(second, 1)) == [b"for you"]
        assert receive_within(third, 1, SILENCE_S) == []
        assert receive_within(first, 1, SILENCE_S) == []

    def test_a_sender_has_one_address_whatever_it_sends(self, three: list[Transport]) -> None:
        first, second, _ = three
        address = address_of(second, seen_by=first)
        second.send(Burst(address_of(first, seen_by=second), [b"answer"]))
        (answer,) = receive_within(first, 1)
        assert answer.source == address
        assert hash(answer.source) == hash(address)

    def test_senders_have_different_addresses(self, three: list[Transport]) -> None:
        first, second, third = three
        addresses = {address_of(first, seen_by=third), address_of(second, seen_by=third)}
        assert len(addresses) == 2

    def test_a_packet_of_the_largest_size_arrives_whole(self, three: list[Transport]) -> None:
        largest = bytes(number % 251 for number in range(three[0].packet_bytes_max))
        three[0].send(Burst(EVERYONE, [largest]))
        assert data_of(receive_within(three[1], 1)) == [largest]

    @pytest.mark.parametrize(
        "sizes",
        [
            pytest.param([700] * 50, id="equal"),
            pytest.param([700] * 50 + [30], id="a shorter last one"),
            pytest.param([1, 2, 3, 500, 500, 20, 20, 20, 500], id="mixed"),
            pytest.param([0, 5, 5, 0, 5, 0, 0], id="empty ones"),
            pytest.param([40] * 300, id="many small ones"),
            pytest.param([400, 100, 100, 100, 400, 400], id="a shorter one within"),
        ],
    )
    def test_a_burst_arrives_as_the_packets_it_had(
        self, three: list[Transport], sizes: list[int]
    ) -> None:
        packets = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
        three[0].send(Burst(EVERYONE, packets))
        for other in three[1:]:
            self.expect(other, packets)

    def test_a_burst_of_largest_packets_arrives_as_the_packets_it_had(
        self, three: list[Transport]
    ) -> None:
        size = three[0].packet_bytes_max
        packets = [bytes([number]) * size for number in range(60)]
        three[0].send(Burst(EVERYONE, packets))
        self.expect(three[1], packets)

    def test_a_burst_to_an_address_arrives_as_the_packets_it_had(
        self, three: list[Transport]
    ) -> None:
        address = address_of(three[1], seen_by=three[0])
        packets = [bytes([number]) * 600 for number in range(20)]
        three[0].send(Burst(address, packets))
        self.expect(three[1], packets)

    def test_packets_may_be_views_of_a_larger_buffer(self, three: list[Transport]) -> None:
        buffer = memoryview(bytes(number % 251 for number in range(4000)))
        packets = [buffer[at : at + 400] for at in range(0, 4000, 400)]
        three[0].send(Burst(EVERYONE, packets))
        received = data_of(receive_within(three[1], 10))
        assert sorted(received) == sorted(bytes(packet) for packet in packets)

    def test_a_burst_of_nothing_sends_nothing(self, three: list[Transport]) -> None:
        three[0].send(Burst(EVERYONE, []))
        assert receive_within(three[1], 1, SILENCE_S) == []

    def test_the_descriptors_are_readable_exactly_while_packets_wait(
        self, three: list[Transport]
    ) -> None:
        receiver = three[1]
        assert select.select(receiver.descriptors(), [], [], 0)[0] == []
        three[0].send(Burst(EVERYONE, [b"x"] * 3))
        assert select.select(receiver.descriptors(), [], [], WITHIN_S)[0]
        assert len(receive_within(receiver, 3)) == 3
        assert list(receiver.receive()) == []
        assert select.select(receiver.descriptors(), [], [], 0)[0] == []

    def test_the_descriptors_stay_the_same_while_it_is_open(self, three: list[Transport]) -> None:
        before = list(three[0].descriptors())
        three[0].send(Burst(EVERYONE, [b"x"]))
        three[0].receive()
        assert list(three[0].descriptors()) == before
        assert before

    def test_received_bytes_are_never_overwritten(self, three: list[Transport]) -> None:
        three[0].send(Burst(EVERYONE, [b"a" * 300]))
        (early,) = receive_within(three[1], 1)
        three[0].send(Burst(EVERYONE, [b"b" * 300]))
        receive_within(three[1], 1)
        assert bytes(early.data) == b"a" * 300

    def test_sending_to_nobody_is_a_loss_and_no_error(self, three: list[Transport]) -> None:
        first, second, _ = three
        address = address_of(second, seen_by=first)
        second.close()
        for _ in range(3):
            first.send(Burst(address, [b"are you there?"]))
            first.receive()
        first.send(Burst(EVERYONE, [b"on we go"]))
        assert b"on we go" in data_of(receive_within(three[2], 2))

    def test_a_receiver_that_does_not_read_never_blocks_the_sender(
        self, three: list[Transport]
    ) -> None:
        packets = [bytes(three[0].packet_bytes_max)] * 40
        rounds = 2 * three[1].receive_buffer_bytes // sum(map(len, packets)) + 1
        for _ in range(rounds):
            three[0].send(Burst(EVERYONE, packets))
        while three[1].receive():
            pass
        three[0].send(Burst(EVERYONE, [b"after the flood"]))
        assert data_of(receive_within(three[1], 1)) == [b"after the flood"]

    def test_one_call_of_receive_is_bounded(self, three: list[Transport]) -> None:
        sent = 3000
        for _ in range(sent // 100):
            three[0].send(Burst(EVERYONE, [b"small"] * 100))
        batches = []
        while batch := three[1].receive():
            batches.append(len(batch))
        assert sum(batches) <= sent
        assert max(batches) < sent

    def test_its_limits_are_constant_and_sensible(self, three: list[Transport]) -> None:
        before = [(each.packet_bytes_max, each.receive_buffer_bytes) for each in three]
        three[0].send(Burst(EVERYONE, [b"x"]))
        assert [(each.packet_bytes_max, each.receive_buffer_bytes) for each in three] == before
        assert all(size >= 256 and buffer >= size for size, buffer in before)

    def test_its_status_can_be_written_as_json(self, three: list[Transport]) -> None:
        three[0].send(Burst(EVERYONE, [b"x"]))
        status = dict(three[0].status)
        assert json.loads(json.dumps(status)) == status


GARBAGE: Final = (
    b"",
    b"\0",
    b"no such request",
    b"{}",
    b"[]",
    b'{"op": 1}',
    b"\xff" * 1000,
    b"get " * 1000,
    b"9" * 10_000,
)
"""Requests that no service understands, or may."""

SETTLE_S: Final = 30.0
"""Virtual seconds for a cluster to come to rest."""


class ServiceContract:
    """Inherit, and override ``service``; ``kept`` and ``change`` too if the service keeps anything.

    Override ``settings`` if it needs settings, and ``beside`` for services that must run with it.
    """

    @pytest.fixture
    def service(self) -> type[Service]:
        """Give the service's class. Override it."""
        raise NotImplementedError("a contract's test class must have a fixture service")

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """Give the service's settings, as its section would say them."""
        return {}

    @pytest.fixture
    def beside(self) -> Mapping[type[Service] | str, Mapping[str, Any]]:
        """Give services that run on the same nodes, with their settings."""
        return {}

    def change(self, number: int) -> bytes | None:
        """A request that changes what the service keeps; None if there is none."""
        return None

    def kept(self, service: Service) -> object:
        """What must be the same on all nodes that are together and at rest."""
        return None

    @pytest.fixture
    def cluster(
        self,
        service: type[Service],
        settings: Mapping[str, Any],
        beside: Mapping[type[Service] | str, Mapping[str, Any]],
    ) -> Callable[..., Simulation[Any]]:
        """Give what makes a cluster of nodes that run the service."""

        def make(nodes: int = 3, seed: int = 7) -> Simulation[Any]:
            services: dict[type[Service] | str, Mapping[str, Any]] = {**beside, service: settings}
            return Simulation(_nothing, nodes=nodes, seed=seed, services=services)

        return make

    # --- what it is -----------------------------------------------------------------------------

    def test_its_name_loads_it(self, service: type[Service]) -> None:
        assert load_service(service.NAME) is service
        assert service.API == SERVICE_API

    def test_its_settings_refuse_unknown_keys(
        self, service: type[Service], settings: Mapping[str, Any]
    ) -> None:
        service.SETTINGS.model_validate(settings)
        with pytest.raises(ValidationError, match="no_such_key"):
            service.SETTINGS.model_validate({**settings, "no_such_key": 1})

    # --- what it does ---------------------------------------------------------------------------

    def test_it_works_alone_and_ends_with_its_node(
        self, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster(nodes=1) as simulation:
            self._ask(simulation, service, 1, 1)
            simulation.settle(SETTLE_S)
            self._is_well(simulation, service)
            simulation.leave(1)
            simulation.run_for(5.0)
            assert simulation.nodes == []

    def test_all_nodes_keep_the_same(
        self, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster() as simulation:
            for number in range(9):
                self._ask(simulation, service, 1 + number % 3, number)
            self._agrees(simulation, service)

    def test_a_node_that_comes_back_keeps_what_the_others_keep(
        self, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster() as simulation:
            self._ask(simulation, service, 1, 1)
            simulation.crash(3)
            self._ask(simulation, service, 2, 2)
            simulation.start(3)
            self._agrees(simulation, service)
            self._ask(simulation, service, 3, 3)
            self._agrees(simulation, service)

    def test_a_node_that_dies_while_it_synchronizes_again_and_again_holds_up_nobody(
        self, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster() as simulation:
            for attempt in range(12):
                simulation.restart(3)
                simulation.run_for(0.02 + 0.015 * attempt)
            simulation.crash(3)
            simulation.settle(SETTLE_S)
            group = service_group(service.NAME)
            for node in (1, 2):
                members = simulation.node(node).group_members()[group]
                assert [member.node for member in members] == [1, 2], "a ghost is left"
            self._ask(simulation, service, 1, 1)
            self._agrees(simulation, service)

    def test_two_sides_that_meet_again_keep_the_same(
        self, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster(nodes=5) as simulation:
            self._ask(simulation, service, 1, 1)
            simulation.partition([1, 2], [3, 4, 5])
            simulation.settle(SETTLE_S)
            self._ask(simulation, service, 1, 2, must=False)
            self._ask(simulation, service, 3, 3, must=False)
            simulation.heal()
            self._agrees(simulation, service)
            self._ask(simulation, service, 2, 4)
            self._agrees(simulation, service)

    @pytest.mark.parametrize("seed", range(8))
    def test_after_any_faults_all_nodes_keep_the_same(
        self, seed: int, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster(nodes=4, seed=seed) as simulation:
            for number in range(4):
                self._ask(simulation, service, 1 + number, number)
                simulation.disturb(1.0)
                simulation.start()
                simulation.settle(SETTLE_S)
            self._agrees(simulation, service)

    def test_garbage_is_refused_with_a_sentence_and_harms_nobody(
        self, service: type[Service], cluster: Callable[..., Simulation[Any]]
    ) -> None:
        with cluster() as simulation:
            for garbage in GARBAGE:
                answering = simulation.service(1, service)
                try:
                    answer = simulation.run(answering.answer(garbage))
                except ServiceFailed as refusal:
                    assert str(refusal), "a refusal says why"
                else:
                    assert isinstance(answer, bytes)
            self._ask(simulation, service, 1, 1)
            self._agrees(simulation, service)

    # --- how it is looked at --------------------------------------------------------------------

    def _ask(
        self,
        simulation: Simulation[Any],
        service: type[Service],
        node: int,
        number: int,
        *,
        must: bool = True,
    ) -> None:
        """Change what the service keeps, at *node*; a part of a cluster may refuse."""
        request = self.change(number)
        if request is None:
            return
        try:
            simulation.run(simulation.node(node).request(service.NAME, request), within_s=SETTLE_S)
        except ServiceFailed:
            if must:
                raise

    def _agrees(self, simulation: Simulation[Any], service: type[Service]) -> None:
        """At rest, all nodes keep the same, and none has given up."""
        simulation.settle(SETTLE_S)
        self._is_well(simulation, service)
        nodes = simulation.nodes
        first, *others = [self.kept(simulation.service(node, service)) for node in nodes]
        for node, kept in zip(nodes[1:], others, strict=True):
            assert kept == first, f"node {node} keeps something else than node {nodes[0]}"

    def _is_well(self, simulation: Simulation[Any], service: type[Service]) -> None:
        """It runs on all nodes, the ring waits for none, and its status can be shown."""
        for node in simulation.nodes:
            status = simulation.run(simulation.node(node).status())
            assert not status["synchronizing"], f"node {node} still waits for a service"
            told = status["services"][service.NAME]
            assert "failed" not in told, f"node {node}: {told['failed']}"
            assert "error" not in told, f"node {node}: {told['error']}"
            json.dumps(told)


async def _nothing(session: Session) -> None:
    """No application: the service is what is tested."""
