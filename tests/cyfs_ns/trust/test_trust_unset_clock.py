"""A first boot in 1970: what is dated today cannot be judged yet, and is neither believed nor held against anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyfs_ns.clock import NOT_SET, SET_SINCE, is_unset, why_unset
from cyfs_ns.identity.proof import NotYet, verify
from cyfs_ns.query import NOERROR, SERVFAIL
from cyfs_ns.trust.dnsview import Known, Shown, read_place, show
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found, Outcome, Refused, Unreachable
from cyfs_ns.trust.places import device_did
from cyfs_ns.wire import name_wire
from tests.cyfs_ns.identity.identities import ALICE, HOME, MALLORY, NAS, NOW, boot, mini, own_key
from tests.cyfs_ns.trust.test_trusted_names import House, Records

SIGNED = [boot(ALICE, "ood1:192.0.2.1@wan"), mini("ood1", NAS, ALICE)]
QUESTION = name_wire("ood1.home.example") + b"\0\1\0\1"


def in_1970(tmp_path: Path, *providers: Records) -> House:
    house = House(tmp_path, *providers)
    house.pin()
    house.now = 5.0
    return house


def told(outcome: Outcome, now: float) -> Shown:
    place = read_place("ood1.home.example", Known(hosts={"home.example": HOME}))
    assert place is not None
    shown = show(place, QUESTION, outcome, now)
    assert shown is not None
    return shown


def test_a_clock_before_the_program_is_not_set_and_says_so() -> None:
    assert is_unset(0) and is_unset(-1e9) and is_unset(SET_SINCE - 1) and not is_unset(SET_SINCE)
    assert why_unset(5) == "the clock of this machine is before 2026-01-01: it says 1970-01-01 00:00"
    assert why_unset(-1e9).startswith(NOT_SET)


async def test_the_owners_documents_wait_for_the_clock_and_the_dns_speaks_meanwhile(tmp_path: Path) -> None:
    house = in_1970(tmp_path, Records(SIGNED))
    outcome = await house.ask(least=Trust.KEY_PROVEN)
    assert isinstance(outcome, Unreachable) and NOT_SET in outcome.why
    assert any(NOT_SET in fault and "in the future" in fault for fault in outcome.faults)
    shown = told(outcome, house.now)
    assert shown.by_dns and shown.left == 0 and shown.reply.rcode == NOERROR
    assert shown.reply.ede[0][1].startswith(f"trust=plain-dns: {NOT_SET}")
    assert not house.store.kept()

    house.now = float(NOW)
    known = await house.ask(least=Trust.KEY_PROVEN)
    assert isinstance(known, Found) and known.trust == Trust.OWNER_SIGNED and own_key(known) == NAS.public


async def test_who_is_not_the_owner_is_refused_in_1970_too(tmp_path: Path) -> None:
    house = in_1970(tmp_path, Records([boot(MALLORY, "ood1:203.0.113.66@wan"), mini("ood1", NAS, MALLORY)]))
    outcome = await house.ask(least=Trust.KEY_PROVEN)
    assert isinstance(outcome, Refused) and "not signed by" in outcome.why
    assert told(outcome, house.now).reply.rcode == SERVFAIL


async def test_a_document_of_the_future_is_refused_where_the_clock_is_set(tmp_path: Path) -> None:
    house = in_1970(tmp_path, Records(SIGNED))
    house.now = float(SET_SINCE)
    outcome = await house.ask(least=Trust.KEY_PROVEN)
    assert isinstance(outcome, Refused) and "in the future" in outcome.why


async def test_what_could_not_be_judged_is_asked_again_in_seconds(tmp_path: Path) -> None:
    for number, least in enumerate((Trust.NONE, Trust.KEY_PROVEN)):
        for tokens in (SIGNED, [mini("ood1", NAS, MALLORY)], []):
            dns = Records(list(tokens))
            house = in_1970(tmp_path / f"{number}{len(tokens)}", dns)
            await house.ask(least=least)
            await house.ask(least=least)
            assert dns.asked == 1
            house.now += 6
            await house.ask(least=least)
            assert dns.asked == 2


async def test_what_was_kept_before_the_clock_was_lost_is_still_believed(tmp_path: Path) -> None:
    house = House(tmp_path, Records(SIGNED))
    house.pin()
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), Found)
    house.names.flush()
    house.now = 5.0
    outcome = await house.ask(least=Trust.KEY_PROVEN)
    assert isinstance(outcome, Found) and own_key(outcome) == NAS.public


async def test_what_is_newer_than_all_that_was_kept_waits_for_the_clock_too(tmp_path: Path) -> None:
    dns = Records(list(SIGNED))
    house = House(tmp_path, dns)
    house.pin()
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), Found)
    house.now, dns.tokens = 5.0, [mini("nas", NAS, ALICE, iat=NOW + 3600)]
    outcome = await house.ask(device_did("nas", HOME), least=Trust.KEY_PROVEN)
    assert isinstance(outcome, Unreachable), outcome
    assert any(NOT_SET in fault and "in the future" in fault for fault in outcome.faults)


def test_only_the_date_makes_a_document_early() -> None:
    with pytest.raises(NotYet):
        verify(SIGNED[0], "boot", ALICE.public, 5.0)
    with pytest.raises(Exception, match="not signed by") as caught:
        verify(SIGNED[0], "boot", MALLORY.public, 5.0)
    assert not isinstance(caught.value, NotYet)
