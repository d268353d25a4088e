"""Secrets of the zone: readable by its OODs of today, and by nothing that keeps or carries them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.keys import SecretKey
from rtcp.v5.keys import device_key
from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import Below
from zone.config.model import MOST_VALUE, AtRevision, HasValue, Set, SetPath, Transaction
from zone.config.sealed import DICE, seal, sealed_for, unseal
from zone.io.config.sealing import SealedBackend
from zone.io.config.sqlite import Database, SqliteBackend
from zone.io.config.store import ConfigStore

OODS = [SecretKey(bytes([number]) * 32) for number in range(1, 5)]
DEVICES = [device_key(ood) for ood in OODS]
KEY = "security/verify-hub/key"
TEXT = json.dumps("-----BEGIN PRIVATE KEY----- \u00e4")


def refused(code: Code):
    return pytest.raises(ConfigError, match=NEXT[code])


def public(*numbers: int):
    return [OODS[number].public for number in numbers]


def sealed(*numbers: int, dice: int = 7) -> str:
    return seal(KEY, TEXT, public(*numbers), bytes([dice]) * DICE)


# -- one value


def test_each_ood_it_is_sealed_for_reads_it_and_no_other():
    box = sealed(0, 1, 2)
    assert "BEGIN" not in box
    for number in range(3):
        assert unseal(KEY, box, DEVICES[number]) == TEXT
    with refused(Code.DENIED):
        unseal(KEY, box, DEVICES[3])
    assert sealed_for(KEY, box, public(2, 1, 0))
    assert not sealed_for(KEY, box, public(0, 1)) and not sealed_for(KEY, box, public(0, 1, 2, 3))


def test_other_dice_give_another_box_all_over():
    first, second = json.loads(sealed(0, 1)), json.loads(sealed(0, 1, dice=8))
    assert first["from"] != second["from"] and first["text"] != second["text"]
    assert all(first["for"][ood] != second["for"][ood] for ood in first["for"])
    assert len(set(first["for"].values())) == 2


def test_a_sealed_value_opens_under_its_own_key_alone():
    with refused(Code.DAMAGED):
        unseal("security/other", sealed(0), DEVICES[0])


def test_no_bit_of_it_can_be_changed():
    box = json.loads(sealed(0))
    (ood,) = box["for"]
    for place in ((box, "from"), (box, "text"), (box["for"], ood)):
        parent, name = place
        whole = parent[name]
        for at in (0, len(whole) // 2):
            parent[name] = whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :]
            with refused(Code.DAMAGED):
                unseal(KEY, json.dumps(box), DEVICES[0])
        parent[name] = whole
    assert unseal(KEY, json.dumps(box), DEVICES[0]) == TEXT


def test_the_box_of_another_ood_is_not_ours():
    box = json.loads(sealed(0, 1))
    first, second = (ood.x for ood in public(0, 1))
    box["for"] = {first: box["for"][second], second: box["for"][first]}
    with refused(Code.DAMAGED):
        unseal(KEY, json.dumps(box), DEVICES[0])


GOOD = json.loads(sealed(0))


@pytest.mark.parametrize(
    "bad",
    [
        *["1", "{}", '"x"', "[", json.dumps({**GOOD, "sealed": 2}), json.dumps({**GOOD, "more": 1})],
        *[json.dumps({**GOOD, "from": 1}), json.dumps({**GOOD, "for": []}), json.dumps({**GOOD, "text": None})],
        *[
            json.dumps({**GOOD, "from": "AA"}),
            json.dumps({**GOOD, "from": "A" * 43}),
            json.dumps({**GOOD, "text": "?"}),
        ],
        json.dumps({**GOOD, "for": {f"{number}": "A" * 64 for number in range(17)}}),
        *[json.dumps({**GOOD, "for": {public(0)[0].x: box}}) for box in ("", "AAAA", 1, "A" * 64)],
    ],
)
def test_what_is_no_sealed_value(bad):
    with refused(Code.DAMAGED):
        unseal(KEY, bad, DEVICES[0])


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda below: st.lists(below) | st.dictionaries(st.text(), below)
)
CHANGED = st.dictionaries(st.sampled_from(list(GOOD)), JSON).map(lambda change: json.dumps({**GOOD, **change}))


@given(st.text() | CHANGED)
def test_a_text_or_its_one_error(untrusted):
    try:
        assert unseal(KEY, untrusted, DEVICES[0]) == TEXT
    except ConfigError as fault:
        assert fault.code in (Code.DAMAGED, Code.DENIED)


# -- a store of them


def opened(path: Path, ood: int, *oods: int) -> SealedBackend:
    return SealedBackend(SqliteBackend(Database(path)), DEVICES[ood], public(*oods))


def content(directory: Path) -> bytes:
    return b"".join(one.read_bytes() for one in directory.iterdir())


async def test_what_is_secret_never_reaches_the_disk_and_works_like_any_value(tmp_path: Path):
    path = tmp_path / "zone.db"
    backend = opened(path, 0, 0, 1)
    store = ConfigStore(backend)
    first = await store.transact(Transaction((Set(KEY, '{"pem":"hush hush"}'), Set("boot/config", '"loud"'))))
    comparisons = (AtRevision(KEY, first), HasValue(KEY, '{ "pem": "hush hush" }'))
    await store.transact(Transaction((SetPath(KEY, "/next", '"hush hush hush"'),), comparisons))
    assert (await store.get(KEY)).value == '{"next":"hush hush hush","pem":"hush hush"}'
    assert [entry.value for entry in await store.history(KEY)][1:] == ['{"pem":"hush hush"}']
    with trio.fail_after(60):
        async with store.watch(Below("security"), 1) as changes:
            assert (await anext(changes)).entries[0].value == '{"pem":"hush hush"}'
    large = json.dumps("x" * (MOST_VALUE - 2))
    await store.transact(Transaction(tuple(Set(f"security/{number}", large) for number in range(3))))
    assert (await store.get("security/2")).value == large
    assert b"hush hush" not in content(tmp_path) and b"loud" in content(tmp_path)
    await backend.aclose()
    assert b"hush hush" not in content(tmp_path) and b"loud" in content(tmp_path)


async def test_what_is_secret_of_a_user_is_sealed_as_well(tmp_path: Path):
    keys = ["users/alice/key", "users/bob/key", "security/a/b"]
    backend = opened(tmp_path / "zone.db", 0, 0)
    open_keys = ["users/alice/profile", "users/alice/apps/key/spec", "keys"]
    texts = {key: json.dumps(f"hush {key}") for key in keys} | {key: json.dumps(f"loud {key}") for key in open_keys}
    await ConfigStore(backend).transact(Transaction(tuple(Set(key, text) for key, text in texts.items())))
    assert {entry.key: entry.value for entry in (await backend.read([Below()])).entries} == texts
    assert b"hush" not in content(tmp_path) and all(f"loud {key}".encode() in content(tmp_path) for key in open_keys)
    await backend.aclose()
    backend = opened(tmp_path / "zone.db", 0, 0, 1)
    assert await backend.reseal() == 3 and await backend.reseal() == 0
    lease = await backend.grant(600)
    await ConfigStore(backend).transact(Transaction((Set("security/leased", "1", lease),)))
    await backend.aclose()
    backend = opened(tmp_path / "zone.db", 0, 0)
    assert await backend.reseal() == 4 and await backend.reseal() == 0
    assert (await ConfigStore(backend).get("security/leased")).lease == lease
    await backend.aclose()


async def test_oods_join_and_leave(tmp_path: Path):
    path = tmp_path / "zone.db"
    backend = opened(path, 0, 0, 1)
    await ConfigStore(backend).transact(Transaction((Set(KEY, TEXT), Set("security/b", "2"), Set("c", "3"))))
    assert await backend.reseal() == 0
    await backend.aclose()

    # The second leaves, the third joins; the first seals for them what there is.
    newcomer = opened(path, 2, 0, 2)
    with refused(Code.DENIED):
        await ConfigStore(newcomer).get(KEY)
    await newcomer.aclose()
    backend = opened(path, 0, 0, 2)
    before = await ConfigStore(backend).get("c")
    assert await backend.reseal() == 2 and await backend.reseal() == 0
    assert await ConfigStore(backend).get("c") == before
    await backend.aclose()
    newcomer = opened(path, 2, 0, 2)
    assert (await ConfigStore(newcomer).get(KEY)).value == TEXT
    assert await newcomer.reseal() == 0
    await newcomer.aclose()
    gone = opened(path, 1, 0, 1)
    for key in (KEY, "security/b"):
        with refused(Code.DENIED):
            await ConfigStore(gone).get(key)
    found = {entry.key: (entry.value, entry.fault) for entry in (await gone.read([Below()])).entries}
    assert found == {"c": ("3", None), KEY: (None, Code.DENIED), "security/b": (None, Code.DENIED)}
    with refused(Code.DENIED):
        await gone.reseal()
    await gone.aclose()


async def test_what_lies_there_unsealed_is_no_secret_of_ours(tmp_path: Path):
    path = tmp_path / "zone.db"
    plain = SqliteBackend(Database(path))
    await ConfigStore(plain).transact(Transaction((Set(KEY, '"forged"'),)))
    await plain.aclose()
    backend = opened(path, 0, 0)
    store = ConfigStore(backend)
    with refused(Code.DAMAGED):
        await store.get(KEY)
    await store.transact(Transaction((Set("boot/config", "1"), Set("security/b", "2"))))
    # One that cannot be read hides no other, is told to watchers, and can be written anew.
    found = {entry.key: (entry.value, entry.fault) for entry in (await store.read([Below()])).entries}
    assert found == {"boot/config": ("1", None), KEY: (None, Code.DAMAGED), "security/b": ("2", None)}
    with trio.fail_after(60):
        async with store.watch(Below(), 1) as changes:
            assert (await anext(changes)).entries[0].fault is Code.DAMAGED
            assert len((await anext(changes)).entries) == 2
    await backend.aclose()
    backend = opened(path, 0, 0, 1)
    with refused(Code.DAMAGED):
        await backend.reseal()
    await backend.aclose()
    backend = opened(path, 1, 0, 1)
    store = ConfigStore(backend)
    assert (await store.get("security/b")).value == "2"
    await store.transact(Transaction((Set(KEY, TEXT),)))
    assert [entry.value for entry in await store.history(KEY)] == [TEXT, None]
    assert await backend.reseal() == 0
    await backend.aclose()
    with closing(Database(path)) as database, pytest.raises(Misuse):
        SealedBackend(SqliteBackend(database), DEVICES[0], public(1, 2))
