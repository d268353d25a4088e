"""Frames as the document spells them (§16.4 and §16.8), and whole records as two tunnels make them."""

from __future__ import annotations

import pytest

from rtcp.v5 import frames as f
from rtcp.v5.carrier import Kind
from rtcp.v5.closing import Close, CloseCode
from rtcp.v5.frames import Opening, Purpose, Route, TargetKind
from tests.rtcp.v5.duet import HIDDEN, WEB, Duet

SOURCE = Route(("192.0.2.1", 50000), ("192.0.2.2", 22))

FRAMES = {
    "07000800000000010000000000020000": f.frame_u64(f.CREDIT, 1, 131_072),
    "0400000000000003": f.frame(f.FIN, 3),
    "050001000000000220": f.frame_u8(f.RESET, 2, f.Stop.CANCELLED),
    "090004000000000500000001": f.frame_u32(f.LEG, 5, 1),
    "0b0004000000000500000001": f.frame_u32(f.SHIFT, 5, 1),
    "0c00000000000005": f.frame(f.BARE, 5),
    "0d000800000000050000000000020000": f.frame_u64(f.END, 5, 131_072),
    "080009000000000704c000023500356869": f.write_datagram(7, ("192.0.2.53", 53), b"hi"),
    "0800030000000007006869": f.write_datagram(7, None, b"hi"),
    "1400030000000000000000": Close(CloseCode.DONE).frame(),
    "1500000000000009": f.frame(f.DRAIN, 9),
    "010016000000000201000103000373736804c0000201c0000202c3500016": f.write_open(
        2, Opening(Purpose.STREAM, "ssh", TargetKind.SERVICE, route=SOURCE)
    ),
    "10000f0000000000000000000000000004c63364079c40": f.write_welcome(0, ("198.51.100.7", 40000)),
    "1000090000000000000000000000000100": f.write_welcome(1, None),
    "1100080000000000a1a2a3a4a5a6a7a8": f.frame(f.PING, 0, bytes.fromhex("a1a2a3a4a5a6a7a8")),
}


@pytest.mark.parametrize("spelled", FRAMES)
def test_a_frame_is_spelled_so(spelled):
    assert FRAMES[spelled] == bytes.fromhex(spelled)


def test_the_first_records_of_a_tunnel_are_those_of_the_document():
    duet = Duet(HIDDEN)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    duet.alice.tunnel.send(stream, b"GET / HTTP/1.1\r\n", duet.now)
    hers = next(one for one in duet.pipes.values() if one.side is duet.alice)
    assert hers.other is not None
    (asked,) = duet.alice.tunnel.data_to_send(hers.carrier, duet.now)
    ((kind, plain),) = hers.other.carrier.receive(asked, duet.now)
    assert kind is Kind.NUMBERED
    assert plain.hex() == "01000a00000000010100000100043a3434330300100000000001474554202f20485454502f312e310d0a"

    duet = Duet(HIDDEN)
    stream = duet.alice.tunnel.open(WEB, duet.now)
    hers = next(one for one in duet.pipes.values() if one.side is duet.alice)
    for record in duet.alice.tunnel.data_to_send(hers.carrier, duet.now):
        duet.bob.tunnel.receive(hers.other.carrier, record, duet.now)
    duet.bob.listen()
    said = duet.bob.tunnel.data_to_send(hers.other.carrier, duet.now)
    records = [one for record in said for one in hers.carrier.receive(record, duet.now)]
    assert [kind for kind, _ in records] == [Kind.LOOSE, Kind.NUMBERED], "WELCOME first"
    assert records[1].plain.hex() == "13000800000000000000000000000001020001000000000100", "ACK 1, ANSWER yes"


@pytest.mark.parametrize("reason", ["", "x" * 500, "ä" * 150])
def test_reasons_are_cut_and_stay_text(reason):
    ((_, _, payload),) = f.frames(memoryview(f.write_answer(1, 5, reason)))
    code, read = f.read_answer(payload)
    assert code == 5 and reason.startswith(read) and len(read.encode()) <= f.MOST_REASON
