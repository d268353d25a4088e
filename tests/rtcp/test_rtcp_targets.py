"""Where a stream leads, as text: whatever a program hands in is asked for, or not; it never breaks a tunnel."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import dev_did
from rtcp.packet import Purpose
from rtcp.v5 import frames as f
from rtcp.v5.targets import NotServed, read_target, write_target
from tests.rtcp.pair import ALICE, BOB
from tests.rtcp.town import Town, descriptors, echo, reject, talk, until

ALICES_DID, BOBS_DID = dev_did(ALICE.public), dev_did(BOB.public)
NO_TEXT = ["lone \ud800 surrogate", "tcp:///\udfff", "two\nlines", "zero\0", "\x1b[2J"]
TOO_LONG = {
    4: ["x" * 16_385, "é" * 8193, "tcp:///" + "hop/" * 5000],
    5: ["x" * 2047, "é" * 1024, "tcp:///" + "hop/" * 512],
}
LONGEST = {4: '"' * 16_384, 5: "x" * 2046}


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.fixture(params=[4, 5])
def town(request):
    return Town(versions=frozenset({request.param}))


@pytest.mark.parametrize("asks", ["open_stream", "open_datagrams"])
async def test_what_is_no_text_or_too_long_is_not_asked_for(town, asks):
    asked = []

    async def serve(request):
        asked.append(request.host)
        await echo(request)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        (tunnel,) = {await alice.tunnel(BOBS_DID)}
        version = tunnel.version
        for host, why in [(one, "no text") for one in NO_TEXT] + [(one, "longer") for one in TOO_LONG[version]]:
            with pytest.raises(Unreachable, match=why):
                await getattr(alice, asks)(BOBS_DID, host, 1)
        leg = await alice.open_stream(BOBS_DID, LONGEST[version], 1)
        await talk(leg)
        leg.close()
        assert asked == [LONGEST[version]] and alice.tunnels() == [tunnel] and len(bob.tunnels()) == 1


async def test_what_is_no_text_is_not_served(town, caplog):
    """A peer may ask all the same."""
    served = []

    async def serve(request):
        served.append(request.host)
        await reject("no")(request)

    async with town.live(ALICE, hosts=()) as alice, town.live(BOB, serve=serve) as bob:
        tunnel = await alice.tunnel(BOBS_DID)
        for host in ("two\nlines", "\x1b[2J"):
            with trio.fail_after(10), pytest.raises((Unreachable, Refused)):
                if tunnel.version == 4:
                    await tunnel._ask(Purpose.STREAM, host, 1)
                else:
                    number = tunnel._machine.open(f.Opening(f.Purpose.STREAM, f"{host}:1"), trio.current_time())
                    tunnel._turn()
                    await until(lambda: tunnel._machine.conversations == 0)
                    raise Unreachable(f"{number} is answered", "other")
        assert served == [] and bob.tunnels() and not any(one.exc_info for one in caplog.records)


@settings(max_examples=200, deadline=None)
@given(st.none() | st.text() | st.text(st.characters(categories=["L", "N", "P"])), st.integers(0, 65535))
def test_what_is_written_is_read(host, port):
    try:
        opening = write_target(f.Purpose.STREAM, host, port)
    except Unreachable:
        assert host and (not host.isprintable() or len(host.encode()) > 2000)
        return
    payload = next(f.frames(memoryview(f.write_open(1, opening))))[2]
    got = read_target(f.read_open(payload))
    if host and "://" in host:
        assert got == (host, 0)
    else:
        bare = host[1:-1] if host and ":" not in host and host[0] == "[" and host[-1] == "]" else host
        assert got == (bare or None, port)


_V4, _V6 = ("192.0.2.1", 50000), ("2001:db8::1", 50000)


@pytest.mark.parametrize(
    ("host", "source", "destination"),
    [
        ("192.0.2.2", _V4, ("192.0.2.2", 22)),
        ("2001:db8::2", _V6, ("2001:db8::2", 22)),
        ("2001:db8::2", _V4, ("0.0.0.0", 22)),
        ("192.0.2.2", _V6, ("::", 22)),
        ("nas.lan", _V4, ("0.0.0.0", 22)),
        (None, _V6, ("::", 22)),
        ("rtcp://far.example/:22", _V4, ("0.0.0.0", 22)),
        (None, ("fe80::1%eth0", 1), None),
        (None, ("", 0), None),
        (None, None, None),
    ],
)
def test_the_source_that_is_told_has_a_destination_of_its_family(host, source, destination):
    payload = next(f.frames(memoryview(f.write_open(1, write_target(f.Purpose.STREAM, host, 22, source)))))[2]
    route = f.read_open(payload).route
    assert route == (None if destination is None else f.Route(source, destination))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 6), st.text(max_size=30) | st.from_regex(r"[a-z\[\]:.]{0,9}:[0-9²]{0,7}"), st.integers(0, 4))
def test_what_is_asked_for_is_a_target_or_not_served(purpose, target, kind):
    try:
        host, port = read_target(f.Opening(purpose, target, kind))
    except NotServed:
        return
    assert purpose in (1, 2) and 0 <= port <= 65535 and (host is None or host.isprintable())
