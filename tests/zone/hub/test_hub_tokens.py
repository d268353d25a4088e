"""Tokens of a zone: what is believed, and the many that only look like it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hubs import FIRST
from hubs import KEYS as BOXES
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.token import sign_token
from zone.config.access import check_reading, check_transaction
from zone.config.baserules import BASE
from zone.config.faults import ConfigError
from zone.config.keys import At
from zone.config.model import Set, Transaction
from zone.hub.keyset import PERIOD, is_due, kid_of, new_keys, read_keys, read_published, rotated
from zone.hub.subjects import KERNEL, caller, machine, needs_item, type_of
from zone.hub.tokens import (
    LIFE,
    SKEW,
    Claims,
    Trust,
    Type,
    Use,
    bootstrap,
    device_of,
    issued,
    read_bootstrap,
)
from zone.krpc.faults import Code, KrpcFault

NOW = 1_800_000_000.0
KEYS = new_keys("home.example", bytes(range(64)), NOW)
OTHERS = new_keys("other.example", bytes(range(64, 128)), NOW)
TRUST = Trust(KEYS.published)
BOX = SecretKey(b"\x07" * 32)


def claims(use: Use = Use.SESSION, kind: Type = Type.USER, **more: object) -> Claims:
    made = Claims(use=use, type=kind, sub="alice", jti="s1.x", iat=int(NOW), exp=int(NOW) + LIFE[use])
    return replace(made, **more)


def said(**more: object) -> dict[str, object]:
    """What a session token of alice says, with some of it changed."""
    whole = jwt.decode(issued(KEYS, claims()), options={"verify_signature": False})
    return {name: value for name, value in {**whole, **more}.items() if value is not None}


def forged(key: SecretKey = KEYS.current, kid: str | None = None, **more: object) -> str:
    return sign_token(said(**more), key, kid or kid_of(KEYS.current.public))


def refusal(untrusted: str, *uses: Use, trust: Trust = TRUST, now: float = NOW) -> KrpcFault:
    with pytest.raises(KrpcFault) as caught:
        trust.believe(untrusted, now, *uses)
    return caught.value


@pytest.mark.parametrize("use", [Use.SESSION, Use.SUDO, Use.REFRESH])
@pytest.mark.parametrize("kind", Type)
def test_what_is_issued_is_believed_for_its_use_alone(use, kind):
    mine = claims(use, kind, app="photos")
    token = issued(KEYS, mine)
    assert TRUST.believe(token, NOW, use) == mine
    for other in set(Use) - {use}:
        assert refusal(token, other).code == Code.UNAUTHENTICATED


def test_another_implementation_believes_them_too():
    token = issued(KEYS, claims())
    (public,) = [key for kid, key in KEYS.published.keys.items() if kid == jwt.get_unverified_header(token)["kid"]]
    found = jwt.decode(
        token,
        Ed25519PublicKey.from_public_bytes(public.raw),
        algorithms=["EdDSA"],
        audience="home.example",
        issuer="verify-hub.home.example",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert found["sub"] == "alice" and found["token_use"] == "session" and found["session"] == "s1"


def test_it_lives_for_its_time_and_the_skew_of_clocks():
    token = issued(KEYS, claims())
    assert TRUST.believe(token, NOW - SKEW)
    assert TRUST.believe(token, NOW + LIFE[Use.SESSION] + SKEW - 1)
    assert refusal(token, now=NOW + LIFE[Use.SESSION] + SKEW).code == Code.EXPIRED
    assert refusal(token, now=NOW - SKEW - 1).code == Code.UNAUTHENTICATED


def test_one_of_another_zone_is_refused_by_its_name():
    fault = refusal(issued(OTHERS, claims()))
    assert "other.example" in fault.message and "home.example" in fault.message


def test_a_session_that_was_ended_is_refused():
    trust = Trust(KEYS.published, {"s1"})
    assert "ended" in refusal(issued(KEYS, claims()), trust=trust).message
    assert trust.believe(issued(KEYS, claims(jti="s11.x")), NOW)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_no_other_algorithm():
    kid = kid_of(KEYS.current.public)
    for header in (
        {"alg": "none"},
        {"alg": "HS256", "kid": kid},
        {"alg": "ES256", "kid": kid},
        {"alg": "EdDSA", "jwk": 1},
    ):
        signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(said()).encode())}"
        # The public key as the secret of an HMAC: the oldest trick there is.
        mac = hmac.new(KEYS.current.public.raw, signed.encode(), hashlib.sha256).digest()
        for signature in (b"", mac, mac + mac):
            assert refusal(f"{signed}.{b64(signature)}").code == Code.UNAUTHENTICATED


def test_a_key_is_bound_to_its_name_and_its_issuer():
    thief = SecretKey(b"\x09" * 32)
    right, wrong = kid_of(KEYS.current.public), kid_of(thief.public)
    for kid in (right, wrong, "current", KEYS.current.public.x, str(dev_did(thief.public)), "../../boot/keys"):
        assert refusal(forged(thief, kid)).code == Code.UNAUTHENTICATED
    assert refusal(sign_token(said(), KEYS.current)).code == Code.UNAUTHENTICATED
    # Signed well, but under the name of another key of the same hub.
    assert refusal(forged(KEYS.next, right)).code == Code.UNAUTHENTICATED
    assert TRUST.believe(forged(KEYS.next, kid_of(KEYS.next.public)), NOW)


@pytest.mark.parametrize(
    "changed",
    [
        *[{"iss": iss} for iss in (None, "", "verify-hub", "verify-hub.", "box", "verify-hub.home.example.evil", 7)],
        *[{"aud": aud} for aud in (None, "", "verify-hub.home.example", "other.example", ["home.example"], "*")],
        *[{"sub": sub} for sub in (None, "", "a/b", "**", "..", "x" * 200, 7, ["alice"])],
        *[{"appid": app} for app in (None, "a/b", "*", 7)],
        *[{"token_use": use} for use in (None, "bootstrap", "refresh", "sudo", "x")],
        *[{"type": kind} for kind in (None, "emperor", "", 1)],
        *[{"exp": exp} for exp in (None, True, "9999999999", NOW + 1.5, 2**52, int(NOW))],
        *[{"iat": iat} for iat in (None, False, 0, int(NOW) + SKEW + 1, -1)],
        *[{"jti": jti} for jti in (None, "", "s2.x", 3)],
        {"session": "s2"},
    ],
    ids=str,
)
def test_a_claim_that_is_off(changed):
    assert refusal(forged(**changed)).code == Code.UNAUTHENTICATED


def test_a_giant_is_not_looked_at():
    assert "4096" in refusal(forged(appid="x" * 5000)).message


@given(st.text() | st.text("eyJhbGciOiJFZERTQSJ9._-", max_size=200))
def test_anything_else_is_refused_in_one_way(untrusted):
    assert refusal(untrusted).code == Code.UNAUTHENTICATED
    with pytest.raises(KrpcFault):
        device_of(untrusted)


@given(st.data())
def test_no_character_may_change(data):
    token = issued(KEYS, claims())
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("aA0-_.="))
    changed = token[:place] + other + token[place + 1 :]
    assert changed == token or refusal(changed).code == Code.UNAUTHENTICATED


# -- keys


def test_a_token_outlives_the_rotation_after_it_and_not_two():
    refresh = issued(KEYS, claims(Use.REFRESH))
    once = rotated(KEYS, b"\1" * 32, NOW + PERIOD)
    assert Trust(once.published).believe(refresh, NOW, Use.REFRESH)
    # One who has not heard of it yet believes what is signed with the new key.
    assert TRUST.believe(issued(once, claims()), NOW)
    twice = rotated(once, b"\2" * 32, NOW + 2 * PERIOD)
    assert refusal(refresh, Use.REFRESH, trust=Trust(twice.published)).code == Code.UNAUTHENTICATED
    assert LIFE[Use.REFRESH] + SKEW < PERIOD


def test_after_a_theft_nothing_old_is_believed():
    fresh = new_keys("home.example", bytes(range(100, 164)), NOW)
    for thing in (KEYS.current, KEYS.next):
        assert refusal(forged(thing, kid_of(thing.public)), trust=Trust(fresh.published)).code == Code.UNAUTHENTICATED


def test_keys_come_back_as_they_were_written():
    for keys in (KEYS, rotated(KEYS, b"\1" * 32, NOW)):
        assert read_keys(keys.text()).text() == keys.text()
        assert read_published(keys.published.text()) == keys.published
        assert not is_due(keys, NOW + PERIOD - 1) and is_due(keys, NOW + PERIOD)
    assert b64(KEYS.current.seed) not in repr(KEYS) + KEYS.published.text()


@pytest.mark.parametrize("bad", ["", "[]", "{}", '{"zone":"z","keys":[]}', '{"zone":"z","keys":["a","b"]}', "null"])
def test_keys_that_are_none(bad):
    for read in (read_keys, read_published):
        with pytest.raises(BadWire):
            read(bad)


def test_a_weak_key_is_never_published():
    weak = b64(bytes(32))
    with pytest.raises(BadWire, match="small order"):
        read_published(json.dumps({"zone": "z", "keys": [weak, weak]}))


# -- devices


def test_a_device_speaks_for_itself_and_its_services():
    token = bootstrap("home.example", "box", "notes", BOX, "n1", NOW)
    assert device_of(token) == "box"
    found = read_bootstrap(token, "home.example", "box", BOX.public, NOW)
    assert (found.device, found.app, found.jti) == ("box", "notes", "n1")


def test_what_a_device_cannot_say():
    good = bootstrap("home.example", "box", "notes", BOX, "n1", NOW)
    other = SecretKey(b"\x08" * 32)
    long = bootstrap("home.example", "box", "notes", BOX, "n1", NOW, LIFE[Use.BOOTSTRAP] + 1)
    for token, device, key, now in [
        (good, "box", other.public, NOW),
        (good, "other", BOX.public, NOW),
        (good, "box", BOX.public, NOW + LIFE[Use.BOOTSTRAP]),
        (good, "box", BOX.public, NOW - SKEW - 1),
        (long, "box", BOX.public, NOW),
        (bootstrap("other.example", "box", "notes", BOX, "n1", NOW), "box", BOX.public, NOW),
        (bootstrap("home.example", "box", "notes", BOX, "", NOW), "box", BOX.public, NOW),
        (bootstrap("home.example", "box", "notes", BOX, "a/b", NOW), "box", BOX.public, NOW),
        (sign_token(said(iss="box", sub="box", aud="verify-hub.home.example"), BOX), "box", BOX.public, NOW),
        (issued(KEYS, claims()), "box", BOX.public, NOW),
    ]:
        with pytest.raises(KrpcFault):
            read_bootstrap(token, "home.example", device, key, now)


def test_a_device_signs_nothing_that_services_take():
    for use in ("session", "sudo", "bootstrap"):
        assert refusal(forged(BOX, str(dev_did(BOX.public)), token_use=use)).code == Code.UNAUTHENTICATED
    assert refusal(bootstrap("home.example", "box", "", BOX, "n1", NOW)).code == Code.UNAUTHENTICATED


# -- subjects


def may_read(who: Claims, key: str) -> bool:
    try:
        check_reading(BASE, caller(who).subjects, At(key))
    except ConfigError:
        return False
    return True


def may_write(who: Claims, key: str) -> bool:
    try:
        check_transaction(BASE, caller(who).subjects, Transaction((Set(key, "1"),)))
    except ConfigError:
        return False
    return True


def test_what_somebody_is_for_the_rules():
    alice = claims()
    assert may_write(alice, "users/alice/profile") and not may_write(alice, "users/bob/profile")
    photos = claims(app="photos")
    assert may_write(photos, "users/alice/apps/photos/settings")
    assert not may_write(photos, "users/alice/apps/mail/settings") and not may_write(photos, "users/alice/profile")
    limited = claims(kind=Type.LIMITED, app="photos")
    assert may_write(limited, "users/alice/apps/photos/settings")
    guest = claims(kind=Type.GUEST, app="photos")
    assert may_read(guest, "services/a/info") and not may_write(guest, "users/alice/apps/photos/settings")


def test_a_password_given_just_now_is_worth_more_than_a_session():
    spec = "services/notes/spec"
    for kind in (Type.ROOT, Type.ADMIN):
        assert may_read(claims(kind=kind), spec) and not may_write(claims(kind=kind), spec)
        assert may_write(claims(Use.SUDO, kind), spec)
    assert may_read(claims(Use.SUDO, Type.ROOT), "security/a") and not may_read(
        claims(Use.SUDO, Type.ADMIN), "security/a"
    )
    for kind in (Type.USER, Type.LIMITED, Type.GUEST):
        assert not may_write(claims(Use.SUDO, kind), spec)
    # An app stays an app.
    assert not may_write(claims(Use.SUDO, Type.ROOT, app="photos"), spec)


def test_services_are_what_their_machine_can_be():
    for app in KERNEL:
        assert type_of(app, is_ood=True) is Type.KERNEL and type_of(app, is_ood=False) is Type.DEVICE
        assert not needs_item(app)
    assert type_of("", is_ood=True) is Type.DEVICE
    assert type_of("control-panel", is_ood=True) is Type.SYSTEM
    assert type_of("control-panel", is_ood=False) is Type.FRAME
    assert type_of("notes", is_ood=True) is Type.FRAME and needs_item("notes")
    box = {"sub": "box", "app": "notes"}
    assert may_write(claims(kind=Type.FRAME, **box), "services/notes/settings")
    assert not may_write(claims(kind=Type.FRAME, **box), "services/other/settings")
    assert may_write(claims(kind=Type.DEVICE, sub="box"), "devices/box/info")
    assert not may_write(claims(kind=Type.DEVICE, sub="box"), "devices/other/info")
    assert may_write(claims(kind=Type.KERNEL, sub="box", app="scheduler"), "nodes/other/config/notes")
    assert not may_write(claims(kind=Type.SYSTEM, **box), "nodes/other/config/notes")


def test_a_tunnel_proves_a_machine_and_no_service_of_it():
    zone = FIRST.of("ood1", NOW).zone
    who = machine(zone, BOXES["ood1"].public)
    assert who is not None and (who.name, who.device, who.app) == ("device:ood1", "ood1", "")
    check_transaction(BASE, who.subjects, Transaction((Set("devices/ood1/info", "1"),)))
    with pytest.raises(ConfigError):
        check_transaction(BASE, who.subjects, Transaction((Set("nodes/ood1/config/notes", "1"),)))
    assert machine(zone, KEYS.current.public) is None


def test_a_caller_is_called_the_same_with_every_token():
    one, two = caller(claims(jti="s1.a")), caller(claims(jti="s2.b"))
    assert one.name == two.name == "user:alice" and (one.user, one.device) == ("alice", "")
    device = caller(claims(kind=Type.FRAME, sub="alice", app="notes"))
    assert device.name == "device:alice/notes" and (device.user, device.device, device.app) == ("", "alice", "notes")
