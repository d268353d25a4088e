"""Forwarding, caching and serving what is old, in scripts of unbound's format; one test a script."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from replay import Mismatch, Player
from rpl import BadScript, read_script

SCRIPTS = sorted(Path(__file__).with_name("scenarios").glob("*.rpl"))


def play(text: str) -> None:
    clock = trio.testing.MockClock()
    trio.run(Player(read_script(text), clock).play, clock=clock)


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_scenario(path: Path) -> None:
    play(path.read_text())


# The player and the reader themselves

SIMPLE = (Path(__file__).with_name("scenarios") / "forward_cached.rpl").read_text()


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        ("www.example.com. 35 IN A", "www.example.com. 36 IN A"),
        ("STEP 12 NO_OUT_QUERY", "STEP 12 CHECK_OUT_QUERY"),
        ("ELAPSE 25", "ELAPSE 61"),
        ("STEP 3 NO_ANSWER", "STEP 3 CHECK_ANSWER"),
        ("    forward-addr: 127.53.0.1", "    forward-addr: 127.53.0.1\n    forward-tls-upstream: yes"),
    ],
)
def test_the_player_sees_what_is_not_so(change: str, instead: str) -> None:
    assert SIMPLE.count(change)
    with pytest.raises((Mismatch, ExceptionGroup)) as raised:
        play(SIMPLE.replace(change, instead, 1))
    assert raised.type is Mismatch or raised.group_contains(Mismatch)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CONFIG_END\n",
        "CONFIG_END\nSCENARIO_BEGIN x\n",
        "CONFIG_END\nSCENARIO_BEGIN x\nSTEP one QUERY\n",
        "CONFIG_END\nSCENARIO_BEGIN x\nSTEP 1 QUERY\nSCENARIO_END\n",
        "CONFIG_END\nSCENARIO_BEGIN x\nRANGE_BEGIN 1\nRANGE_END\nSCENARIO_END\n",
        "CONFIG_END\nSCENARIO_BEGIN x\nSTEP 1 QUERY\nENTRY_BEGIN\nREPLY WHAT\nENTRY_END\nSCENARIO_END\n",
        "CONFIG_END\nSCENARIO_BEGIN x\nSTEP 1 QUERY\nENTRY_BEGIN\nSECTION ANSWER\nx. IN A 1\nENTRY_END\nSCENARIO_END\n",
        "CONFIG_END\nSCENARIO_BEGIN x\nsomething\nSCENARIO_END\n",
    ],
)
def test_a_script_that_is_none(text: str) -> None:
    with pytest.raises(BadScript):
        read_script(text)


def test_comments_octets_and_origins() -> None:
    script = read_script(
        'server: # nothing\n  a-key: "two words" ; more\nCONFIG_END ; here\nSCENARIO_BEGIN of all sorts\n'
        "RANGE_BEGIN 0 5\nADDRESS 1.2.3.4\nENTRY_BEGIN\n$ORIGIN example.com.\nMATCH qname\nADJUST copy_id\n"
        'REPLY QR AA NXDOMAIN\nSECTION QUESTION\nwww IN TXT\nSECTION ANSWER\nwww 5 IN TXT "a; b"\nwww 5 IN TXT c\n'
        "ENTRY_END\nENTRY_BEGIN\nHEX_ANSWER_BEGIN\n00 01\n0203 ; a comment\nHEX_ANSWER_END\nENTRY_END\nRANGE_END\n"
        "STEP 3 TIME_PASSES ELAPSE 1.5\nSCENARIO_END\n"
    )
    assert script.config == (("server", "a-key", "two words"),)
    assert script.title == "of all sorts"
    (scripted,) = script.ranges
    assert (scripted.first, scripted.last, scripted.addresses) == (0, 5, ("1.2.3.4",))
    first, second = scripted.entries
    assert (first.flags, first.rcode, first.match) == (0x8400, 3, ("qname",))
    assert first.sections["ANSWER"][0].to_text() == 'www.example.com. 5 IN TXT "a; b"\nwww.example.com. 5 IN TXT "c"'
    assert second.raw == b"\0\1\2\3"
    assert script.steps[0].words == ("ELAPSE", "1.5")
