"""Promises: what calls of a batch will give, to be used before they gave it.

A ``Plan`` collects calls.  Each gives a ``Promise``; its attributes, elements and operators are promises of parts of
the result, which nobody has to fetch for that, and any of them may stand in the params of a later call.

    now = plan.call("time", "now", {})
    plan.call("notes", "put", {"year": now.year})
    titles = plan.call("notes", "list", {}).filter(lambda note: note.year == 2026).map(lambda note: note.title)

The functions are called once, with something that only writes down what is done with it; they never see a value, and
never leave this process.  Fields that are called like an operator are reached as ``promise["map"]``.

What comes back is every promise that no narrower one was made of: here the year, what was put, and the titles.
``keep`` asks for one all the same.  Of what has come back, promises of parts can still be made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.strictjson import Json, write_json
from zone.krpc.batch import (
    Batch,
    BatchCall,
    Elements,
    Fields,
    Filter,
    Get,
    Limit,
    Map,
    OrElse,
    Outcome,
    Plain,
    Ref,
    Step,
    Template,
    calls_of,
    part_of,
    write_template,
)
from zone.krpc.faults import KrpcFault

Read = Callable[[Json], Any]
"""Makes of a result what its interface says."""


class Each:
    """Any element, in a function that is given to ``map``, ``filter`` or ``flat_map``."""

    def __init__(self, steps: tuple[Step, ...] = ()) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Each:
        return self[_field(name)]

    def __getitem__(self, key: str | int) -> Each:
        return Each((*self._steps, Get(key)))

    def or_else(self, value: Json) -> Each:
        return Each((*self._steps, OrElse(_plain(value))))

    def map(self, function: Callable[[Each], Each]) -> Each:
        return Each((*self._steps, Map(_steps(function))))

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return self._compared("==", value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return self._compared("!=", value)

    def __lt__(self, value: object) -> Filter:
        return self._compared("<", value)

    def __le__(self, value: object) -> Filter:
        return self._compared("<=", value)

    def __gt__(self, value: object) -> Filter:
        return self._compared(">", value)

    def __ge__(self, value: object) -> Filter:
        return self._compared(">=", value)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise Misuse("an element is not known here: compare it, and do nothing else with what that gives")

    def _compared(self, sign: str, value: object) -> Filter:
        if value is not None and not isinstance(value, str | int | float):
            raise Misuse("an element is compared with a number, True, False, None or a text")
        return Filter(self._steps, sign, value)


class Promise:
    """What a call will give, or a part of it.  Awaited as often as one likes; raises the call's ``KrpcFault``."""

    def __init__(self, plan: Plan, ref: Ref, read: Read | None = None) -> None:
        self._plan, self._ref, self._read = plan, ref, read

    def __getattr__(self, name: str) -> Promise:
        return self[_field(name)]

    def __getitem__(self, key: str | int) -> Promise:
        return self._narrowed(Get(key))

    def map(self, function: Callable[[Each], Each]) -> Promise:
        """What ``function`` gives for each element."""
        return self._narrowed(Map(_steps(function)))

    def flat_map(self, function: Callable[[Each], Each]) -> Promise:
        """The arrays that ``function`` gives for each element, end to end."""
        return self._narrowed(Map(_steps(function), flat=True))

    def filter(self, function: Callable[[Each], Filter]) -> Promise:
        """The elements of which the comparison that ``function`` gives is true."""
        found = function(Each())
        if not isinstance(found, Filter):
            raise Misuse("a filter compares the element, or a part of it, with a value")
        return self._narrowed(found)

    def or_else(self, value: Json) -> Promise:
        """``value`` where there would be nothing, or null."""
        return self._narrowed(OrElse(_plain(value)))

    def limit(self, most: int) -> Promise:
        """The first ``most`` elements."""
        return self._narrowed(Limit(most))

    def after(self, *others: Promise) -> Promise:
        """Have the call made only when those of ``others`` have succeeded."""
        self._plan.order(self._ref.call, [other._ref.call for other in others])
        return self

    def keep(self) -> Promise:
        """Have it come back though a narrower promise was made of it."""
        self._plan.keep(self._ref)
        return self

    def __await__(self) -> Any:
        return self._value().__await__()

    async def _value(self) -> Any:
        outcome = self._plan.outcome(self._ref)
        if isinstance(outcome, KrpcFault):
            raise outcome
        return outcome.value if self._read is None else self._read(outcome.value)

    def _narrowed(self, step: Step) -> Promise:
        return self._plan.promise(replace(self._ref, steps=(*self._ref.steps, step)), self._ref)


class Plan:
    """Calls that are to be made in one batch.  ``send`` carries it out, once."""

    def __init__(self, send: Callable[[Batch], Awaitable[Sequence[Outcome]]]) -> None:
        self._send = send
        self._calls: list[BatchCall] = []
        self._wanted: dict[bytes, Ref] = {}
        self._kept: set[bytes] = set()
        self._outcomes: dict[bytes, Outcome] | None = None

    def call(self, service: str, method: str, params: Mapping[str, Any], read: Read | None = None) -> Promise:
        """One more call; ``service`` is empty where it is the one that the batch goes to."""
        self._check_open()
        template = _template(dict(params), self)
        needs = calls_of(template)
        self._calls.append(BatchCall(service=service, method=method, params=template, needs=needs))
        return self.promise(Ref(len(self._calls) - 1), None, read)

    def promise(self, ref: Ref, narrows: Ref | None, read: Read | None = None) -> Promise:
        """Of ``ref``, in place of what it ``narrows``."""
        if self._outcomes is None:
            if narrows is not None and (key := _key(narrows)) not in self._kept:
                self._wanted.pop(key, None)
            self._wanted.setdefault(_key(ref), ref)
        return Promise(self, ref, read)

    def order(self, call: int, others: list[int]) -> None:
        """``call`` comes after ``others``, which were planned before it."""
        self._check_open()
        if any(other >= call for other in others):
            raise Misuse("a call comes after calls that were planned before it")
        self._calls[call] = replace(self._calls[call], needs=self._calls[call].needs | set(others))

    def keep(self, ref: Ref) -> None:
        """Have it come back whatever is made of it."""
        self._check_open()
        self._kept.add(_key(ref))
        self._wanted.setdefault(_key(ref), ref)

    async def send(self) -> None:
        """Make the calls, if there are any.  Raises ``KrpcFault`` where the batch as a whole was not answered."""
        self._check_open()
        self._outcomes = {}
        if self._calls:
            outcomes = await self._send(Batch(tuple(self._calls), tuple(self._wanted.values())))
            self._outcomes = dict(zip(self._wanted, outcomes, strict=True))

    def outcome(self, ref: Ref) -> Outcome:
        """What ``ref`` has become."""
        if self._outcomes is None:
            raise Misuse("the batch was not sent yet: that happens at the end of its block")
        for known in range(len(ref.steps), -1, -1):
            outcome = self._outcomes.get(_key(Ref(ref.call, ref.steps[:known])))
            if outcome is not None:
                return part_of(outcome.value, ref.steps[known:]) if isinstance(outcome, Plain) else outcome
        raise Misuse("this did not come back, since a narrower promise was made of it: keep() it")

    def _check_open(self) -> None:
        if self._outcomes is not None:
            raise Misuse("the batch was sent already")


def _key(ref: Ref) -> bytes:
    """The same for the same: to Python, true is 1."""
    return write_json(write_template(ref))


def _field(name: str) -> str:
    if name.startswith("_"):
        raise AttributeError(name)  # what Python itself looks for, such as __deepcopy__
    return name


def _steps(function: Callable[[Each], Each]) -> tuple[Step, ...]:
    found = function(Each())
    if not isinstance(found, Each):
        raise Misuse("a function of elements gives the element, or a part of it")
    return found._steps


def _template(value: Any, plan: Plan) -> Template:
    if isinstance(value, Promise):
        if value._plan is not plan:
            raise Misuse("a promise of another batch")
        return value._ref
    if isinstance(value, Mapping):
        fields = tuple((str(key), _template(below, plan)) for key, below in value.items())
        if all(isinstance(below, Plain) for _, below in fields):
            return Plain(_plain(value))
        if any(key.startswith("$") for key, _ in fields):
            raise Misuse("beside a field that begins with $ there can be no promise")
        return Fields(fields)
    if isinstance(value, list | tuple):
        elements = tuple(_template(below, plan) for below in value)
        return Plain(_plain(value)) if all(isinstance(one, Plain) for one in elements) else Elements(elements)
    return Plain(_plain(value))


def _plain(value: Any) -> Json:
    try:
        return cast("Json", msgspec.to_builtins(value, str_keys=True))
    except TypeError as bad:
        raise Misuse(f"this cannot be sent: {bad}") from None
