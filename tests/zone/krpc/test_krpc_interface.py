"""Typed interfaces: what both sides check, what they tell of themselves, and how they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.errors import Misuse
from zone.config.access import Subject
from zone.krpc.caller import NOBODY, Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.interface import Interface, Served, describe, idempotent, methods_of, stub
from zone.krpc.service import CallContext


class Kind(StrEnum):
    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True)
class Label:
    key: str
    value: str = ""


@dataclass(frozen=True)
class Note:
    title: str
    kind: Kind = Kind.FILE
    labels: tuple[Label, ...] = ()
    size: int | None = None


class Circle(msgspec.Struct, tag=True):
    radius: float


class Square(msgspec.Struct, tag=True):
    side: float


class Notes(Interface):
    """Keeps notes."""

    async def put(self, note: Note, *, where: Literal["top", "end"] = "end") -> int:
        """Keep one."""
        raise NotImplementedError

    @idempotent
    async def find(self, titles: Sequence[str] = (), most: int = 10) -> list[Note]:
        raise NotImplementedError

    async def area(self, shape: Circle | Square) -> float:
        raise NotImplementedError

    async def counts(self) -> Mapping[int, bytes]:
        raise NotImplementedError

    async def whoami(self) -> str:
        raise NotImplementedError

    async def wrong(self) -> int:
        raise NotImplementedError


class Kept(Notes):
    notes: list[Note]

    def __init__(self, caller: Caller, context: CallContext) -> None:
        self.caller = caller
        self.context = context

    async def put(self, note: Note, *, where: Literal["top", "end"] = "end") -> int:
        self.notes.insert(0 if where == "top" else len(self.notes), note)
        return len(self.notes)

    async def find(self, titles: Sequence[str] = (), most: int = 10) -> list[Note]:
        return [note for note in self.notes if not titles or note.title in titles][:most]

    async def area(self, shape: Circle | Square) -> float:
        return 3 * shape.radius**2 if isinstance(shape, Circle) else shape.side**2

    async def counts(self) -> Mapping[int, bytes]:
        return {1: b"one"}

    async def whoami(self) -> str:
        return self.caller.name

    async def wrong(self) -> int:
        return "five"  # type: ignore[return-value]


@pytest.fixture
def service():
    return Served(Notes, type("Here", (Kept,), {"notes": []}))


def client(service, caller=NOBODY, interface=Notes):
    sent: list[Any] = []

    async def call(method, params, *, idempotent):
        sent.append((method, params, idempotent))
        return await service(caller, method, params, CallContext())

    made = stub(interface, call)
    return made, sent


async def test_a_client_looks_like_the_service(service):
    notes, sent = client(service)
    note = Note("milk", Kind.FOLDER, (Label("a", "b"),), 5)
    assert await notes.put(note) == 1
    assert await notes.put(Note("bread"), where="top") == 2
    assert await notes.find() == [Note("bread"), note]
    assert await notes.find(["milk"], most=1) == [note]
    assert await notes.area(Square(2.0)) == 4
    assert await notes.counts() == {1: b"one"}
    assert [(method, again) for method, _, again in sent[:3]] == [("put", False), ("put", False), ("find", True)]
    assert sent[2][1] == {}  # defaults are not sent


async def test_what_answers_is_made_for_whoever_calls(service):
    ann = Caller(name="ann", subjects=(Subject(frozenset({"user"})),))
    assert await client(service, ann)[0].whoami() == "ann"
    assert await client(service)[0].whoami() == ""


@pytest.mark.parametrize(
    "calling",
    [
        lambda notes: notes.put("milk"),
        lambda notes: notes.put(Note(5)),
        lambda notes: notes.put(),
        lambda notes: notes.put(Note("x"), where="middle"),
        lambda notes: notes.put(Note("x"), sideways=True),
        lambda notes: notes.find([1]),
        lambda notes: notes.find(object()),
    ],
)
async def test_a_wrong_call_is_never_sent(service, calling):
    notes, sent = client(service)
    with pytest.raises(Misuse):
        await calling(notes)
    assert not sent


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, "required field `note`"),
        ({"note": {}}, "required field `title` - at `$.note`"),
        ({"note": {"title": 5}}, "`$.note.title`"),
        ({"note": {"title": "x"}, "force": True}, "unknown field `force`"),
        ({"note": {"title": "x", "color": 1}}, "there is no $.note.color"),
        ({"note": {"title": "x", "labels": [{"key": "k"}, {"key": "k", "colour": 1}]}}, "$.note.labels[1].colour"),
        ({"note": {"title": "x", "kind": "ship"}}, "'ship'"),
        ({"note": {"title": "x"}, "where": "middle"}, "'middle'"),
        ({"note": {"title": "x", "size": True}}, "`bool`"),
    ],
)
async def test_what_a_service_refuses_by_name(service, params, told):
    with pytest.raises(KrpcFault) as caught:
        await service(NOBODY, "put", params, CallContext())
    assert caught.value.code == Code.INVALID
    assert told in caught.value.message


async def test_methods_that_are_not_there(service):
    for method in ("delete", "_private", "__init__", "notes"):
        with pytest.raises(KrpcFault) as caught:
            await service(NOBODY, method, {}, CallContext())
        assert caught.value.code == Code.UNKNOWN_METHOD


async def test_a_result_that_the_interface_does_not_have_is_our_own_bug(service):
    with pytest.raises(Misuse, match="wrong"):
        await client(service)[0].wrong()


async def test_a_result_that_is_not_understood():
    async def service(caller, method, params, context):
        return [{"title": 5}]

    with pytest.raises(KrpcFault) as caught:
        await client(service)[0].find()
    assert caught.value.code == Code.UNCERTAIN


# -- how interfaces grow


@dataclass(frozen=True)
class NewNote(Note):
    color: str = "white"


class NewNotes(Interface):
    async def put(self, note: NewNote, *, where: str = "end", color: str = "white") -> int:
        raise NotImplementedError

    async def find(self, titles: Sequence[str] = (), most: int = 10, after: str = "") -> list[NewNote]:
        raise NotImplementedError


class NewKept(NewNotes):
    def __init__(self, caller: Caller, context: CallContext) -> None: ...

    async def put(self, note: NewNote, *, where: str = "end", color: str = "white") -> int:
        return 1

    async def find(self, titles: Sequence[str] = (), most: int = 10, after: str = "") -> list[NewNote]:
        return [NewNote("milk", color="red")]


async def test_an_old_client_and_a_new_service():
    notes, _ = client(Served(NewNotes, NewKept))
    assert await notes.put(Note("milk")) == 1
    assert await notes.find() == [Note("milk")]


async def test_a_new_client_and_an_old_service(service):
    notes, _ = client(service, interface=NewNotes)
    with pytest.raises(KrpcFault, match="color"):
        await notes.put(NewNote("milk"))
    with pytest.raises(KrpcFault, match="after"):
        await notes.find(after="x")
    assert await notes.find() == []


# -- what is told of them


async def test_the_schema_is_one_and_says_what_is_checked(service):
    told = await service(NOBODY, "describe", {}, CallContext())
    assert told == describe(Notes)
    assert (told["interface"], told["doc"]) == ("Notes", "Keeps notes.")
    assert told["methods"]["find"]["idempotent"] and not told["methods"]["put"]["idempotent"]
    assert told["methods"]["put"]["doc"] == "Keep one."
    for method in told["methods"].values():
        for part in ("params", "result"):
            jsonschema.Draft202012Validator.check_schema(method[part] | {"$defs": told["$defs"]})


NOTES = st.builds(
    Note,
    st.text(max_size=5),
    st.sampled_from(Kind),
    st.lists(st.builds(Label, st.text(max_size=3), st.text(max_size=3)), max_size=2).map(tuple),
    st.none() | st.integers(-(2**53), 2**53),
)


@given(NOTES)
def test_whatever_is_sent_fits_the_schema_and_arrives(note):
    told = describe(Notes)
    put = methods_of(Notes)["put"]
    plain = put.plain_params((note,), {})
    wire = msgspec.json.decode(msgspec.json.encode(plain))
    jsonschema.validate(wire, told["methods"]["put"]["params"] | {"$defs": told["$defs"]})
    assert put.read_params(wire)["note"] == note


# -- what is no interface


def test_what_is_no_interface():
    class Empty(Interface):
        pass

    class Plain(Interface):
        def now(self) -> int:
            return 1

    class Untyped(Interface):
        async def now(self, zone) -> int:
            return 1

    class Silent(Interface):
        async def now(self, zone: str):
            return 1

    class Anything(Interface):
        async def now(self, *zones: str) -> int:
            return 1

    class Alike(Interface):
        async def now(self, what: Note | Label) -> int:
            return 1

    class Taken(Interface):
        async def describe(self) -> int:
            return 1

    for wrong in (Empty, Plain, Untyped, Silent, Anything, Alike, Taken):
        with pytest.raises(Misuse):
            methods_of(wrong)
