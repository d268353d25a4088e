"""Plain DNS frames, and who has to leave a crowd."""

from __future__ import annotations

import pytest
from conversing import converse, question, reply_to, singly
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.crowd import Crowd, client_prefix
from cyfs_ns.dnsframes import DnsFrames
from cyfs_ns.errors import BadWire


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def test_pipelined_queries_come_out_and_replies_go_back_in_any_order() -> None:
    frames = DnsFrames()
    asked = [question("a.test", 1), question("b.test", 2), question("c.test", 3)]
    frames.feed(framed(*asked) + b"\0", 0.0)
    got = frames.take(10)
    assert [one.query for one in got] == asked
    assert frames.partial
    frames.answer(got[2].token, reply_to(asked[2]))
    frames.answer(got[0].token, reply_to(asked[0]))
    frames.answer(got[1].token, None)
    assert frames.pieces_to_send() == [framed(reply_to(asked[2])), framed(reply_to(asked[0]))]
    assert frames.pieces_to_send() == []


def test_no_more_are_taken_than_wanted_and_the_rest_is_kept() -> None:
    frames = DnsFrames()
    frames.feed(framed(*(question(ident=ident) for ident in range(5))), 0.0)
    assert [len(frames.take(most)) for most in (0, 2, 2, 2, 2)] == [0, 2, 2, 1, 0]
    assert not frames.partial


def test_what_came_before_a_fault_is_still_handed_out() -> None:
    frames = DnsFrames()
    frames.feed(framed(question(), b"short") + framed(question()), 0.0)
    assert len(frames.take(10)) == 1
    for _ in range(2):
        with pytest.raises(BadWire, match="5 bytes"):
            frames.take(10)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=12, max_size=40), max_size=5), st.binary(max_size=20))
def test_the_way_bytes_are_split_makes_no_difference(messages: list[bytes], rest: bytes) -> None:
    stream = framed(*messages) + rest
    whole = converse(DnsFrames(), [stream])
    assert whole == converse(DnsFrames(), singly(stream))
    assert whole.queries[: len(messages)] == messages


class _Client:
    def __init__(self, idle: bool = True) -> None:
        self.idle = idle


def _crowd(most: int, of_one: int) -> Crowd[_Client]:
    return Crowd(most, of_one, lambda client: client.idle)


def test_the_quietest_idle_one_makes_room() -> None:
    crowd = _crowd(3, 3)
    busy, old, heard, new = _Client(idle=False), _Client(), _Client(), _Client()
    for at, client in enumerate((busy, heard, old)):
        assert crowd.admit(client, bytes((at,))) == (True, None)
    crowd.heard(heard)
    assert crowd.admit(new, b"n") == (True, old)
    assert len(crowd) == 3


def test_nobody_idle_and_the_newcomer_is_turned_away() -> None:
    crowd = _crowd(2, 2)
    for at in range(2):
        crowd.admit(_Client(idle=False), bytes((at,)))
    assert crowd.admit(_Client(), b"n") == (False, None)
    assert len(crowd) == 2


def test_one_client_only_displaces_itself() -> None:
    crowd = _crowd(10, 2)
    other, mine, second, third = (_Client() for _ in range(4))
    crowd.admit(other, b"other")
    crowd.admit(mine, b"me")
    crowd.admit(second, b"me")
    assert crowd.admit(third, b"me") == (True, mine)
    for client in (other, second, third):
        crowd.leave(client)
        crowd.leave(client)
    assert len(crowd) == 0
    assert crowd.quietest() is None


def test_patience_shrinks_in_the_second_half() -> None:
    crowd = _crowd(10, 10)
    patience = []
    for at in range(10):
        crowd.admit(_Client(), bytes((at,)))
        patience.append(crowd.patience(30.0))
    assert patience[:5] == [30.0] * 5
    assert patience[5:] == sorted(patience[5:], reverse=True)
    assert patience[-1] == 1.0
    assert crowd.patience(0.5) == 0.5


def test_a_host_cannot_leave_its_prefix() -> None:
    assert client_prefix(bytes((192, 0, 2, 1))) == bytes((192, 0, 2, 1))
    assert client_prefix(bytes(range(16))) == bytes(range(8))
