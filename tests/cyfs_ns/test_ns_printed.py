"""Replies as they came: everything is shown, nothing acts on the terminal, and rubbish is one error."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.printed import read_transcript, transcript_json, transcript_lines

TEXT = """id 7
opcode QUERY
rcode NXDOMAIN
flags QR RD RA AD
edns 0
eflags DO
payload 1232
;QUESTION
Www.Example.ORG. IN A
;ANSWER
Www.Example.ORG. 60 IN CNAME host.example.net.
host.example.net. 30 IN A 192.0.2.7
;AUTHORITY
example.net. 300 IN NS ns.example.net.
;ADDITIONAL
ns.example.net. 300 IN AAAA 2001:db8::53
"""


def reply(*options: dns.edns.Option) -> bytes:
    made = dns.message.from_text(TEXT)
    made.use_edns(0, dns.flags.DO, 1232, options=list(options))
    return made.to_wire()


WIRE = reply(
    dns.edns.ECSOption("198.51.100.0", 24, 20),
    dns.edns.EDEOption(15, "ads: \x1b[31mred"),
    dns.edns.GenericOption(10, bytes(range(16))),
    dns.edns.GenericOption(3, b"ns1\x07"),
    dns.edns.GenericOption(65001, b"\xff\x00"),
)


def test_every_section_is_shown_as_it_was_sent() -> None:
    lines = list(transcript_lines(read_transcript(WIRE)))
    assert lines[0] == ";; NXDOMAIN; flags: qr rd ra ad"
    assert ";Www.Example.ORG.\tIN\tA" in lines
    records = [line.split("\t") for line in lines if not line.startswith(";")]
    assert records == [
        ["Www.Example.ORG.", "60", "IN", "CNAME", "host.example.net."],
        ["host.example.net.", "30", "IN", "A", "192.0.2.7"],
        ["example.net.", "300", "IN", "NS", "ns.example.net."],
        ["ns.example.net.", "300", "IN", "AAAA", "2001:db8::53"],
    ]


def test_edns_and_extended_errors_are_told() -> None:
    lines = list(transcript_lines(read_transcript(WIRE)))
    assert lines[1] == ";; EDE 15 (blocked): ads:  [31mred"
    assert lines[2].startswith(";; EDNS: version 0, 1232 octets, do; client subnet 198.51.100.0/24/20; ")
    assert f"cookie {bytes(range(16)).hex()}" in lines[2]
    assert "server ns1\\x07" in lines[2] and "option 65001: ff00" in lines[2]
    assert all(line.replace("\t", "").isprintable() for line in lines)


def test_json_holds_the_same() -> None:
    shape = transcript_json(read_transcript(WIRE))
    assert shape["Status"] == 3 and shape["AD"] is True
    assert shape["Question"] == [{"Name": "Www.Example.ORG.", "Qtype": 1, "Qclass": 1}]
    assert len(shape["Answer"]) == 2 and len(shape["Authority"]) == 1  # type: ignore[arg-type]
    assert shape["Edns"] == {"Version": 0, "Size": 1232, "DO": True, "ClientSubnet": "198.51.100.0/24/20"}
    assert shape["Errors"] == [{"Code": 15, "Meaning": "blocked", "Text": "ads:  [31mred"}]


def test_the_upper_bits_of_the_code_count() -> None:
    made = dns.message.make_response(dns.message.make_query("a.example", "A", use_edns=0))
    made.set_rcode(dns.rcode.BADCOOKIE)
    assert read_transcript(made.to_wire()).rcode == 23


def test_a_question_is_no_reply() -> None:
    with pytest.raises(BadWire):
        read_transcript(dns.message.make_query("a.example", "A").to_wire())


@given(st.binary(max_size=200))
def test_anything_is_a_transcript_or_one_error(data: bytes) -> None:
    try:
        said = read_transcript(data)
    except BadWire:
        return
    assert list(transcript_lines(said)) and transcript_json(said)


@given(st.data())
@settings(max_examples=200)
def test_a_bent_reply_is_a_transcript_or_one_error(data: st.DataObject) -> None:
    wire = bytearray(WIRE)
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    try:
        said = read_transcript(bytes(wire[:cut]))
    except BadWire:
        return
    assert all(line.replace("\t", "").isprintable() for line in transcript_lines(said))
    assert transcript_json(said)
