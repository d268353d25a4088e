"""A man in the middle of two links: whatever is dropped, doubled, swapped, cut, flipped, replayed or made up, a link is
closed with a reason, or it is as if nothing had happened; and nobody unproven is heard by the rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from rtcp.events import (
    End,
    HelloProven,
    LinkClosed,
    LinkEvent,
    PeerConfirmed,
    PingAnswered,
    StreamAnswered,
    StreamRequested,
    TunnelOpened,
)
from rtcp.link import Link
from rtcp.packet import Purpose, Result
from tests.rtcp.pair import ALICE, Pair, dialled, let_in, responding, told

MISCHIEF = st.sampled_from(["pass"] * 24 + ["drop", "double", "cut", "flip", "swap", "replay", "reflect", "noise"])


@dataclass
class Middle:
    """Sits between; ``heard`` is all that ever was sent."""

    draw: st.DataObject
    heard: list[bytes] = field(default_factory=list)
    kept: bytes = b""
    meddled: bool = False

    def pass_on(self, data: bytes, sender: Link, receiver: Link, now: float) -> None:
        self.heard.append(data)
        mischief = self.draw.draw(MISCHIEF)
        self.meddled |= mischief != "pass"
        at = self.draw.draw(st.integers(0, len(data) - 1))
        match mischief:
            case "pass":
                data, self.kept = self.kept + data, b""
            case "drop":
                data = b""
            case "double":
                data += data
            case "cut":
                data = data[:at]
            case "flip":
                data = data[:at] + bytes((data[at] ^ self.draw.draw(st.integers(1, 255)),)) + data[at + 1 :]
            case "swap":
                data, self.kept = self.kept, data
            case "replay":
                data += self.draw.draw(st.sampled_from(self.heard))
            case "reflect":
                sender.receive_data(data, now)
            case "noise":
                data = self.draw.draw(st.binary(min_size=1, max_size=60))
        cut = self.draw.draw(st.integers(0, len(data)))
        receiver.receive_data(data[:cut], now)
        receiver.receive_data(data[cut:], now)


@settings(max_examples=200)
@given(st.data())
def test_no_mischief_leads_anywhere_but_to_the_end(data):
    pair = Pair()
    if data.draw(st.booleans()):
        pair.talk()
    alice, bob = pair.alice, pair.bob
    links = {"alice": (alice, bob), "bob": (bob, alice)}
    middle, now = Middle(data, [*pair.sent["alice"], *pair.sent["bob"]]), 0.0
    events: dict[str, list[LinkEvent]] = pair.told
    asked: dict[str, set[bytes]] = {"alice": set(), "bob": set()}
    for turn in range(14):
        for name, (link, peer) in links.items():
            for event in told(link):
                events[name].append(event)
                let_in(link, event, now)
                if isinstance(event, StreamRequested):
                    link.answer_stream(event.stream_id, Result.OK, now)
            if link.is_open and turn % 2:
                stream_id = bytes((turn, name == "bob")) * 8
                link.open_stream(stream_id, Purpose.STREAM, "db.example", 5432, now)
                asked[name].add(stream_id)
            if wire := link.data_to_send():
                middle.pass_on(wire, link, peer, now)
        now += 0.5
    for name, (link, _) in links.items():
        events[name] += told(link)
        other = set(asked["bob" if name == "alice" else "alice"])
        kinds = [type(event) for event in events[name]]
        assert kinds.count(TunnelOpened) <= 1
        for at, event in enumerate(events[name]):
            match event:
                case StreamRequested(stream_id, purpose, host, port):
                    assert stream_id in other and (purpose, host, port) == (Purpose.STREAM, "db.example", 5432)
                    assert TunnelOpened in kinds[:at]
                    other.discard(stream_id)
                case HelloProven(proven):
                    assert proven.key == ALICE.public and at == 0
                case PeerConfirmed():
                    assert isinstance(events[name][at - 1], HelloProven)
                case StreamAnswered(stream_id, result):
                    assert stream_id in asked[name] and result == Result.OK
                case LinkClosed(end, why):
                    assert at == len(kinds) - 1 and end in (End.FAULT, End.REFUSED) and why
                case _:
                    assert not isinstance(event, PingAnswered)
        assert link.is_closed == (LinkClosed in kinds)
        if not middle.meddled:
            assert link.is_open and kinds.count(StreamRequested) >= 3
        while (due := link.next_deadline()) is not None:
            link.handle_timeout(due)
        assert link.is_closed, "nothing lasts without a peer"


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=4), st.booleans())
def test_noise_alone_reaches_nobody(pieces, dialling):
    for way in (pieces, [bytes((byte,)) for piece in pieces for byte in piece]):
        link = dialled() if dialling else responding()
        for piece in way:
            link.receive_data(piece, 0)
        assert all(isinstance(event, LinkClosed) and event.end is End.FAULT for event in told(link))
