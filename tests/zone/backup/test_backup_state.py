"""What a backup of the configuration holds, what a zone says of its targets, and how the owner opens a backup."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from backuptargets import ZONE
from hypothesis import given
from hypothesis import strategies as st
from zones import ALICE, DAY, KEYS, MALLORY, NOW, OOD2, secret, sign

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.documents import ZoneDoc
from cyfs_ns.identity.strictjson import write_json
from rtcp.v5.keys import device_key
from zone.backup.manifest import DICE, Kind, Part, Ref, read_manifest, write_manifest
from zone.backup.permit import MOST_TEXT, Request, ask_for, open_permitted, permit, read_request
from zone.backup.retention import Retention
from zone.backup.setting import EVERY, Setting, check_name, read_setting
from zone.backup.state import is_saved, read_state, write_state
from zone.config import sealed
from zone.config.model import Entry, Set

PARTS = [Part("system_config", Kind.FILE, 7, 3, bytes(32), (Ref(bytes(32), 3, bytes(32)),))]
MANIFEST = read_manifest(
    write_manifest(ZONE.of("ood1"), KEYS["ood1"], 3, NOW, "", {}, PARTS, bytes(range(DICE))), ALICE.public, "ood1", 3
)
SEALING = bytes(range(sealed.DICE))


def entry(key: str, value: str = "1", lease: int = 0) -> Entry:
    return Entry(key, value, 5, 5, 1, lease)


def zone(*oods: str, **more: Any) -> ZoneDoc:
    return sign(*oods, **more).of(oods[0]).zone


# -- the configuration


def test_what_is_of_its_moment_is_not_saved() -> None:
    assert all(map(is_saved, map(entry, ("boot/config", "security/mail", "security/verify-hub/passwords/alice"))))
    assert not is_saved(entry("system/scheduler/leader", lease=9))
    for key in ("boot/verify-hub/keys", "security/verify-hub/keys", "security/verify-hub/sessions/user/alice"):
        assert not is_saved(entry(key))


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True), st.text(), max_size=9))
def test_what_was_written_is_read(values: dict[str, str]) -> None:
    texts = {key: write_json(value).decode() for key, value in values.items()}
    pieces = list(write_state(entry(key, text) for key, text in sorted(texts.items())))
    assert {one.key: one.value for one in read_state(b"".join(pieces))} == texts


def test_a_value_that_changes_changes_few_pieces() -> None:
    many = [entry(f"services/s{number:04}/spec", f'"{number:0500}"') for number in range(3000)]
    before = set(write_state(many))
    many[1500] = entry(many[1500].key, '"other"')
    assert len(before) > 20 and len(set(write_state(many)) - before) == 1


@given(st.binary(max_size=300))
def test_no_bytes_of_strangers_are_more_than_keys_and_values(data: bytes) -> None:
    with suppress(BadWire):
        assert all(isinstance(one, Set) for one in read_state(data))


@pytest.mark.parametrize(
    "data",
    [b"[]", b'["a"]', b'["a",1]', b'["a","1"]\n["a","2"]', b'["../a","1"]', b'["a","no json"]', b'{"a":"1"}'],
)
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(BadWire, match="system_config"):
        read_state(data)


# -- targets


@pytest.mark.parametrize(
    "setting",
    [
        Setting(to="https://nas.example/dav"),
        Setting(to="/mnt/usb", on="ood1", every=3600, keep=Retention(1, 0, 0, 0)),
        Setting(to="/mnt/usb", on="ood1", every=90 * 60),
    ],
)
def test_a_target_is_read_as_it_was_written(setting: Setting) -> None:
    assert read_setting(setting.text()) == setting


def test_a_target_that_says_little_means_the_usual() -> None:
    assert read_setting('{"to": "https://nas.example/dav"}') == Setting(to="https://nas.example/dav", every=EVERY)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "object"),
        ("{}", "to is missing"),
        ('{"to": "/mnt/usb"}', "on one machine"),
        ('{"to": "https://a/", "every": "5s"}', "as 12h"),
        ('{"to": "https://a/", "every": 5}', "as 12h"),
        ('{"to": "https://a/", "keep": {"last": 0}}', "last one stays"),
        ('{"to": "https://a/", "keep": {"hourly": 1}}', "and no more"),
        ('{"to": "https://a/", "keep": {"last": true}}', "number of backups"),
        ('{"to": "https://a/", "on": 1}', "no name"),
        ('{"to": "https://a/", "user": "x"}', "not known"),
    ],
)
def test_a_target_that_cannot_be_meant_says_why(text: str, why: str) -> None:
    with pytest.raises(BadWire, match=why):
        read_setting(text)


@pytest.mark.parametrize("name", ["", "Usb", "a/b", "-a", "a" * 33, "a b"])
def test_names_that_no_target_has(name: str) -> None:
    with pytest.raises(BadWire):
        check_name(name)


# -- opening a backup


def asked(name: str = "ood2") -> Request:
    return read_request(ask_for(MANIFEST, ZONE.of(name).device).text())


def test_the_owner_opens_a_backup_for_one_machine() -> None:
    given_ = permit(asked(), ALICE, ZONE.of("ood2").zone, SEALING)
    assert [part.name for part in open_permitted(MANIFEST, given_, device_key(OOD2))] == ["system_config"]
    with pytest.raises(Refused, match="not for this OOD"):
        open_permitted(MANIFEST, given_, device_key(KEYS["ood1"]))
    with pytest.raises(Refused, match="another backup"):
        open_permitted(replace(MANIFEST, digest="0" * 64), given_, device_key(OOD2))


def test_nobody_but_an_ood_of_the_zone_is_given_anything() -> None:
    request = asked()
    replaced = zone("ood1", "ood2", keys=KEYS | {"ood2": secret(40)}, iat=NOW - DAY + 1)
    with pytest.raises(Refused, match="was replaced"):
        permit(request, ALICE, replaced, SEALING)
    with pytest.raises(Refused, match="has no machine 'ood2'"):
        permit(request, ALICE, zone("ood1"), SEALING)
    with pytest.raises(Refused, match="is no OOD"):
        permit(request, ALICE, zone("ood1", nodes=("ood2",)), SEALING)
    with pytest.raises(Refused, match="a backup of"):
        permit(replace(request, zone="did:web:other.example"), ALICE, ZONE.of("ood1").zone, SEALING)


def test_another_owner_opens_nothing_and_a_request_is_for_one_backup() -> None:
    with pytest.raises(Refused, match="ood1/3 is sealed to another owner's key"):
        permit(asked(), MALLORY, ZONE.of("ood1").zone, SEALING)
    with pytest.raises(BadWire, match="ood1/4"):
        permit(replace(asked(), number=4), ALICE, ZONE.of("ood1").zone, SEALING)


@given(st.binary(max_size=200))
def test_no_bytes_of_strangers_are_a_request_or_a_permit(data: bytes) -> None:
    with pytest.raises(BadWire):
        read_request(data)
    with pytest.raises(BadWire):
        open_permitted(MANIFEST, data, device_key(OOD2))


def test_what_is_too_long_is_not_read() -> None:
    with pytest.raises(BadWire, match="at most"):
        read_request(b" " * (MOST_TEXT + 1))
