"""Whatever strangers send, from whatever address, nothing goes to or comes from anybody but the two."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from relayplay import Stage

from cyfs_ns.errors import BadWire
from rtcp.nat.relayend import RelayEnd, RelayState
from rtcp.nat.relaywire import (
    CONTROL,
    CONTROL_SIZE,
    DATA,
    ID_SIZE,
    KEY_SIZE,
    LOST_SIZE,
    Control,
    Kind,
    is_authentic,
    read_control,
    write_control,
)

OWN, OTHER, STRANGE = (b"a", b"b"), (b"x", b"y"), (b"s1", b"s2")
_controls = st.builds(
    Control,
    kind=st.sampled_from([Kind.HELLO, Kind.CHALLENGE, Kind.BIND, Kind.BOUND]),
    relay_id=st.binary(min_size=ID_SIZE, max_size=ID_SIZE),
    side=st.integers(0, 1),
    counter=st.integers(0, 2**64 - 1),
    cookie=st.binary(min_size=16, max_size=16),
)


@given(_controls, st.binary(min_size=KEY_SIZE, max_size=KEY_SIZE))
@settings(max_examples=100, deadline=None)
def test_a_message_is_read_as_it_was_written_and_every_bit_of_it_is_sealed(message, key):
    written = write_control(message, key)
    assert len(written) == CONTROL_SIZE
    assert read_control(written) == message
    assert is_authentic(written, key)
    assert not is_authentic(written, key[:-1] + bytes((key[-1] ^ 1,)))
    for at in range(len(written)):
        assert not is_authentic(written[:at] + bytes((written[at] ^ 1,)) + written[at + 1 :], key)


@given(st.binary(max_size=2 * CONTROL_SIZE) | st.binary(min_size=CONTROL_SIZE - 1, max_size=CONTROL_SIZE - 1))
@settings(max_examples=200, deadline=None)
def test_bytes_of_strangers_are_a_message_or_bad_wire(untrusted):
    for each in (untrusted, bytes((CONTROL,)) + untrusted):
        try:
            read_control(each)
        except BadWire:
            continue
        assert len(each) in (LOST_SIZE, CONTROL_SIZE)


class _Town:
    """Two sessions, of four devices, and strangers who heard everything that was ever said."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.recorded: list[bytes] = []
        self.sessions = [self._session(OWN), self._session(OTHER)]

    def _session(self, addresses: tuple[bytes, bytes]) -> tuple[RelayEnd, RelayEnd]:
        ends = self.stage.ends(self.stage.allocate())
        for end, address in zip(ends, addresses, strict=True):
            end.bind(self.stage.now)
            self.recorded += self.stage.converse(end, address)
            self.recorded.append(end.wrap(b"data", self.stage.now))
        return ends

    def stranger_says(self, datagram: bytes, source: bytes) -> None:
        """From ``source``, which may be forged."""
        way = self.stage.forward(datagram, source)
        for own in (OWN, OTHER):
            if way is not None:
                # From a forged address with the right id, the relay cannot tell; it still goes to that peer and to
                # nobody else, and means nothing to it.
                assert (source in own) == (way in own)
        assert way not in STRANGE
        if way is None and datagram[:1] in (bytes((DATA,)), bytes((CONTROL,))):
            answer = self.stage.relay.hear(datagram, source, "door", self.stage.now)
            if answer is not None:
                assert len(answer) <= len(datagram)
                # What goes to a forged address is heard by the strangers only if it is theirs.
                if source in STRANGE:
                    self.recorded.append(answer)
        self.check()

    def check(self) -> None:
        for way, to in self.stage.relay.ways.items():
            source = way[: -1 - ID_SIZE]
            assert source in OWN + OTHER
            assert (source in OWN) == (to.address in OWN)
            assert source != to.address
        for ends, addresses in zip(self.sessions, (OWN, OTHER), strict=True):
            for end, source, there in zip(ends, addresses, reversed(addresses), strict=True):
                assert self.stage.forward(end.wrap(b"x", self.stage.now), source) == there


_sources = st.sampled_from(OWN + OTHER + STRANGE)
_flip = st.tuples(st.integers(0, CONTROL_SIZE - 1), st.integers(0, 255))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("replay"), st.integers(0, 30), _sources),
            st.tuples(st.just("change"), st.integers(0, 30), _sources, _flip),
            st.tuples(st.just("make"), _controls, st.binary(min_size=KEY_SIZE, max_size=KEY_SIZE), _sources),
            st.tuples(st.just("guess"), st.sampled_from((DATA, CONTROL)), st.binary(max_size=60), _sources),
            st.tuples(st.just("wait"), st.floats(0, 50)),
        ),
        max_size=30,
    ),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_nothing_strangers_send_opens_a_way(acts, know_ids):
    town = _Town()
    for act in acts:
        match act:
            case ("replay", which, source):
                town.stranger_says(town.recorded[which % len(town.recorded)], source)
            case ("change", which, source, (at, value)):
                changed = bytearray(town.recorded[which % len(town.recorded)])
                changed[at % len(changed)] = value
                town.stranger_says(bytes(changed), source)
            case ("make", message, key, source):
                written = bytearray(write_control(message, key))
                if know_ids:
                    written[1 : 1 + ID_SIZE] = town.recorded[0][1 : 1 + ID_SIZE]
                town.stranger_says(bytes(written), source)
            case ("guess", first, rest, source):
                town.stranger_says(bytes((first,)) + rest, source)
            case ("wait", seconds):
                town.stage.wait(seconds)
                town.check()


@given(st.lists(st.binary(max_size=60) | _controls.map(lambda each: write_control(each, bytes(KEY_SIZE))), max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_device_hears_its_relay_and_its_peer_and_bad_wire(datagrams):
    stage = Stage()
    _, near, _ = stage.bound()
    for untrusted in datagrams:
        for each in (untrusted, near.header[:1] + untrusted, bytes((CONTROL,)) + near.header[1:] + untrusted):
            try:
                heard = near.receive(each, stage.now)
            except BadWire:
                continue
            assert heard is None or each == near.header + heard
            assert heard is not None or len(each) == LOST_SIZE
    stage.converse(near, b"a")
    assert near.state is RelayState.BOUND
