"""What the zone of an SN answers, and what changes it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cyfs_gateway.sn.zone import ADDRESS_LIFE, BURST, CHALLENGE_LIFE, INTERVAL, MOST_VALUES, Zone
from cyfs_gateway.sn.zoneupdate import LIFETIME
from cyfs_gateway.sn.zoneupdate import MOST_VALUES as MOST_IN_ONE
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.publish import publication
from cyfs_ns.message import rtype_number
from cyfs_ns.query import AA, NOERROR, NXDOMAIN
from cyfs_ns.records import data_text
from cyfs_ns.reply import records
from cyfs_ns.wire import Record, is_under, name_text, name_wire
from cyfs_ns.zonefile import read_zone
from tests.cyfs_gateway.sn.zonefakes import (
    BOB,
    HOME4,
    HOME6,
    LAPTOP,
    MALLORY,
    NOW,
    OOD,
    ORIGIN,
    V4,
    V6,
    Owner,
    Someone,
    asked,
    people,
    printed,
    said,
    secret,
    settings,
    told,
    value,
    zone,
)
from tests.cyfs_ns.identity.identities import DAY, boot, mini

INGRESS = (NOERROR, [V4])
NODATA, NOBODY = (NOERROR, []), (NXDOMAIN, [])
ACME = "_acme-challenge"


def serial(made: Zone) -> int:
    _, (data,) = told(made, ORIGIN, "SOA")
    return int(data.split()[2])


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("sn.example", "A", INGRESS),
        ("sn.example", "AAAA", (NOERROR, [V6])),
        ("sn.example", "TXT", (NOERROR, ['"v=spf1 -all"'])),
        ("sn.example", "CAA", (NOERROR, ['0 issue "letsencrypt.org"', '0 issue "pki.goog"'])),
        ("sn.example", "MX", NODATA),
        ("sn.example", "ANY", (NOERROR, ['"RFC8482" ""'])),
        ("ns2.sn.example", "A", (NOERROR, ["203.0.113.11"])),
        ("ns2.sn.example", "AAAA", NODATA),
        ("www.sn.example", "A", INGRESS),
        ("below.www.sn.example", "A", NOBODY),
        ("dave.sn.example", "A", NOBODY),
        ("photos.dave.sn.example", "A", NOBODY),
        ("admin.sn.example", "A", NOBODY),
        ("*.sn.example", "A", NOBODY),
        ("_acme-challenge.sn.example", "TXT", NOBODY),
        ("alice.sn.example", "A", INGRESS),
        ("alice.sn.example", "CAA", (NOERROR, ['0 issue "letsencrypt.org; validationmethods=dns-01"'])),
        ("alice.sn.example", "TXT", (NOERROR, [f'"PKX={OOD.public.x};"'])),
        ("alice.sn.example", "HTTPS", NODATA),
        ("photos.alice.sn.example", "AAAA", (NOERROR, [V6])),
        ("a.b.photos.alice.sn.example", "A", INGRESS),
        ("photos.alice.sn.example", "CAA", NODATA),
        ("*.alice.sn.example", "A", INGRESS),
        ("_acme-challenge.alice.sn.example", "TXT", NODATA),
        ("laptop.alice.sn.example", "A", INGRESS),
        ("web.laptop.alice.sn.example", "A", INGRESS),
        ("carol.sn.example", "A", INGRESS),
        ("carol.sn.example", "TXT", NODATA),
        ("x.bob.sn.example", "A", INGRESS),
    ],
)
def test_what_is_there_and_what_is_not(name: str, rtype: str, expected: tuple[int, list[str]]) -> None:
    made = zone()
    assert told(made, name, rtype) == expected
    statement = asked(made, name, rtype)
    assert statement.reply.flags & AA
    negative = [line for line in printed(statement, 1) if " SOA " in line]
    assert bool(negative) == (not expected[1])
    ttl = 5 if "carol" in name else 30
    assert all(line.startswith(f"sn.example {ttl} SOA ns1.sn.example. hostmaster.sn.example. ") for line in negative)


def test_what_is_asked_before_an_owner_publishes_is_soon_asked_again() -> None:
    key = f"PKX={BOB.public.x};"
    made = zone(registered := Someone({"bob": Owner({"nas": BOB.public}, "nas", (key,))}))

    def remembered(name: str, rtype: str) -> int | None:
        return asked(made, name, rtype).reply.ttl

    below = ("bob.sn.example", "HTTPS"), ("x.bob.sn.example", "TXT"), ("_acme-challenge.bob.sn.example", "TXT")
    for question in (*below, ("bob.sn.example", "TXT")):
        assert remembered(*question) == 5, question
    assert remembered("bob.sn.example", "A") == 60
    assert remembered("nobody.sn.example", "A") == 30
    document = f"BOOT={boot(BOB, 'nas').text};"
    for texts, issuers in (((key, document), ()), ((key,), ("ca.example",))):
        registered.owners["bob"] = Owner({"nas": BOB.public}, "nas", texts, issuers)
        made.changed("bob", NOW)
        for question in below:
            assert remembered(*question) == 30, question
        assert remembered("bob.sn.example", "TXT") == 600


def test_others_names_are_not_ours() -> None:
    made = zone()
    for name in ("example", "", "sn.example.org", "xsn.example", "alicesn.example"):
        assert made.lookup(name_wire(name), 1, NOW) is None
    # The octets of the zone's name, but not at the border of a label.
    assert made.lookup(b"\x0ba\x02sn\x07example\x00", 1, NOW) is None


def test_name_servers_come_with_their_addresses() -> None:
    statement = asked(zone(), ORIGIN, "NS")
    assert len(printed(statement, 0)) == 3
    assert printed(statement, 2) == [
        f"ns1.sn.example 3600 A {V4}",
        f"ns1.sn.example 3600 AAAA {V6}",
        "ns2.sn.example 3600 A 203.0.113.11",
    ]


def test_what_is_the_sns_own_is_nobody_elses_whoever_gave_it_out() -> None:
    thief = Owner({"d": MALLORY.public}, "d", issuers=("evil.example",))
    who = Someone({"www": thief, "ns1": thief, "admin": thief, "deep": thief})
    servers = {"ns1.sn.example": (V4,), "ns.deep.sn.example": (V4,)}
    made = zone(who, nameservers=servers)
    for name in ("www", "ns1", "admin", "deep"):
        assert told(made, f"{name}.sn.example", "CAA")[1] == []
        assert told(made, f"x.{name}.sn.example", "A") == NOBODY
        assert "nobody's" in made.update(said(MALLORY, name=name, device="d"), NOW).why
    assert told(made, "ns.deep.sn.example", "A") == INGRESS
    assert told(made, "deep.sn.example", "A") == NODATA
    assert "evil" not in "\n".join(made.lines(NOW))


def test_what_is_not_there_is_not_repeated_for_longer_than_it_may_be_remembered() -> None:
    made = zone()
    for name in ("dave.sn.example", f"{ACME}.alice.sn.example"):
        statement = asked(made, name, "TXT")
        assert statement.life == statement.reply.ttl == 30
    assert asked(made, ORIGIN, "SOA").life == 0


def test_what_is_no_label_of_anybody_is_nobodys() -> None:
    made = zone()
    for label in (b"al\x00ice", b"\xff\xfe", b"ali.ce", b"*", b"_dmarc", b"-a", b"a" * 63):
        name = bytes([len(label)]) + label + name_wire(ORIGIN)
        statement = made.lookup(name, 1, NOW)
        assert statement is not None
        assert statement.reply.rcode == NXDOMAIN


@pytest.mark.parametrize(
    "wrong",
    [
        {"nameservers": {}},
        {"nameservers": {"ns1.sn.example": ()}},
        {"nameservers": {"ns1.other.example": (V4,)}},
        {"ingress": ()},
        {"ingress": ("203.0.113.256",)},
        {"hosts": {"a.b": (V4,)}},
        {"contact": "a@b"},
        {"issuers": ("letsencrypt.org\n",)},
        {"issuers": ("",)},
        {"origin": "a." * 70 + "example"},
        {"origin": "not a name"},
    ],
)
def test_a_zone_that_cannot_work_is_told_before_it_is_served(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigFault):
        settings(**wrong)


# --- updates ----------------------------------------------------------------------------------------------------------


def test_a_machine_that_exposes_itself_is_found_directly() -> None:
    made = zone()
    verdict = made.update(said(addresses=(HOME4,), exposed=True), NOW)
    assert verdict.accepted, verdict.why
    assert verdict.changed == (name_wire("alice.sn.example"),)
    for name in ("alice", "photos.alice", "ood1.alice", "web.ood1.alice"):
        assert told(made, f"{name}.sn.example", "A") == (NOERROR, [HOME4])
        # It has no IPv6: there the ingress receives its visitors.
        assert told(made, f"{name}.sn.example", "AAAA") == (NOERROR, [V6])
    assert told(made, "laptop.alice.sn.example", "A") == INGRESS
    assert told(made, "bob.sn.example", "A") == INGRESS


def test_a_machine_that_does_not_answer_for_the_name_is_found_by_its_own_alone() -> None:
    made = zone()
    hers = said(LAPTOP, device="laptop", addresses=(HOME4, HOME6), exposed=True)
    assert made.update(hers, NOW).accepted
    assert made.update(said(addresses=("198.51.100.8",), exposed=False), NOW).accepted
    assert told(made, "laptop.alice.sn.example", "A") == (NOERROR, [HOME4])
    assert told(made, "ssh.laptop.alice.sn.example", "AAAA") == (NOERROR, [HOME6])
    assert told(made, "ood1.alice.sn.example", "A") == (NOERROR, ["198.51.100.8"])
    assert told(made, "alice.sn.example", "A") == INGRESS
    assert told(made, "photos.alice.sn.example", "A") == INGRESS


def test_an_update_stands_in_the_place_of_the_last_one() -> None:
    made = zone()
    first = said(addresses=(HOME4,), exposed=True, challenges={"": (value(1), value(2))})
    assert made.update(first, NOW).accepted
    assert told(made, f"{ACME}.alice.sn.example", "TXT") == (NOERROR, [f'"{value(1)}"', f'"{value(2)}"'])
    assert made.update(said(seq=2, challenges={"": (value(3),)}), NOW).accepted
    assert told(made, f"{ACME}.alice.sn.example", "TXT") == (NOERROR, [f'"{value(3)}"'])
    assert told(made, "alice.sn.example", "A") == INGRESS


def test_two_orders_at_a_time_do_not_take_each_others_values() -> None:
    made = zone()
    assert made.update(said(challenges={"photos": (value(1),)}), NOW).accepted
    assert made.update(said(LAPTOP, device="laptop", challenges={"photos": (value(2),)}), NOW).accepted
    assert told(made, f"{ACME}.photos.alice.sn.example", "TXT") == (NOERROR, [f'"{value(1)}"', f'"{value(2)}"'])


def test_a_name_keeps_its_addresses_while_its_certificate_is_made() -> None:
    """The challenge makes names exist that were covered by a wildcard, which no longer covers them then."""
    made = zone()
    names = [f"{name}.alice.sn.example" for name in ("a.b", "b", "x.b", "y.a.b", "web.ood1", "z.web.ood1", "other")]
    assert made.update(said(addresses=(HOME4,), exposed=True), NOW).accepted
    before = [told(made, name, rtype) for name in names for rtype in ("A", "AAAA", "TXT")]
    assert made.update(
        said(seq=2, addresses=(HOME4,), exposed=True, challenges={"a.b": (value(1),), "web.ood1": (value(2),)}), NOW
    ).accepted
    assert [told(made, name, rtype) for name in names for rtype in ("A", "AAAA", "TXT")] == before
    assert told(made, f"{ACME}.a.b.alice.sn.example", "TXT") == (NOERROR, [f'"{value(1)}"'])
    assert told(made, f"{ACME}.b.alice.sn.example", "TXT") == NODATA


def test_what_was_said_ends_by_itself() -> None:
    made = zone()
    assert made.update(said(addresses=(HOME4,), exposed=True, challenges={"": (value(1),)}), NOW).accepted
    name = f"{ACME}.alice.sn.example"
    assert asked(made, name, "TXT", NOW + CHALLENGE_LIFE - 10).life == 10
    assert told(made, name, "TXT", NOW + CHALLENGE_LIFE) == NODATA
    assert told(made, "alice.sn.example", "A", NOW + CHALLENGE_LIFE) == (NOERROR, [HOME4])
    before = serial(made)
    assert made.sweep(NOW + 1) == ()
    assert made.sweep(NOW + CHALLENGE_LIFE) == (name_wire("alice.sn.example"),)
    assert made.sweep(NOW + CHALLENGE_LIFE + 1) == ()
    assert serial(made) > before
    assert made.sweep(NOW + ADDRESS_LIFE) == (name_wire("alice.sn.example"),)
    assert told(made, "alice.sn.example", "A", NOW + ADDRESS_LIFE) == INGRESS


def test_a_clock_that_was_wrong_keeps_no_challenge_for_years() -> None:
    made = zone()
    later = NOW + 1e9
    assert made.update(said(now=later, challenges={"": (value(1),)}), later).accepted
    assert told(made, f"{ACME}.alice.sn.example", "TXT", later) == (NOERROR, [f'"{value(1)}"'])
    assert told(made, f"{ACME}.alice.sn.example", "TXT", NOW) == NODATA
    # Nor does what was found meanwhile outlive it, when the clock is right after all.
    assert told(made, f"{ACME}.alice.sn.example", "TXT", later) == (NOERROR, [f'"{value(1)}"'])


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (said(audience="other.example"), "this is sn.example"),
        (said(name="dave"), "nobody's name"),
        (said(name="www"), "nobody's name"),
        (said(name="admin"), "nobody's name"),
        (said(name="bob"), "no device 'ood1' with this key"),
        (said(device="laptop"), "no device 'laptop' with this key"),
        (said(MALLORY), "no device 'ood1' with this key"),
        (said(signer=MALLORY), "not signed"),
        (said(now=NOW + 61), "in the future"),
        (said(now=NOW - 300), "out of date"),
        (said(exp=int(NOW) + LIFETIME + 1), "good for more than"),
        ("", "token"),
        ("a.b.c", "zone update: header"),
        ("x" * 9000, "at most"),
    ],
)
def test_what_is_refused(token: str, why: str) -> None:
    made = zone()
    before = (serial(made), list(made.lines(NOW)))
    verdict = made.update(token, NOW)
    assert not verdict.accepted
    assert why in verdict.why
    assert verdict.kept is None
    assert not verdict.changed
    assert (serial(made), list(made.lines(NOW))) == before


def test_a_name_too_long_for_its_challenge_is_refused() -> None:
    origin = "a" * 57 + "." + "b" * 57 + ".ex"
    who = Someone({"n" * 40: Owner({"d": OOD.public}, "d")})
    made = zone(who, origin=origin, nameservers={"ns.other.example": ()})
    longest = said(audience=origin, name="n" * 40, device="d", challenges={".".join(["c" * 31] * 4): (value(1),)})
    assert "too long" in made.update(longest, NOW).why
    assert list(made.lines(NOW))


def test_private_addresses_are_not_told_by_a_public_zone() -> None:
    made = zone(private=False)
    for address in ("192.168.1.2", "127.0.0.1", "10.0.0.1", "169.254.1.1", "224.0.0.1", "::1", "fe80::1", "fc00::1"):
        verdict = made.update(said(seq=9, addresses=("8.8.8.8", address), exposed=True), NOW)
        assert verdict.why == f"{address} is no public address"
    assert made.update(said(seq=9, addresses=("8.8.8.8", "2606:4700::1")), NOW).accepted


def test_what_was_heard_is_not_heard_again() -> None:
    made = zone()
    first, second = said(seq=5, addresses=(HOME4,)), said(seq=6)
    assert made.update(first, NOW).accepted
    assert made.update(second, NOW).accepted
    for replayed in (first, second, said(seq=3, addresses=(HOME6,))):
        verdict = made.update(replayed, NOW + 1)
        assert not verdict.accepted
        assert verdict.seq == 6
    assert told(made, "ood1.alice.sn.example", "A") == INGRESS
    # Each device counts for itself.
    assert made.update(said(LAPTOP, device="laptop", seq=1), NOW).accepted


def test_what_is_not_new_changes_nothing() -> None:
    made = zone()
    assert made.update(said(seq=1, addresses=(HOME4,)), NOW).changed
    before = serial(made)
    again = made.update(said(seq=2, addresses=(HOME4,)), NOW)
    assert again.accepted
    assert again.kept is not None
    assert again.changed == ()
    assert serial(made) == before
    # But it lives on.
    late = NOW + 1000
    assert made.update(said(seq=3, now=late, addresses=(HOME4,)), late).accepted
    assert told(made, "ood1.alice.sn.example", "A", NOW + ADDRESS_LIFE + 10) == (NOERROR, [HOME4])


def test_a_flood_of_challenges_is_bounded() -> None:
    keys = [secret(number) for number in range(100, 110)]
    devices = {f"d{number}": key.public for number, key in enumerate(keys)}
    made = zone(Someone({"alice": Owner(devices, "d0")}))
    accepted = 0
    for round_ in range(20):
        for number, key in enumerate(keys):
            values = tuple(value(1000 * round_ + 100 * number + each) for each in range(MOST_IN_ONE))
            accepted += made.update(
                said(key, device=f"d{number}", seq=round_ + 1, challenges={"": values}), NOW
            ).accepted
    _, answer = told(made, f"{ACME}.alice.sn.example", "TXT")
    assert len(answer) == MOST_VALUES == 2 * MOST_IN_ONE
    assert accepted == 2 * BURST


def test_a_device_that_says_too_much_waits() -> None:
    made = zone()
    for seq in range(1, BURST + 1):
        assert made.update(said(seq=seq), NOW).accepted
    assert "too many" in made.update(said(seq=50), NOW).why
    assert made.update(said(seq=50), NOW + INTERVAL).accepted
    assert "too many" in made.update(said(seq=51), NOW + INTERVAL).why
    # A clock that is set back by years bars it for no longer than the budget.
    back = NOW - 1e8
    assert "too many" in made.update(said(seq=52, now=back), back).why
    assert made.update(said(seq=52, now=back), back + INTERVAL).accepted


def test_forgers_do_not_use_up_a_budget() -> None:
    made = zone()
    for seq in range(1, 10 * BURST):
        assert "not signed" in made.update(said(seq=seq, signer=MALLORY), NOW).why
    assert made.update(said(), NOW).accepted


@given(st.lists(st.tuples(st.integers(0, 1 << 33), st.sampled_from(["update", "register", "sweep"])), max_size=12))
@hypothesis_settings(max_examples=100, deadline=None)
def test_the_serial_never_goes_back(steps: list[tuple[int, str]]) -> None:
    made = zone()
    seq, last = 0, serial(made)
    for now, what in steps:
        if what == "update":
            seq += 1
            made.update(said(seq=seq, now=now, addresses=(f"198.51.100.{seq}",)), float(now))
        elif what == "register":
            made.changed("bob", float(now))
        else:
            made.sweep(float(now))
        step = (serial(made) - last) % (1 << 32)
        assert step < 1 << 31, "RFC 1982"
        assert what != "register" or step
        last = serial(made)


def test_the_serial_survives_a_restart_with_a_clock_that_was_set_back() -> None:
    made = zone()
    verdict = made.update(said(addresses=(HOME4,)), NOW)
    assert verdict.kept is not None
    again = Zone(settings(), people(), now=NOW - 1e8)
    assert again.restore([verdict.kept], NOW - 1e8, made.serial) == ()
    assert (serial(again) - serial(made)) % (1 << 32) < 1 << 31


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_was_kept_is_known_again_and_still_not_heard_twice() -> None:
    made = zone()
    tokens = [
        said(seq=4, addresses=(HOME4,), exposed=True, challenges={"": (value(1),)}),
        said(BOB, name="bob", device="nas"),
    ]
    kept = [made.update(token, NOW).kept for token in tokens]
    again = Zone(settings(), people(), now=NOW + 5)
    assert again.restore([each for each in kept if each is not None], NOW + 5) == ()
    assert list(again.lines(NOW + 5))[1:] == list(made.lines(NOW + 5))[1:]
    assert "heard already" in again.update(tokens[0], NOW + 5).why


def test_what_is_nobodys_word_any_more_is_forgotten() -> None:
    made = zone()
    good = made.update(said(addresses=(HOME4,)), NOW).kept
    assert good is not None
    bad = [
        good._replace(token="garbage"),
        good._replace(name="bob"),
        good._replace(token=said(addresses=(HOME6,), signer=MALLORY)),
        good._replace(token=said(addresses=(HOME6,), audience="other.example")),
    ]
    who = people()
    again = Zone(settings(), who, now=NOW)
    assert again.restore([*bad, good], NOW) == tuple(bad)
    assert told(again, "ood1.alice.sn.example", "A") == (NOERROR, [HOME4])
    who.owners["alice"] = Owner({"laptop": LAPTOP.public}, "laptop")
    assert Zone(settings(), who, now=NOW).restore([good], NOW) == (good,)


def test_addresses_that_are_not_told_any_more_are_not_told_after_a_restart() -> None:
    kept = zone(private=True).update(said(seq=2, addresses=("192.168.1.2",), exposed=True), NOW).kept
    assert kept is not None
    again = Zone(settings(private=False), people(), now=NOW)
    assert again.restore([kept], NOW) == ()
    assert told(again, "alice.sn.example", "A") == INGRESS
    assert "heard already" in again.update(said(seq=2), NOW).why


# --- who is registered ------------------------------------------------------------------------------------------------


def test_a_name_that_changes_hands_keeps_nothing_of_the_last_owner() -> None:
    who = people()
    made = zone(who)
    assert made.update(said(addresses=(HOME4,), exposed=True, challenges={"": (value(1),)}), NOW).accepted
    assert told(made, "alice.sn.example", "A") == (NOERROR, [HOME4])
    who.owners["alice"] = Owner({"ood1": MALLORY.public}, "ood1")
    assert told(made, "alice.sn.example", "A") == INGRESS
    assert told(made, f"{ACME}.alice.sn.example", "TXT") == NODATA
    assert made.changed("alice", NOW) == (name_wire("alice.sn.example"),)
    who.owners["alice"] = people().owners["alice"]
    assert told(made, "alice.sn.example", "A") == INGRESS, "forgotten for good"
    del who.owners["alice"]
    assert told(made, "photos.alice.sn.example", "A") == NOBODY


def test_documents_are_found_by_those_who_look_for_the_identity() -> None:
    subject, owner = Did("web", "alice.sn.example"), secret(1)
    now = int(NOW)
    tokens = [
        ("boot", boot(owner, "ood1", zone=subject, iat=now - DAY, exp=now + DAY)),
        ("ood1", mini("ood1", OOD, owner, zone=subject, iat=now - DAY, exp=now + DAY)),
    ]
    published = publication(tokens, owner.public, NOW, subject)
    who = Someone({"alice": Owner({"ood1": OOD.public}, "ood1", published.records)})
    assert published.name == "alice.sn.example"
    _, answer = told(zone(who), published.name, "TXT")
    assert sorted("".join(text.replace('"', "").split(" ")) for text in answer) == sorted(published.records)


def test_only_documents_are_published_and_only_so_many() -> None:
    one = f"PKX={OOD.public.x};"
    texts = ("v=spf1 +all", "DEV=garbage;", "\u00e4", "\ud800", one, *[one] * 100)
    _, answer = told(zone(Someone({"alice": Owner({}, "", texts)})), "alice.sn.example", "TXT")
    assert answer == [f'"{one}"']


def test_documents_of_a_name_are_no_library() -> None:
    owner = secret(1)
    names = ["x" * 60 + f"{number:03}" for number in range(30)]
    oods = [f"{name}:192.0.2.1@wan" for name in names]
    texts = tuple(f"BOOT={boot(owner, *oods[number:], iat=int(NOW)).text};" for number in range(10))
    assert all(2000 < len(text) < 4096 for text in texts)
    _, answer = told(zone(Someone({"alice": Owner({}, "", texts)})), "alice.sn.example", "TXT")
    assert 1 < len(answer) < 5


def test_what_is_no_authority_is_passed_over() -> None:
    issuers = ("", "a\nb", "\ud800", "\u00e4", 'ca.example; x="\\"', "b" * 201, *["c.example"] * 100)
    _, answer = told(zone(Someone({"alice": Owner({}, "", (), issuers)})), "alice.sn.example", "CAA")
    assert answer == ['0 issue "c.example"', '0 issue "ca.example; x=\\"\\\\\\""']


# --- against a plain reading of the RFCs ------------------------------------------------------------------------------


def plainly(found: list[Record], name: bytes, rtype: int) -> tuple[int, set[bytes]]:
    """RFC 1034 section 4.3.2 and RFC 4592 section 2, over the whole zone, one sentence after the other."""
    exists = {owner[at:] for owner, *_ in found for at in _borders(owner) if is_under(owner[at:], name_wire(ORIGIN))}
    owner = name
    if name not in exists:
        encloser = next(name[at:] for at in _borders(name) if name[at:] in exists)
        owner = b"\1*" + encloser
        if owner not in exists:
            return NXDOMAIN, set()
    return NOERROR, {data for whose, kind, _, data in found if (whose, kind) == (owner, rtype)}


def _borders(name: bytes) -> list[int]:
    at, borders = 0, [0]
    while name[at]:
        at += 1 + name[at]
        borders.append(at)
    return borders


LABELS = st.sampled_from(["alice", "bob", "dave", "ood1", "laptop", "nas", "photos", "b", "*", ACME, "www", "ns1", "x"])
HOSTS = st.dictionaries(
    st.sampled_from(["", "photos", "b", "photos.b", "x.ood1", "laptop", "b.b.b"]),
    st.lists(st.integers(0, 9).map(value), min_size=1, max_size=2, unique=True).map(tuple),
    max_size=3,
)
ADDRESSES = st.lists(st.sampled_from([HOME4, HOME6, "198.51.100.9"]), max_size=3, unique=True).map(tuple)


@given(
    st.tuples(ADDRESSES, st.booleans(), HOSTS),
    st.tuples(ADDRESSES, st.booleans(), HOSTS),
    st.lists(
        st.tuples(st.lists(LABELS, max_size=5), st.sampled_from(["A", "AAAA", "TXT", "CAA", "NS", "MX"])), max_size=20
    ),
)
@hypothesis_settings(max_examples=80, deadline=None)
def test_answers_are_those_of_the_whole_zone_read_plainly(
    ood: tuple[tuple[str, ...], bool, dict[str, tuple[str, ...]]],
    laptop: tuple[tuple[str, ...], bool, dict[str, tuple[str, ...]]],
    questions: list[tuple[list[str], str]],
) -> None:
    made = zone()
    for key, device, (addresses, exposed, challenges) in ((OOD, "ood1", ood), (LAPTOP, "laptop", laptop)):
        token = said(key, device=device, addresses=addresses, exposed=exposed, challenges=challenges)
        assert made.update(token, NOW).accepted
    found = list(made.records(NOW))
    every = [(owner, kind) for owner, kind, *_ in found]
    asked_for = [(name_wire(".".join([*labels, ORIGIN])), rtype_number(rtype)) for labels, rtype in questions]
    for name, kind in [*every, *asked_for]:
        statement = made.lookup(name, kind, NOW)
        assert statement is not None
        rcode, datas = plainly(found, name, kind)
        assert statement.reply.rcode == rcode, (name_text(name), kind)
        answer = list(records(statement.reply, 0))
        assert {data for *_, data in answer} == datas, (name_text(name), kind)
        assert {owner for owner, *_ in answer} <= {name}
        assert statement.life < inf


def test_the_zone_file_says_the_same() -> None:
    made = zone()
    assert made.update(said(addresses=(HOME4,), challenges={"b": (value(1),)}), NOW).accepted
    written = read_zone("\n".join(made.lines(NOW)), "")
    assert [(each.owner, each.rtype, each.ttl, each.data) for each in written] == list(made.records(NOW))
    assert len({(each.owner, each.rtype, each.data) for each in written}) == len(written)
    assert data_text(written[0].rtype, written[0].data).split()[2] == str(made.serial)
