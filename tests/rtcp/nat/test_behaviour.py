"""What a NAT does is told from the way datagrams come through it, and nothing is told that was not seen."""

from __future__ import annotations

import random
from itertools import cycle, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import Misuse
from rtcp.nat.behaviour import BRISK, Dependence, NatBehaviour, Patience, Scope, StunServer, Survey, scope_of
from rtcp.nat.stun import Change, HostPort, Kind, Message, Place, read_message, write_message
from tests.rtcp.nat.fakenat import INSIDE, OUTSIDE, FakeNat, World

EIM, ADM, APDM = EIF, ADF, APDF = tuple(Dependence)
A, B = "203.0.113.1", "203.0.113.2"
SEED = bytes(range(16))


def whole(hosts: tuple[str, str] = (A, B), ports: tuple[int, int] = (3478, 3479)) -> list[Place]:
    """A server of RFC 5780."""
    return [
        Place(here=HostPort(host, port), other_host=other_host, other_port=other_port)
        for host, other_host in (hosts, hosts[::-1])
        for port, other_port in (ports, ports[::-1])
    ]


WHOLE = (whole(), [StunServer(HostPort(A, 3478))])
TWO_PORTS = (
    [Place(here=HostPort(A, 3478), other_port=3479), Place(here=HostPort(A, 3479), other_port=3478)],
    [StunServer(HostPort(A, 3478), other_port=3479)],
)
TWO_SERVERS = (
    [Place(here=HostPort(A, 3478)), Place(here=HostPort(B, 3478))],
    [StunServer(HostPort(A, 3478)), StunServer(HostPort(B, 3478))],
)


def tell(nat: FakeNat, network=WHOLE, *, dice: random.Random | None = None, loss: float = 0.0) -> NatBehaviour:
    places, servers = network
    survey = Survey(servers, seed=SEED, now=0.0)
    World(nat, places, dice=dice, loss=loss).run(survey)
    assert survey.finished
    assert survey.next_deadline() is None
    return survey.behaviour()


nats = st.builds(
    FakeNat,
    mapping=st.sampled_from(Dependence),
    filtering=st.sampled_from(Dependence),
    ports=st.sampled_from(["kept", "random", 1, 2, -1, 16]),
    hairpin=st.booleans(),
    wide=st.booleans(),
    dice=st.integers(0, 1 << 32).map(random.Random),
)


@settings(max_examples=200, deadline=None)
@given(nats, st.integers(0, 1 << 32).map(random.Random), st.sampled_from([0.0, 0.1, 0.4]))
def test_all_is_told_by_a_server_with_two_addresses_and_two_ports(nat, dice, loss):
    told = tell(nat, dice=dice, loss=loss)
    assert told.blocked.value is False
    assert told.translated.value is True
    assert told.mapping.value is nat.mapping, told.mapping.why
    assert told.filtering.value is nat.filtering, told.filtering.why
    assert told.port_kept.value is (nat.ports == "kept")
    if not nat.wide or nat.mapping is EIM:
        assert told.hairpin.value is (nat.hairpin and (nat.mapping is EIM or nat.filtering is EIF)), told.hairpin.why
    assert len(told.seen) == {EIM: 1, ADM: 2, APDM: 4}[nat.mapping]
    if nat.mapping is EIM:
        assert told.ports.value is None
        assert told.spoilt.value is (None if nat.filtering is EIF else False)
    elif isinstance(nat.ports, int):
        assert (told.ports.value.step, told.ports.value.confidence) == (nat.ports, 1.0)
    else:
        assert told.ports.value.step == 0
    assert (told.scope.value, told.seen_scope.value) == (Scope.PRIVATE, Scope.PUBLIC)
    assert (told.local.host, {seen.host for seen in told.seen}) == (INSIDE, {OUTSIDE})


@pytest.mark.parametrize(("mapping", "filtering"), list(product(Dependence, Dependence)))
def test_one_server_with_two_ports_tells_what_it_can(mapping, filtering):
    told = tell(FakeNat(mapping=mapping, filtering=filtering, ports=1), TWO_PORTS)
    assert told.mapping.value is (APDM if mapping is APDM else None)
    assert told.filtering.value is (APDF if filtering is APDF else None)
    if mapping is APDM:
        assert told.ports.value.step == 1
    else:
        assert "no other host" in told.mapping.why


@pytest.mark.parametrize(("mapping", "filtering"), list(product(Dependence, Dependence)))
def test_two_plain_servers_tell_what_they_can(mapping, filtering):
    told = tell(FakeNat(mapping=mapping, filtering=filtering, ports=1), TWO_SERVERS)
    assert told.mapping.value is (EIM if mapping is EIM else None)
    assert len(told.seen) == (1 if mapping is EIM else 2)
    assert told.filtering.value is None
    assert (told.ports.value is None) is (mapping is EIM)


@pytest.mark.parametrize("filtering", Dependence)
def test_two_servers_with_two_ports_tell_mappings_apart(filtering):
    places = [*TWO_PORTS[0], Place(here=HostPort(B, 3478), other_port=3479), Place(here=HostPort(B, 3479))]
    servers = [StunServer(HostPort(host, 3478), other_port=3479) for host in (A, B)]
    for mapping in Dependence:
        told = tell(FakeNat(mapping=mapping, filtering=filtering), (places, servers))
        assert told.mapping.value is mapping
        assert told.filtering.value is (APDF if filtering is APDF else None)


@pytest.mark.parametrize("filtering", Dependence)
def test_without_a_nat_there_may_still_be_a_firewall(filtering):
    told = tell(FakeNat(mapping=None, filtering=filtering))
    assert told.translated.value is False
    assert (told.mapping.value, told.filtering.value, told.port_kept.value) == (EIM, filtering, True)
    assert told.hairpin.value is None
    assert told.seen == (told.local,)


def test_where_udp_is_blocked_nothing_else_is_told():
    told = tell(FakeNat(blocked=True), TWO_SERVERS)
    assert told.blocked.value is True
    assert A in told.blocked.why
    assert B in told.blocked.why
    for verdict in (told.translated, told.mapping, told.filtering, told.port_kept, told.ports, told.hairpin):
        assert verdict.value is None
        assert verdict.why


def test_what_nobody_asked_for_spoils_no_verdict_but_is_told():
    """The socket whose mappings are observed never got a datagram it did not ask for; the one of filters did."""
    told = tell(FakeNat(filtering=APDF, spoils=True))
    assert (told.mapping.value, told.filtering.value, told.spoilt.value) == (EIM, APDF, True)
    told = tell(FakeNat(filtering=APDF, spoils=True), TWO_PORTS)
    assert told.mapping.value is None  # so nothing is concluded from a second port either
    assert told.spoilt.value is None


def test_a_dead_server_delays_and_no_more():
    places, servers = WHOLE
    servers = [StunServer(HostPort("203.0.113.99", 3478)), *servers]
    world, survey = World(FakeNat(filtering=ADF), places), Survey(servers, seed=SEED, now=0.0)
    world.run(survey)
    assert survey.behaviour().filtering.value is ADF
    assert world.now < BRISK.end()


def test_a_survey_is_small_and_quick():
    for mapping, filtering in product(Dependence, Dependence):
        world = World(FakeNat(mapping=mapping, filtering=filtering), WHOLE[0])
        survey = Survey(WHOLE[1], seed=SEED, now=0.0)
        world.run(survey)
        assert world.sent <= 40
        assert world.now <= 2.5  # round trips take 20 ms here


def test_a_busy_nat_is_predicted_with_less_confidence():
    others = cycle((0, 0, 2))

    class Busy(FakeNat):
        def _new_port(self, own):
            self._counter += next(others)
            return super()._new_port(own)

    told = tell(Busy(mapping=APDM, filtering=APDF, ports=1))
    assert told.ports.value.step == 1
    assert 0.5 <= told.ports.value.confidence < 1


class Odd(World):
    """A server that is asked for a change, and does something else."""

    def __init__(self, nat, change):
        super().__init__(nat, WHOLE[0])
        self.change = change

    def _post(self, source, to, data):
        message = read_message(data)
        if message.kind is Kind.REQUEST and message.change and source.host == INSIDE:
            data = self.change(message)
        super()._post(source, to, data)


def test_a_server_that_passes_over_or_refuses_a_change_tells_nothing_of_filters():
    ignored = Odd(FakeNat(), lambda m: write_message(Message(kind=m.kind, transaction=m.transaction, padding=90)))
    refused = Odd(FakeNat(), lambda m: write_message(m)[:20] + b"\x7f\0\0\x68" + bytes(104))
    for world, why in ((ignored, "ignored"), (refused, "refused with 420")):
        survey = Survey(WHOLE[1], seed=SEED, now=0.0)
        world.run(survey)
        told = survey.behaviour()
        assert (told.mapping.value, told.filtering.value) == (EIM, None)
        assert why in told.filtering.why


def test_only_the_server_asked_is_believed():
    survey = Survey(WHOLE[1], seed=SEED, now=0.0)
    send = survey.next_send()
    survey.opened(send.socket, HostPort(INSIDE, 5000))
    transaction = read_message(send.data).transaction
    lie = Message(kind=Kind.SUCCESS, transaction=transaction, seen=HostPort("192.0.2.66", 1))
    survey.received(send.socket, HostPort("192.0.2.66", 3478), write_message(lie), 0.01)  # from elsewhere
    survey.received(send.socket + 1, send.to, write_message(lie), 0.01)  # at another socket
    other = Message(kind=Kind.SUCCESS, transaction=bytes(12), seen=lie.seen)
    survey.received(send.socket, send.to, write_message(other), 0.01)  # guessed
    survey.received(send.socket, send.to, write_message(lie)[:-1], 0.01)
    assert survey.next_send() is None
    assert survey.behaviour().blocked.value is None


@pytest.mark.parametrize(
    "other",
    [
        *(HostPort(A, 3479), HostPort(B, 3478), HostPort(B, 0)),
        *(HostPort(host, 3479) for host in ("2001:db8::1", "192.168.1.1", "127.0.0.1", "224.0.0.1", "255.255.255.255")),
    ],
)
def test_an_other_address_that_is_none_is_not_asked(other):
    survey = Survey(WHOLE[1], seed=SEED, now=0.0)
    send = survey.next_send()
    answer = Message(
        kind=Kind.SUCCESS, transaction=read_message(send.data).transaction, seen=HostPort(OUTSIDE, 9), other=other
    )
    survey.received(send.socket, send.to, write_message(answer), 0.01)
    asked = set()
    while not survey.finished:
        while (send := survey.next_send()) is not None:
            asked.add((send.to, read_message(send.data).change))
        survey.handle_timeout(survey.next_deadline())
    assert {(to, change) for to, change in asked if to.host != OUTSIDE} == {(HostPort(A, 3478), None)}


@pytest.mark.parametrize("lie", ["192.168.1.1", "127.0.0.1", "100.64.0.1", "239.1.2.3"])
def test_no_server_sends_us_to_our_own_network(lie):
    """By naming it as the address it sees, which a hairpin would be tried with."""
    survey = Survey(WHOLE[1], seed=SEED, now=0.0)
    asked = set()
    while not survey.finished:
        while (send := survey.next_send()) is not None:
            survey.opened(send.socket, HostPort(INSIDE, 5000 + send.socket))
            asked.add(send.to.host)
            answer = Message(
                kind=Kind.SUCCESS,
                transaction=read_message(send.data).transaction,
                seen=HostPort(lie, 53),
                other=HostPort(B, 3479),
            )
            survey.received(send.socket, send.to, write_message(answer), 0.01)
        if not survey.finished:
            survey.handle_timeout(survey.next_deadline())
    assert asked == {A, B}
    assert survey.behaviour().hairpin.value is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_comes_a_survey_ends(data):
    survey = Survey(TWO_SERVERS[1], seed=SEED, now=0.0)
    now, sent = 0.0, []
    hosts = st.sampled_from([A, B, INSIDE, OUTSIDE])
    places = st.builds(HostPort, hosts, st.integers(0, 3)) | st.sampled_from([HostPort(A, 3478), HostPort(B, 3478)])
    for _ in range(200):
        while (send := survey.next_send()) is not None:
            survey.opened(send.socket, HostPort(INSIDE, 5000 + send.socket))
            sent.append(send)
        if survey.finished:
            break
        if sent and data.draw(st.booleans()):
            send = data.draw(st.sampled_from(sent))
            answer = Message(
                kind=data.draw(st.sampled_from(Kind)),
                transaction=read_message(send.data).transaction,
                seen=data.draw(st.none() | places),
                other=data.draw(st.none() | places),
                change=data.draw(st.none() | st.sampled_from(Change)),
                error=data.draw(st.none() | st.just((420, ""))),
            )
            source = data.draw(st.just(send.to) | places)
            survey.received(data.draw(st.just(send.socket) | st.integers(0, 9)), source, write_message(answer), now)
        else:
            now = survey.next_deadline()
            survey.handle_timeout(now)
    assert survey.finished
    assert survey.behaviour().blocked.value is not None


def test_a_survey_that_is_cut_short_says_what_it_knows():
    survey = Survey(WHOLE[1], seed=SEED, now=0.0)
    told = survey.behaviour()
    assert told.blocked.value is None
    assert told.local is None
    assert not survey.finished


def test_the_timers_are_those_of_the_rfc():
    patience = Patience()
    assert patience.sends() == (0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)
    assert patience.end() == 39.5
    assert patience.quicker(0.001).first == 0.1
    assert patience.quicker(9).first == 0.5


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("100.64.0.1", Scope.CARRIER),
        ("100.127.255.255", Scope.CARRIER),
        ("100.128.0.1", Scope.PUBLIC),
        ("192.0.0.4", Scope.CARRIER),
        ("10.1.2.3", Scope.PRIVATE),
        ("172.31.0.1", Scope.PRIVATE),
        ("172.32.0.1", Scope.PUBLIC),
        ("169.254.1.1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("fe80::1", Scope.PRIVATE),
        ("2001:db8::1", Scope.PUBLIC),
    ],
)
def test_where_an_address_means_something(host, scope):
    assert scope_of(host) is scope


def test_misuse():
    for servers, seed in (([], SEED), (WHOLE[1] * 9, SEED), (WHOLE[1], b"")):
        with pytest.raises(Misuse):
            Survey(servers, seed=seed, now=0.0)
    with pytest.raises(Misuse):
        Survey([*WHOLE[1], StunServer(HostPort("::1", 3478))], seed=SEED, now=0.0)
    with pytest.raises(Misuse):
        scope_of("home")
