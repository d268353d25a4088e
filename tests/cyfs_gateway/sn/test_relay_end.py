"""A device's end of a session on the relay."""

from __future__ import annotations

import pytest
from relayplay import Stage

from cyfs_ns.errors import BadWire
from rtcp.nat.relayend import KEEP_ALIVE, RelayEnd, RelayState
from rtcp.nat.relaywire import HEADER_SIZE, write_lost


def _lets_pass(end: RelayEnd, now: float, seconds: float) -> list[float]:
    """When ``end`` said something in these ``seconds``, nobody answering."""
    said, until = [], now + seconds
    while (due := end.next_deadline()) is not None and due <= until:
        end.handle_timeout(due)
        while end.data_to_send() is not None:
            said.append(due)
    return said


def test_a_path_over_the_relay_costs_eight_octets_a_datagram():
    stage = Stage()
    _, near, far = stage.bound()
    wrapped = near.wrap(b"hello", stage.now)
    assert len(wrapped) == 5 + HEADER_SIZE
    assert far.receive(wrapped, stage.now) == b"hello"


def test_what_is_lost_is_said_again_and_at_last_given_up():
    stage = Stage()
    near, _ = stage.ends(stage.allocate())
    near.bind(stage.now)
    assert near.data_to_send() is not None
    said = _lets_pass(near, stage.now, 60)
    assert near.state is RelayState.FAILED
    assert [round(at - stage.now, 3) for at in said] == [0.2, 0.5, 1, 2, 3, 5, 7]
    assert near.next_deadline() is None


@pytest.mark.parametrize("lost", range(4))
def test_any_one_of_the_four_may_be_lost(lost):
    stage = Stage()
    near, _ = stage.ends(stage.allocate())
    near.bind(stage.now)
    count = 0
    while near.state is not RelayState.BOUND:
        said = near.data_to_send()
        if said is None:
            due = near.next_deadline()
            assert due is not None
            stage.now = due
            near.handle_timeout(due)
            continue
        for carry in (
            lambda said: stage.relay.hear(said, b"a", "door", stage.now),
            lambda said: near.receive(said, stage.now),
        ):
            count += 1
            if said is None or count - 1 == lost:
                break
            said = carry(said)
    assert stage.now - 1000 < 0.5


def test_nothing_is_said_while_nobody_uses_the_path():
    stage = Stage()
    _, near, _ = stage.bound()
    assert near.next_deadline() is None
    near.handle_timeout(stage.now + 1e6)
    assert near.data_to_send() is None


def test_a_path_in_use_is_kept_alive_by_one_datagram_in_25_seconds_and_only_when_nothing_else_is_sent():
    stage = Stage()
    _, near, _ = stage.bound()
    near.in_use = True
    said = []
    for _ in range(20):
        stage.now = near.next_deadline()
        near.handle_timeout(stage.now)
        said += stage.converse(near, b"a")
    assert len(said) == 20
    assert stage.now == pytest.approx(1000 + 20 * KEEP_ALIVE)
    stage.now += 20
    near.sent(stage.now)
    assert near.next_deadline() == stage.now + KEEP_ALIVE
    assert near.state is RelayState.BOUND


def test_a_relay_that_died_is_noticed_by_the_keep_alive():
    stage = Stage()
    _, near, _ = stage.bound()
    near.in_use = True
    _lets_pass(near, stage.now, KEEP_ALIVE + 11)
    assert near.state is RelayState.FAILED


def test_a_keep_alive_through_a_nat_that_forgot_binds_anew():
    stage = Stage()
    _, near, far = stage.bound()
    near.in_use = True
    stage.now = near.next_deadline()
    near.handle_timeout(stage.now)
    assert len(stage.converse(near, b"a2")) == 2
    assert near.state is RelayState.BOUND
    assert stage.forward(far.wrap(b"x", stage.now), b"b") == b"a2"


def test_the_hint_binds_anew_at_once_and_once_a_second_at_most():
    stage = Stage()
    allocation, near, far = stage.bound()
    hint = stage.relay.hear(near.wrap(b"x", stage.now), b"a2", "door", stage.now)
    near.receive(hint, stage.now)
    assert len(stage.converse(near, b"a2")) == 2
    assert stage.forward(far.wrap(b"x", stage.now), b"b") == b"a2"
    for _ in range(100):
        near.receive(write_lost(allocation.relay_id), stage.now + 0.5)
    assert near.data_to_send() is None
    near.receive(write_lost(allocation.relay_id), stage.now + 1)
    assert near.data_to_send() is not None


def test_messages_of_other_sessions_and_other_relays_change_nothing():
    stage = Stage()
    near, far = stage.ends(stage.allocate())
    other, _ = stage.ends(stage.allocate())
    other.bind(stage.now)
    stranger = stage.relay.hear(other.data_to_send(), b"a", "door", stage.now)
    far.bind(stage.now)
    not_ours = stage.relay.hear(far.data_to_send(), b"a", "door", stage.now)
    near.bind(stage.now)
    assert near.data_to_send() is not None
    for untrusted in (stranger, not_ours, b"", b"\x09", b"\x08", bytes(50)):
        with pytest.raises(BadWire):
            near.receive(untrusted, stage.now)
    assert near.state is RelayState.ASKING
    assert near.data_to_send() is None
