"""Accounts, names, machines, domains, invitations: what is asked, and the verdict upon it."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sn_people import HERE, NOW, SN, Office, Person, person, secret

from cyfs_gateway.sn import names
from cyfs_gateway.sn.accounts import CODE_BYTES, Change, Stamp, digest_of
from cyfs_gateway.sn.admission import Circumstances, Code, challenge
from cyfs_gateway.sn.quota import Quota
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.requests import (
    LIFETIME,
    Admit,
    Bind,
    Close,
    Point,
    Publish,
    Recover,
    Register,
    Rekey,
    Release,
    Remove,
    Report,
    read_request,
)
from cyfs_gateway.sn.upkeep import invite, outdated, suspend, with_quota
from cyfs_gateway.sn.zone import Zone
from cyfs_gateway.sn.zonerecords import ZoneSettings
from cyfs_gateway.sn.zoneupdate import ZoneUpdate, write_update
from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceMini
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.request import DeviceRequest
from cyfs_ns.identity.token import read_token, sign_token
from cyfs_ns.identity.txt import read_published

ALICE, BOB, EVE = person(1), person(2), person(3)
BOX, LAPTOP = person(11), person(12)
DAY = 86_400
ELSEWHERE = Circumstances(bytes([203, 0, 113, 9]))


@pytest.fixture(autouse=True)
def _nobody_has_asked_yet() -> None:
    for one in (ALICE, BOB, EVE, BOX, LAPTOP):
        one.last = Stamp(0, 0)


def opened(**policy: object) -> Office:
    return Office(open=True, hourly=100, **policy)


def settled(**policy: object) -> Office:
    """An SN where Alice has ``alice`` and a box."""
    office = opened(**policy)
    assert office(ALICE, Register("alice")).ok
    assert office.admit(ALICE, BOX).ok
    return office


# -- who gets in


@pytest.mark.parametrize("invites", [False, True])
def test_a_closed_sn_lets_its_own_people_in_and_tells_strangers_what_to_do(invites: bool):
    office = Office(owners=frozenset({ALICE.did}), invites=invites)
    assert office(ALICE, Register("alice")).ok
    refused = office(EVE, Register("eve-home"))
    assert refused.code is Code.CLOSED and ("invitation" in refused.why) is invites
    assert office.registry.account(EVE.did) is None


def test_an_invitation_lets_in_as_many_as_it_says_and_gives_its_quota():
    office = Office(invites=True, hourly=100)
    code, change = invite(office.registry, bytes(range(CODE_BYTES)), 1, int(NOW) + DAY, Quota(names=2), "for Bob")
    office.registry.apply([change])
    assert office(BOB, Register("bobby", code.upper().replace("-", " "))).ok
    account = office.registry.account(BOB.did)
    assert account is not None and account.quota == Quota(names=2)
    assert office(EVE, Register("eve-home", code)).code is Code.INVITATION
    assert code.replace("-", "") not in repr(office.registry.invitation(digest_of(code)))


@pytest.mark.parametrize("code", ["", "aaaa-aaaa-aaaa-aaab", "no code", "a" * 64, "\u00e9"])
def test_a_wrong_invitation_code_opens_nothing(code: str):
    office = Office(invites=True, hourly=100)
    _, change = invite(office.registry, bytes(CODE_BYTES), 5, int(NOW) + DAY)
    office.registry.apply([change])
    assert office(EVE, Register("eve-home", code)).code in (Code.INVITATION, Code.CLOSED)


def test_an_invitation_is_over_when_its_time_is():
    office = Office(invites=True, hourly=100)
    code, change = invite(office.registry, bytes(CODE_BYTES), 5, int(NOW))
    office.registry.apply([change])
    assert office(EVE, Register("eve-home", code)).code is Code.INVITATION


def test_a_refused_name_costs_no_use_of_the_invitation():
    office = Office(invites=True, hourly=100)
    code, change = invite(office.registry, bytes(CODE_BYTES), 1, int(NOW) + DAY)
    office.registry.apply([change])
    assert office(BOB, Register("admin", code)).code is Code.BAD_NAME
    assert office(BOB, Register("bobby", code)).ok


def test_where_nobody_is_invited_a_code_from_before_opens_nothing():
    office = Office(hourly=100, owners=frozenset({ALICE.did}))
    code, change = invite(office.registry, bytes(CODE_BYTES), 1, int(NOW) + DAY)
    office.registry.apply([change])
    refused = office(BOB, Register("bobby", code))
    assert refused.code is Code.CLOSED and "invitation" not in refused.why
    assert office(ALICE, Register("alice", code)).ok
    assert office.registry.invitation(digest_of(code)) == change.after, "and nobody uses it up"


def test_a_full_sn_takes_nobody_more():
    office = opened(most_accounts=1)
    assert office(ALICE, Register("alice")).ok
    assert office(BOB, Register("bobby")).code is Code.LIMIT


# -- once, and in order


def test_a_request_is_obeyed_once():
    office = opened()
    register = ALICE.ask(Register("alice"))
    assert office.carry_out(register).ok
    assert office.carry_out(register).code is Code.REPLAYED
    assert office(ALICE, Close()).ok
    assert office.carry_out(register).code is Code.REPLAYED


def test_what_was_signed_earlier_is_not_obeyed_after_what_was_signed_later():
    office = settled()
    point = ALICE.ask(Point("alice", BOX.did))
    assert office(ALICE, Release("alice")).ok
    assert office.carry_out(point).code is Code.REPLAYED


def test_two_requests_of_one_second_are_both_obeyed():
    office = opened(quota=Quota(names=2))
    assert office(ALICE, Register("alice")).ok and office(ALICE, Register("alicia-b")).ok
    assert ALICE.last == Stamp(int(NOW), 1)


# -- names


def test_what_a_name_may_be():
    assert names.label("Alice") == "alice"
    assert names.label("büro") == "xn--bro-hoa"
    for bad in (
        "",
        "ab",
        "a" * 41,
        "-alice",
        "alice-",
        "al_ice",
        "al.ice",
        "ab--cd",
        "127",
        "0x7f",
        "al ice",
        "\u202ealice",
    ):
        with pytest.raises(BadWire):
            names.label(bad)
    for bad in ("\u0430\u0440\u0440\u04cf\u0435", "\u0440aypal", "\U0001f600" * 3, "xn--alice-", "xn--\uff41"):
        with pytest.raises(BadWire):
            names.label(bad)


@pytest.mark.parametrize("alike", ["paypa1", "payp-al", "paypai", "PAYPAL", "p\u00e1ypal", "p\u00e4yp\u00e4l"])
def test_a_name_that_looks_like_anothers_is_refused(alike: str):
    office = opened()
    assert office(ALICE, Register("paypal")).ok
    refused = office(EVE, Register(alike))
    assert refused.code is Code.TAKEN and "paypal" in refused.why


@pytest.mark.parametrize("name", ["admin", "adm1n", "www", "post-master", "roOt", "\u00e1dmin"])
def test_reserved_names_go_to_the_sns_own_people_alone(name: str):
    office = Office(open=True, hourly=100, owners=frozenset({ALICE.did}))
    assert office(EVE, Register(name)).code is Code.BAD_NAME
    assert office(ALICE, Register(name)).ok


def test_one_name_for_one_account_unless_more_are_granted():
    office = settled()
    assert office(ALICE, Register("second-home")).code is Code.LIMIT
    account = office.registry.account(ALICE.did)
    assert account is not None
    office.registry.apply([with_quota(account, Quota(names=2))])
    assert office(ALICE, Register("second-home")).ok
    assert [name.name for name in office.registry.names_of(ALICE.did)] == ["alice", "second-home"]


def test_asking_again_for_ones_own_name_is_how_an_account_is_found_again():
    office = settled()
    office.registry.apply([])
    assert office(ALICE, Register("ALICE")).ok
    assert len(list(office.registry.names_of(ALICE.did))) == 1


def test_a_neighbourhood_may_ask_for_so_many_names_an_hour():
    office = Office(open=True, hourly=3)
    people = [person(100 + number) for number in range(6)]
    taken = [office(one, Register(f"squat-{number}aa")).code for number, one in enumerate(people[:4])]
    assert taken == [Code.OK, Code.OK, Code.OK, Code.TOO_OFTEN]
    assert office(people[4], Register("neighbour"), around=ELSEWHERE).ok
    assert office(people[5], Register("later-on"), now=NOW + 3600).ok


@pytest.mark.parametrize(
    ("addresses", "ok"),
    [
        (("2001:db8:1::1", "2001:db8:1:100::1", "2001:db8:1:ff00::1"), 1),
        (("2001:db8:1::1", "2001:db8:2::1", "::ffff:192.0.2.1"), 3),
        (("::ffff:192.0.2.1", "192.0.2.2", "::ffff:198.51.100.1"), 2),
    ],
)
def test_all_that_one_gets_is_one_neighbourhood(addresses: tuple[str, ...], ok: int):
    office = Office(open=True, hourly=1)
    visits = [
        office(person(100 + number), Register(f"squat-{number}aa"), around=Circumstances(ip_address(each).packed))
        for number, each in enumerate(addresses)
    ]
    assert sum(visit.ok for visit in visits) == ok


def test_a_name_given_up_waits_for_its_last_owner():
    office = settled(grace=DAY)
    assert office(ALICE, Release("alice")).ok
    assert office.registry.find_name("alice") is None
    assert office(EVE, Register("alice"), now=NOW + DAY - 1).code is Code.TAKEN
    assert office(EVE, Register("al-ice"), now=NOW + DAY).code is Code.TAKEN
    assert office(ALICE, Register("alice"), now=NOW + DAY).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.owner == ALICE.did


def test_after_the_grace_a_name_is_anybodys():
    office = settled(grace=DAY)
    assert office(ALICE, Release("alice")).ok
    assert office(BOB, Register("alice"), now=NOW + DAY + 2).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.owner == BOB.did
    assert list(office.registry.names_of(ALICE.did)) == []


def test_nobody_takes_name_after_name_out_of_the_world():
    office = settled(grace=DAY)
    got = []
    for number in range(5):
        got.append(office(ALICE, Release(f"alice{number or ''}")).ok)
        if not office(ALICE, Register(f"alice{number + 1}")).ok:
            break
    assert got == [True] * 3
    assert office(ALICE, Register("alice")).ok


def test_a_closed_account_takes_its_names_with_it_and_may_come_back():
    office = settled(grace=DAY)
    assert office(ALICE, Close()).ok
    assert office.registry.find_name("alice") is None and office.registry.device(BOX.did) is None
    assert office(BOX, Report(("192.0.2.1",))).code is Code.UNKNOWN
    assert office(ALICE, Register("alice"), now=NOW + 5).ok
    assert office.registry.find_name("alice") is not None


def test_a_suspended_account_gets_nothing_and_keeps_its_names():
    office = settled()
    account = office.registry.account(ALICE.did)
    assert account is not None
    office.registry.apply([suspend(account, "spam")])
    assert office.registry.find_name("alice") is None and office.registry.device(BOX.did) is None
    assert office(ALICE, Register("second-home")).code is Code.BARRED
    assert office(EVE, Register("alice")).code is Code.TAKEN
    account = office.registry.account(ALICE.did)
    assert account is not None
    office.registry.apply([suspend(account, "")])
    assert office.registry.find_name("alice") is not None


def test_closing_an_account_does_not_lift_its_suspension():
    office = settled()
    assert office(ALICE, Close()).ok
    account = office.registry.account(ALICE.did)
    assert account is not None
    office.registry.apply([suspend(account, "spam")])
    assert office(ALICE, Register("alice"), NOW + 5).code is Code.BARRED


# -- machines


def test_a_machine_comes_by_its_owners_document():
    office = settled()
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.chosen == "ood1" and entry.hosts["ood1"].device.did == BOX.did
    assert entry.devices == {"ood1": BOX.key.public}
    assert office.admit(ALICE, BOX).why == "known"


def test_the_short_document_admits_a_machine_that_says_whose_it_is():
    office = opened()
    assert office(ALICE, Register("alice")).ok
    mini = DeviceMini(name="ood1", key=BOX.key.public, iat=int(NOW), exp=int(NOW) + DAY)
    token = read_token(sign_token(mini.claims(), ALICE.key))
    assert office(BOX, Admit(token)).code is Code.PROOF
    assert office(BOX, Admit(token, EVE.did)).code is Code.UNKNOWN
    assert office(BOX, Admit(token, ALICE.did)).ok


def test_nobody_registers_anothers_machine_as_theirs():
    office = opened()
    assert office(ALICE, Register("alice")).ok and office(EVE, Register("eve-home")).ok
    theft = EVE.device(BOX)
    assert office(EVE, Admit(theft)).code is Code.PROOF
    assert office.admit(ALICE, BOX).ok
    assert office(BOX, Admit(theft)).code is Code.TAKEN
    forged = read_token(sign_token(ALICE.device(LAPTOP).claims, EVE.key))
    assert office(LAPTOP, Admit(forged)).code is Code.PROOF


def test_an_expired_document_admits_nobody():
    office = opened()
    assert office(ALICE, Register("alice")).ok
    old = ALICE.device(BOX, now=NOW - 10 * DAY, days=5)
    assert office(BOX, Admit(old)).code is Code.PROOF


def test_a_removed_machine_comes_back_with_a_new_document_only():
    office = settled()
    old = ALICE.device(BOX)
    assert office(ALICE, Remove(BOX.did)).ok
    assert office.registry.device(BOX.did) is None
    assert office(BOX, Admit(old)).code is Code.STALE
    assert office.admit(ALICE, BOX, now=NOW + 1).ok
    assert office.registry.device(BOX.did) is not None
    assert office(BOX, Admit(old)).code is Code.STALE


def test_a_stolen_machine_is_not_washed_clean_in_the_thiefs_account():
    office = settled()
    assert office(EVE, Register("eve-home")).ok
    old = ALICE.device(BOX)
    assert office(ALICE, Remove(BOX.did)).ok
    assert office.admit(EVE, BOX).ok
    assert office(EVE, Remove(BOX.did)).ok
    assert office(BOX, Admit(old)).code is Code.STALE
    assert office.admit(ALICE, BOX, now=NOW + 1).ok


def test_a_later_document_for_a_name_puts_a_new_machine_in_the_old_ones_place():
    office = settled()
    assert office.admit(ALICE, LAPTOP, "ood1").code is Code.STALE
    assert office.admit(ALICE, LAPTOP, "ood1", now=NOW + 1).ok
    assert office.registry.device(BOX.did) is None
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.hosts["ood1"].device.did == LAPTOP.did


def test_an_account_has_so_many_machines():
    office = settled(quota=Quota(devices=2))
    assert office.admit(ALICE, LAPTOP, "laptop").ok
    assert office.admit(ALICE, person(13), "phone").code is Code.LIMIT
    assert office.admit(ALICE, person(13), "laptop", now=NOW + 1).ok


def test_removed_machines_do_not_fill_the_books_and_stay_out():
    office = settled()
    machines = [person(1000 + number) for number in range(70)]
    documents = [ALICE.device(one, "ood1", NOW + 1 + number) for number, one in enumerate(machines)]
    for number, (one, document) in enumerate(zip(machines, documents, strict=True)):
        assert office(one, Admit(document), NOW + 1 + number).ok
    assert len(office.registry.devices()) <= 66
    later = NOW + 100
    assert {
        office(one, Admit(document), later).code for one, document in zip(machines[:-1], documents, strict=False)
    } == {Code.STALE}
    assert office(machines[-1], Admit(documents[-1]), later).ok


def test_recovery_by_the_owners_key_voids_all_that_was_signed_before():
    office = settled()
    stolen = ALICE.device(LAPTOP, "laptop")
    assert office(ALICE, Recover(), NOW + 10).ok
    assert office.registry.device(BOX.did) is None
    assert office(LAPTOP, Admit(stolen), NOW + 11).code is Code.STALE
    assert office.admit(ALICE, BOX, now=NOW + 12).ok
    assert office.registry.find_name("alice") is not None


def test_a_name_points_at_the_machine_its_owner_says():
    office = settled()
    assert office.admit(ALICE, LAPTOP, "laptop").ok
    assert office(ALICE, Point("alice", LAPTOP.did)).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.chosen == "laptop"
    assert office(ALICE, Point("alice", EVE.did)).code is Code.UNKNOWN
    assert office(ALICE, Remove(LAPTOP.did)).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.chosen == "ood1"


# -- what is published


def boot_document(who: Person, zone: Did, now: float = NOW):
    issuer = Issuer(key=who.key, id=who.did, iat=int(now), exp=int(now) + DAY)
    return read_token(issuer.sign(issuer.boot(zone, [], None)))


def test_the_owners_documents_are_published_beside_a_name():
    office = opened()
    zone = Did("web", f"alice.{SN}")
    assert office(ALICE, Register("alice")).ok
    issuer = Issuer(key=ALICE.key, id=ALICE.did, iat=int(NOW), exp=int(NOW) + DAY)
    asked = DeviceRequest(name="ood1", key=BOX.key.public, iat=int(NOW), exp=int(NOW) + DAY)
    document = issuer.device(asked, zone)
    assert document.mini_jwt is not None
    assert office(BOX, Admit(read_token(issuer.sign(document)))).ok
    boot = boot_document(ALICE, zone)
    assert office(ALICE, Publish("alice", boot, ("letsencrypt.org",))).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.issuers == ("letsencrypt.org",)
    assert entry.texts == (f"PKX={ALICE.key.public.x};", f"BOOT={boot.text};", f"DEV={document.mini_jwt};")
    published = read_published(text.encode() for text in entry.texts)
    assert published.faults == () and published.key == ALICE.key.public and len(published.devices) == 1
    assert office(ALICE, Publish("alice")).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.texts[1:] == (f"DEV={document.mini_jwt};",) and entry.issuers == ()


def test_what_its_owner_did_not_sign_is_not_published():
    office = settled()
    zone = Did("web", f"alice.{SN}")
    assert office(ALICE, Publish("alice", boot_document(EVE, zone))).code is Code.PROOF
    assert office(ALICE, Publish("alice", boot_document(ALICE, zone, NOW - 2 * DAY))).code is Code.PROOF
    assert office(ALICE, Publish("alice", ALICE.device(BOX))).code is Code.PROOF
    assert office(EVE, Register("eve-home")).ok
    assert office(EVE, Publish("alice", boot_document(EVE, zone))).code is Code.UNKNOWN
    for issuer in ("\u00e9", "", "a\nb", "x" * 201):
        with pytest.raises(BadWire):
            ALICE.ask(Publish("alice", None, (issuer,)))


def test_a_forged_short_form_inside_a_document_is_not_published():
    office = opened()
    assert office(ALICE, Register("alice")).ok
    mini = DeviceMini(name="ood1", key=EVE.key.public, iat=int(NOW), exp=int(NOW) + DAY)
    claims = {**ALICE.device(BOX).claims, "device_mini_config_jwt": sign_token(mini.claims(), ALICE.key)}
    assert office(BOX, Admit(read_token(sign_token(claims, ALICE.key)))).ok
    entry = office.registry.find_name("alice")
    assert entry is not None and entry.texts == (f"PKX={ALICE.key.public.x};",)


def test_the_registry_answers_the_zone_of_the_sn():
    office = settled(quota=Quota(names=2))
    assert office(ALICE, Register("second-home")).ok and office(ALICE, Release("second-home")).ok
    assert office(ALICE, Bind("home.example"), around=proven("home.example", ALICE)).ok
    assert list(office.registry.names()) == ["alice"]
    settings = ZoneSettings(origin=SN, nameservers={f"ns1.{SN}": ("192.0.2.53",)}, ingress=("192.0.2.80",))
    zone = Zone(settings, office.registry, now=NOW)
    update = ZoneUpdate(
        audience=SN,
        name="alice",
        device="ood1",
        key=BOX.key.public,
        seq=1,
        iat=int(NOW),
        exp=int(NOW) + 60,
        addresses=("9.9.9.9",),
        challenges={},
    )
    assert zone.update(write_update(update, BOX.key), NOW).accepted
    assert office(ALICE, Remove(BOX.did)).ok
    again = dataclasses.replace(update, seq=2)
    assert not zone.update(write_update(again, BOX.key), NOW).accepted


# -- where machines are


def test_a_report_says_where_a_machine_is_and_an_older_one_changes_nothing():
    office = settled()
    late = BOX.ask(Report(("192.0.2.4",)), NOW + 10)
    assert office(BOX, Report(("192.0.2.5", "2001:db8::5")), NOW + 20, ELSEWHERE).ok
    assert office.carry_out(late, NOW + 40).code is Code.STALE
    entry = office.registry.find_name("alice")
    assert entry is not None
    where = entry.hosts["ood1"].where
    assert where is not None and where.addresses == ("192.0.2.5", "2001:db8::5") and where.observed == "203.0.113.9"
    assert where.seen == int(NOW) + 20


def test_reports_do_not_keep_the_disk_busy():
    office = settled()
    assert office(BOX, Report(("192.0.2.5",)), NOW + 10).changes
    assert office(BOX, Report(("192.0.2.5",)), NOW + 11).changes == ()
    assert office(BOX, Report(("192.0.2.6",)), NOW + 12).code is Code.TOO_OFTEN
    assert office(BOX, Report(("192.0.2.6",)), NOW + 15).changes
    assert office(BOX, Report(("192.0.2.6",)), NOW + 80).changes


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1", "::", "1.2.3"])
def test_an_address_that_leads_nowhere_is_not_read(address: str):
    with pytest.raises(BadWire):
        BOX.ask(Report((address,)))


def test_a_strangers_report_is_refused():
    office = settled()
    assert office(LAPTOP, Report(("192.0.2.5",))).code is Code.UNKNOWN
    assert office(BOX, Report(("192.0.2.5",)), NOW + 366 * DAY).code is Code.UNKNOWN


# -- domains


def proven(domain: str, *owners: Person) -> Circumstances:
    txts = tuple(challenge(domain, owner.did, SN).value.encode() for owner in owners)
    return dataclasses.replace(HERE, txts=(b"v=spf1 -all", *txts))


def test_a_domain_is_bound_by_its_txt_record():
    office = settled()
    asked = office(ALICE, Bind("Home.Example.ORG"))
    assert asked.code is Code.PROOF
    assert asked.told == {"txt_name": "_cyfs-sn.home.example.org", "txt_value": f"sn={SN} owner={ALICE.did}"}
    assert office(ALICE, Bind("home.example.org"), around=proven("home.example.org", EVE)).code is Code.PROOF
    assert office(ALICE, Bind("home.example.org"), around=proven("home.example.org", ALICE)).ok
    found = office.registry.find_domain("photos.home.example.org")
    assert found is not None and found.owner == ALICE.did
    assert office.registry.find_domain("example.org") is None
    assert office.registry.find_domain("evilhome.example.org") is None
    assert office(ALICE, Release("home.example.org")).ok
    assert office.registry.find_domain("home.example.org") is None


def test_a_domain_that_changed_hands_goes_to_its_new_owner_once_the_old_record_is_gone():
    office = settled()
    assert office(BOB, Register("bobby")).ok
    assert office(ALICE, Bind("home.example"), around=proven("home.example", ALICE)).ok
    assert office(BOB, Bind("home.example"), around=proven("home.example", ALICE, BOB)).code is Code.TAKEN
    assert office(BOB, Bind("home.example"), around=proven("home.example", BOB)).ok
    found = office.registry.find_domain("home.example")
    assert found is not None and found.owner == BOB.did


@pytest.mark.parametrize("domain", [SN, f"alice.{SN}", "example"])
def test_the_sns_own_domain_is_not_bound(domain: str):
    office = settled()
    if "." not in domain:
        with pytest.raises(BadWire):
            ALICE.ask(Bind(domain))
    else:
        assert office(ALICE, Bind(domain), around=proven(domain, ALICE)).code is Code.BAD_NAME


def test_so_many_domains_and_no_more():
    office = settled(quota=Quota(domains=1))
    assert office(ALICE, Bind("a.example"), around=proven("a.example", ALICE)).ok
    assert office(ALICE, Bind("b.example"), around=proven("b.example", ALICE)).code is Code.LIMIT


# -- keys


def owner_document(key_of: Person, did: Did, iat: float):
    issuer = Issuer(key=key_of.key, id=did, iat=int(iat), exp=int(iat) + DAY)
    return read_token(issuer.sign(issuer.owner("alice")))


def test_an_owner_who_is_a_key_stays_that_key():
    office = settled()
    document = owner_document(EVE, Did("bns", "alice"), NOW)
    assert office(ALICE, Rekey(document)).code is Code.PROOF


def test_a_named_owner_changes_keys_by_documents():
    office = opened()
    name = Did("bns", "alice")
    old, new = Person(secret(21), name), Person(secret(22), name)
    assert office(old, Register("alice")).ok
    assert office(new, Release("alice"), NOW + 1).code is Code.PROOF
    assert office(old, Rekey(owner_document(new, name, NOW + 5)), NOW + 6).ok
    account = office.registry.account(name)
    assert account is not None and account.key == new.key.public
    assert office(old, Release("alice"), NOW + 7).code is Code.PROOF
    back = office(new, Rekey(owner_document(old, name, NOW + 4)), NOW + 8)
    assert back.code is Code.STALE
    assert office(new, Release("alice"), NOW + 9).ok


def test_a_third_key_changes_nothing():
    office = opened()
    name = Did("bns", "alice")
    old, thief = Person(secret(21), name), Person(secret(23), name)
    assert office(old, Register("alice")).ok
    document = owner_document(Person(secret(22), name), name, NOW + 5)
    assert office(thief, Rekey(document), NOW + 6).code is Code.PROOF
    assert office(old, Rekey(owner_document(thief, Did("bns", "bob"), NOW + 5)), NOW + 7).code is Code.PROOF


# -- time and undoing


def test_what_is_outdated_goes():
    office = settled(grace=DAY)
    assert office(BOX, Report(("192.0.2.5",)), NOW + 10).ok
    assert outdated(office.registry, DAY, NOW + DAY) == ()
    assert office(ALICE, Close()).ok
    office.registry.apply(outdated(office.registry, DAY, NOW + DAY / 2))
    assert office.registry.account(ALICE.did) is not None and office.registry.name("alice") is not None
    office.registry.apply(outdated(office.registry, DAY, NOW + 400 * DAY))
    office.registry.apply(outdated(office.registry, DAY, NOW + 400 * DAY))
    assert not any((office.registry.accounts(), office.registry.all_names(), office.registry.devices()))


def dump(office: Office) -> list[object]:
    registry = office.registry
    tables = (registry.accounts(), registry.all_names(), registry.devices(), registry.reports(), registry.invitations())
    return [sorted(map(repr, table)) for table in tables] + [registry.find_name("alice")]


ACTIONS = st.one_of(
    st.sampled_from(["alice", "bobby", "carol-home", "al1ce"]).map(Register),
    st.sampled_from(["alice", "bobby"]).map(Release),
    st.sampled_from([Recover(), Close(), Remove(BOX.did), Remove(LAPTOP.did), Point("alice", BOX.did)]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([ALICE, BOB, BOX, LAPTOP]), ACTIONS), max_size=12))
def test_every_change_can_be_taken_back(asked: list[tuple[Person, object]]):
    for one in (ALICE, BOB, BOX, LAPTOP):
        one.last = Stamp(0, 0)
    office = opened(quota=Quota(names=2))
    before, undo = dump(office), []
    for number, (who, action) in enumerate(asked):
        now = NOW + number
        if who in (BOX, LAPTOP):
            request = who.ask(Admit(ALICE.device(who, f"ood{who is BOX:d}", now)), now)
        else:
            request = who.ask(action, now)  # type: ignore[arg-type]
        undo[:0] = office.registry.apply(office.registrar.decide(request, HERE, now).changes)
    office.registry.apply(undo)
    assert dump(office) == before


def test_a_change_decided_on_another_state_is_our_own_bug():
    office = opened()
    first = office.registrar.decide(ALICE.ask(Register("alice")), HERE, NOW)
    second = office.registrar.decide(BOB.ask(Register("alice")), HERE, NOW)
    office.registry.apply(first.changes)
    before = dump(office)
    with pytest.raises(Misuse):
        office.registry.apply(second.changes)
    assert dump(office) == before and office.registry.account(BOB.did) is None


# -- the one door for strangers' words


def test_a_request_for_another_sn_is_worth_nothing_here():
    text = ALICE.sign(Register("alice"), sn="other.example")
    with pytest.raises(BadWire, match="another SN"):
        read_request(text, SN, NOW)


@pytest.mark.parametrize("shift", [-LIFETIME - 1, 120])
def test_a_request_out_of_its_time_is_refused(shift: int):
    with pytest.raises(BadWire):
        read_request(ALICE.sign(Register("alice"), NOW + shift), SN, NOW)


def test_a_request_proves_nothing_by_another_key():
    claimed = read_request(ALICE.sign(Register("alice")), SN, NOW)
    with pytest.raises(BadWire):
        claimed.proven(EVE.key.public)
    forged = Person(EVE.key, ALICE.did).sign(Register("alice"))
    with pytest.raises(BadWire):
        read_request(forged, SN, NOW).proven(EVE.key.public)


@pytest.mark.parametrize(
    "change",
    [
        {"op": "register"},
        {"op": "sn.everything"},
        {"exp": int(NOW) + LIFETIME + 1},
        {"exp": int(NOW)},
        {"seq": -1},
        {"seq": 1 << 40},
        {"iss": "did:undefined:undefined"},
        {"name": 7},
        {"name": "x" * 600},
        {"more": 1},
        {"aud": None},
    ],
)
def test_what_is_not_understood_is_not_obeyed(change: dict[str, object]):
    claims = {
        "op": "sn.register",
        "aud": SN,
        "iss": str(ALICE.did),
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "name": "alice",
    }
    assert read_request(sign_token(claims, ALICE.key), SN, NOW).issuer == ALICE.did
    with pytest.raises(BadWire):
        read_request(sign_token({**claims, **change}, ALICE.key), SN, NOW)  # type: ignore[dict-item]


EVERY_REQUEST = [
    person(5).sign(action)
    for action in (
        Register("alice", "abcd-efgh"),
        Bind("home.example"),
        Release("alice"),
        Point("alice", BOX.did),
        Publish("alice", boot_document(ALICE, Did("web", "alice.sn.example")), ("letsencrypt.org",)),
        Admit(ALICE.device(BOX), ALICE.did),
        Remove(BOX.did),
        Report(("192.0.2.1", "2001:db8::1")),
        Rekey(owner_document(ALICE, Did("bns", "alice"), NOW)),
        Recover(),
        Close(),
    )
]


@pytest.mark.parametrize("text", EVERY_REQUEST)
def test_every_request_is_read_as_it_was_signed(text: str):
    request = read_request(text, SN, NOW).proven(person(5).key.public)
    assert person(5).sign(request.action) == text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 1 << 60)
    | st.text(max_size=12)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "op",
        "aud",
        "iss",
        "iat",
        "exp",
        "seq",
        "name",
        "code",
        "domain",
        "device",
        "document",
        "owner",
        "addresses",
        "boot",
        "issuers",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EVERY_REQUEST), st.dictionaries(FIELDS, JSON, max_size=3), st.integers(0, 1))
def test_a_signed_stranger_gets_a_value_or_bad_wire_and_then_a_verdict(text: str, change: dict, dropped: int):
    claims = dict(read_token(text).claims)
    for name in list(claims)[: dropped * 2]:
        claims.pop(name)
    try:
        signed = sign_token({**claims, **change}, person(5).key)
        request = read_request(signed, SN, NOW).proven(person(5).key.public)
    except BadWire:
        return
    assert isinstance(opened().carry_out(request).why, str)


DOCUMENTS = [
    (Admit, BOX, dict(ALICE.device(BOX).claims)),
    (Admit, BOX, DeviceMini(name="ood1", key=BOX.key.public, iat=int(NOW), exp=int(NOW) + DAY).claims()),
    (Publish, ALICE, dict(boot_document(ALICE, Did("web", "alice.sn.example")).claims)),
    (Rekey, Person(secret(1), Did("bns", "alice")), dict(owner_document(ALICE, Did("bns", "alice"), NOW).claims)),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DOCUMENTS), st.data())
def test_whatever_stands_in_a_document_there_is_a_verdict(case: tuple, data: st.DataObject):
    """Owners are strangers too: they may sign any nonsense with the right key."""
    action, who, claims = case
    names_ = st.sampled_from([*claims, "id", "owner", "oods", "x", "z", "iat", "ips", "device_mini_config_jwt"])
    changed = {**claims, **data.draw(st.dictionaries(names_, JSON, max_size=3))}
    for name in data.draw(st.sets(st.sampled_from(list(claims)), max_size=2)):
        changed.pop(name)
    try:
        document = read_token(sign_token(changed, ALICE.key))
    except BadWire:
        return
    who.last = Stamp(0, 0)
    office = opened()
    owner = Person(ALICE.key, who.did if action is Rekey else ALICE.did)
    assert office(owner, Register("alice")).ok
    asked = {
        Admit: lambda: Admit(document, ALICE.did),
        Publish: lambda: Publish("alice", document),
        Rekey: lambda: Rekey(document),
    }[action]()
    assert isinstance(office(who, asked, NOW + 1).why, str)
    assert office.registry.find_name("alice") is not None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80) | st.lists(st.text("aA0-_.", max_size=20), max_size=4).map(".".join))
def test_any_text_is_a_request_or_bad_wire(text: str):
    with pytest.raises(BadWire):
        read_request(text, SN, NOW)
    with pytest.raises(BadWire):
        digest_of(text + "!")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EVERY_REQUEST), st.data())
def test_a_spoilt_request_is_never_believed(text: str, data: st.DataObject):
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(exclude_characters=text[at]))
    spoilt = data.draw(st.sampled_from([text[:at] + char + text[at + 1 :], text[:at], text[:at] + char + text[at:]]))
    with pytest.raises(BadWire):
        read_request(spoilt, SN, NOW).proven(person(5).key.public)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_name_or_bad_wire(text: str):
    try:
        label = names.label(text)
    except BadWire:
        return
    assert names.label(label) == label and names.skeleton(label)


def test_the_machine_that_answers_for_a_name_is_the_same_after_the_books_were_read_again():
    """They are read by key, and not in the order in which the machines came."""
    office, owner = Office(owners=[person(1).did]), person(1)
    office(owner, Register("alice"))
    machines = [person(seed) for seed in range(20, 28)]
    for number, machine in enumerate(machines):
        assert office.admit(owner, machine, f"ood{number}").ok, "all within one second"
    assert office.admit(owner, machines[0], "ood0", NOW + 60).ok, "a document is renewed"
    assert office.admit(owner, person(28), "ood1", NOW + 60).ok, "a machine is replaced"
    before = office.registry.find_name("alice")
    assert before is not None
    assert before.chosen == "ood0"
    for order in (1, -1):
        again = Registry()
        entries = [*office.registry.accounts(), *office.registry.all_names()]
        again.apply(Change(None, entry) for entry in entries)
        devices = sorted(office.registry.devices(), key=lambda one: str(one.did))[::order]
        again.apply(Change(None, entry) for entry in devices)
        after = again.find_name("alice")
        assert after is not None
        assert after.chosen == "ood0"
        assert list(after.hosts) == list(before.hosts) == [f"ood{number}" for number in range(8)]
