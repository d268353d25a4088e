"""Many calls in one round trip, of which later ones use what earlier ones gave (promise pipelining).

``{"calls": [{"method", "params", "service"?, "after"?}, …], "results"?: […]}``.  Anywhere in ``params`` and ``results``
may stand ``{"$ref": [n, step, …]}``: the result of call ``n``, and from there step by step:

| step | gives |
|---|---|
| ``"name"``, ``3`` | that field of an object, that element of an array; nothing where there is none |
| ``{"map": [step, …]}`` | what the steps give for each element of an array |
| ``{"flat_map": [step, …]}`` | the same, where they give arrays, put end to end |
| ``{"filter": [[step, …], "<", 5]}`` | the elements for which that is so: ``== != < <= > >=`` and a plain value |
| ``{"or_else": value}`` | ``value`` in place of nothing and of null |
| ``{"limit": 5}`` | the first five elements |

These are all: none of them calls anything, loops, or carries code.  ``{"$value": …}`` is what it holds, taken as it is;
no other key of an object begins with ``$``.  A call refers to earlier ones only, so there are no circles; those that
need nothing of each other run at once, unless ``after`` lists what has to succeed before.  A call that needs one that
failed fails with its reason.  ``results`` says what is to come back; without it, what every call gave.

Everything has a price: each value that a call gave, that is handed to one and that goes back, and each element that a
step looks at.  A batch can spend ``MOST_COST``; what costs more fails, and the rest goes on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.strictjson import Json
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import METHOD, NAME

MOST_CALLS: Final = 64
"""Calls of a batch, and its results."""
MOST_STEPS: Final = 512
"""Steps and references of a batch."""
MOST_COST: Final = 1 << 18
"""What a batch can spend: a value costs 1, each of its parts as well, and 64 characters of text 1 more."""

_PER_COST: Final = 64
_MOST_DEPTH: Final = 100
"""Of a value; far more than can be sent.  Calls that hand on what others gave can make one ever deeper."""
_MOST_COMPARED: Final = 1024


@dataclass(frozen=True, slots=True)
class Get:
    """A field, or an element."""

    key: str | int


@dataclass(frozen=True, slots=True)
class Map:
    """What ``steps`` give for each element; ``flat``: put end to end."""

    steps: tuple[Step, ...]
    flat: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """The elements of which what ``steps`` give compares so."""

    steps: tuple[Step, ...]
    sign: str
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class OrElse:
    """In place of nothing and of null."""

    value: Json


@dataclass(frozen=True, slots=True)
class Limit:
    """No more elements than these."""

    most: int


Step: TypeAlias = Get | Map | Filter | OrElse | Limit


@dataclass(frozen=True, slots=True)
class Ref:
    """What call number ``call`` gave, and from there."""

    call: int
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Plain:
    """A value in which nothing is filled."""

    value: Json


@dataclass(frozen=True, slots=True)
class Fields:
    """An object in which something is filled."""

    fields: tuple[tuple[str, Template], ...]


@dataclass(frozen=True, slots=True)
class Elements:
    """An array in which something is filled."""

    elements: tuple[Template, ...]


Template: TypeAlias = Ref | Plain | Fields | Elements
Outcome: TypeAlias = "Plain | KrpcFault"
"""What a call gave, or why it gave nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCall:
    """One call; ``service`` is empty where it is the one that the batch is sent to."""

    method: str
    params: Template
    service: str = ""
    needs: frozenset[int] = frozenset()
    """The calls that have to succeed before."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Well formed: whatever it refers to is there."""

    calls: tuple[BatchCall, ...]
    results: tuple[Template, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A call that can be made now."""

    index: int
    service: str
    method: str
    params: Mapping[str, Json] = field(repr=False)


# -- reading


def read_batch(untrusted: Mapping[str, Json]) -> Batch:
    """The batch in the body of a request.  Raises ``KrpcFault`` (``INVALID``, ``TOO_LARGE``)."""
    calls, results = untrusted.get("calls"), untrusted.get("results")
    if not isinstance(calls, list) or not calls:
        raise _invalid("'calls' has to be an array of calls")
    if len(calls) > MOST_CALLS or (isinstance(results, list) and len(results) > MOST_CALLS):
        raise KrpcFault(Code.TOO_LARGE, f"a batch has at most {MOST_CALLS} calls and results")
    reader = _Reader()
    made = tuple(reader.call(place, call) for place, call in enumerate(calls))
    if results is None:
        return Batch(made, tuple(Ref(place) for place in range(len(made))))
    if not isinstance(results, list):
        raise _invalid("'results' has to be an array")
    return Batch(made, tuple(reader.template(result, len(made)) for result in results))


class _Reader:
    def __init__(self) -> None:
        self._steps = 0

    def call(self, place: int, untrusted: Json) -> BatchCall:
        if not isinstance(untrusted, dict) or untrusted.keys() - {"method", "params", "service", "after"}:
            raise _invalid(f"call {place} is not an object of method, params, service and after")
        method, service, after = (untrusted.get(key) for key in ("method", "service", "after"))
        if not isinstance(method, str) or not METHOD.fullmatch(method):
            raise _invalid(f"call {place} has no method")
        if service is not None and not (isinstance(service, str) and NAME.fullmatch(service)):
            raise _invalid(f"call {place} is to no service")
        params = self.template(untrusted.get("params") or {}, place)
        if isinstance(params, Elements) or (isinstance(params, Plain) and not isinstance(params.value, Mapping)):
            raise _invalid(f"the params of call {place} are no object")
        needs = set(calls_of(params))
        if after is not None:
            if not isinstance(after, list) or len(after) > MOST_CALLS:
                raise _invalid(f"call {place}: 'after' has to be an array of earlier calls")
            needs.update(self._earlier(one, place) for one in after)
        return BatchCall(method=method, params=params, service=str(service or ""), needs=frozenset(needs))

    def template(self, untrusted: Json, place: int) -> Template:
        """What stands in the call at ``place``, or behind the last."""
        if isinstance(untrusted, dict):
            special = [key for key in untrusted if key.startswith("$")]
            if not special:
                fields = tuple((key, self.template(below, place)) for key, below in untrusted.items())
                if all(isinstance(below, Plain) for _, below in fields):
                    return Plain(untrusted)
                return Fields(fields)
            if len(untrusted) == 1 and special == ["$value"]:
                return Plain(untrusted["$value"])
            if len(untrusted) == 1 and special == ["$ref"]:
                return self._ref(untrusted["$ref"], place)
            raise _invalid(f"{special[0][:40]!r}: only $ref or $value may stand in an object, and alone")
        if isinstance(untrusted, list):
            elements = tuple(self.template(below, place) for below in untrusted)
            return Plain(untrusted) if all(isinstance(one, Plain) for one in elements) else Elements(elements)
        return Plain(untrusted)

    def _ref(self, untrusted: Json, place: int) -> Ref:
        if not isinstance(untrusted, list) or not untrusted:
            raise _invalid("$ref has to be an array: a call, and steps")
        self._charge()
        return Ref(self._earlier(untrusted[0], place), self._read_steps(untrusted[1:]))

    def _earlier(self, untrusted: Json, place: int) -> int:
        if type(untrusted) is not int or not 0 <= untrusted < place:
            raise _invalid(f"{str(untrusted)[:40]!r} is no earlier call")
        return untrusted

    def _read_steps(self, untrusted: Json) -> tuple[Step, ...]:
        if not isinstance(untrusted, list):
            raise _invalid("steps have to be an array")
        return tuple(map(self._step, untrusted))

    def _step(self, untrusted: Json) -> Step:
        self._charge()
        if isinstance(untrusted, str) or (type(untrusted) is int and untrusted >= 0):
            return Get(untrusted)
        if isinstance(untrusted, dict) and len(untrusted) == 1:
            (name, told), *_ = untrusted.items()
            if name in ("map", "flat_map"):
                return Map(self._read_steps(told), name == "flat_map")
            if name == "filter":
                return self._filter(told)
            if name == "or_else":
                return OrElse(told)
            if name == "limit" and type(told) is int and told >= 0:
                return Limit(told)
        raise _invalid(f"{str(untrusted)[:80]!r} is no step")

    def _filter(self, untrusted: Json) -> Filter:
        if not isinstance(untrusted, list) or len(untrusted) != 3:
            raise _invalid("a filter is an array of steps, a comparison and a value")
        steps, sign, value = untrusted
        if not isinstance(sign, str) or sign not in _SIGNS:
            raise _invalid(f"{str(sign)[:40]!r} is no comparison: {' '.join(_SIGNS)}")
        if isinstance(value, dict | list) or (isinstance(value, str) and len(value) > _MOST_COMPARED):
            raise _invalid("a filter compares with a number, true, false, null or a short text")
        return Filter(self._read_steps(steps), sign, value)

    def _charge(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise KrpcFault(Code.TOO_LARGE, f"a batch has at most {MOST_STEPS} steps")


def calls_of(template: Template) -> frozenset[int]:
    """The calls that ``template`` refers to."""
    if isinstance(template, Ref):
        return frozenset((template.call,))
    if isinstance(template, Fields):
        return frozenset().union(*(calls_of(below) for _, below in template.fields))
    if isinstance(template, Elements):
        return frozenset().union(*map(calls_of, template.elements))
    return frozenset()


# -- writing


def write_step(step: Step) -> Json:
    """As it stands in ``$ref``."""
    if isinstance(step, Get):
        return step.key
    if isinstance(step, Map):
        return {"flat_map" if step.flat else "map": [write_step(below) for below in step.steps]}
    if isinstance(step, Filter):
        return {"filter": [[write_step(below) for below in step.steps], step.sign, step.value]}
    if isinstance(step, OrElse):
        return {"or_else": step.value}
    return {"limit": step.most}


def write_template(template: Template) -> Json:
    """As :func:`read_batch` reads it."""
    if isinstance(template, Ref):
        return {"$ref": [template.call, *map(write_step, template.steps)]}
    if isinstance(template, Fields):
        return {key: write_template(below) for key, below in template.fields}
    if isinstance(template, Elements):
        return [write_template(below) for below in template.elements]
    return {"$value": template.value} if isinstance(template.value, Mapping | list | tuple) else template.value


def write_batch(batch: Batch) -> dict[str, Json]:
    """What :func:`read_batch` makes ``batch`` of."""
    calls: list[Json] = []
    for call in batch.calls:
        written: dict[str, Json] = {"method": call.method, "params": write_template(call.params)}
        if call.service:
            written["service"] = call.service
        if after := sorted(call.needs - calls_of(call.params)):
            written["after"] = after
        calls.append(written)
    return {"calls": calls, "results": [write_template(result) for result in batch.results]}


# -- carrying out


class Run:
    """One batch under way: which calls can be made next, from what the others gave."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._begun = [False] * len(batch.calls)
        self._outcomes: list[Outcome | None] = [None] * len(batch.calls)
        self._purse = _Purse(MOST_COST)

    def ready(self) -> list[Ready]:
        """The calls that can be made now; each is told once."""
        found = []
        for index, call in enumerate(self._batch.calls):
            # What a call needs stands before it, so one pass sees every failure through.
            if self._begun[index] or any(self._outcomes[needed] is None for needed in call.needs):
                continue
            self._begun[index] = True
            outcome = self._params(call)
            if isinstance(outcome, KrpcFault):
                self._outcomes[index] = outcome
            else:
                assert isinstance(outcome.value, Mapping)
                found.append(Ready(index=index, service=call.service, method=call.method, params=outcome.value))
        return found

    def finish(self, index: int, outcome: Outcome) -> None:
        """The call ``index`` of :meth:`ready` has ended so."""
        if not self._begun[index] or self._outcomes[index] is not None:
            raise Misuse(f"call {index} has not begun, or has ended before")
        if isinstance(outcome, Plain):
            try:
                self._purse.weigh(outcome.value)
            except KrpcFault:
                outcome = KrpcFault(Code.TOO_LARGE, "it was done, but what it gave is too much for this batch")
        self._outcomes[index] = outcome

    def results(self) -> list[Outcome]:
        """What goes back, in its order; every call has ended."""
        found: list[Outcome] = []
        for template in self._batch.results:
            failed = self._failed(calls_of(template))
            try:
                found.append(failed[1] if failed is not None else self._filled(template))
            except KrpcFault as fault:
                found.append(fault)
        return found

    def _params(self, call: BatchCall) -> Outcome:
        if (failed := self._failed(call.needs)) is not None:
            index, fault = failed
            if fault.code != Code.NEEDED:
                said: Json = {"call": index, "code": fault.code, "message": fault.message}
                fault = KrpcFault(Code.NEEDED, f"call {index} has failed: {fault.message}", data=said)
            return fault
        try:
            filled = self._filled(call.params)
        except KrpcFault as fault:
            return fault
        if not isinstance(filled.value, Mapping):
            return _invalid("the params that were referred to are no object")
        return filled

    def _failed(self, needed: frozenset[int]) -> tuple[int, KrpcFault] | None:
        for index in sorted(needed):
            outcome = self._outcomes[index]
            if isinstance(outcome, KrpcFault):
                return index, outcome
        return None

    def _filled(self, template: Template) -> Plain:
        return template if isinstance(template, Plain) else Plain(self._value(template))

    def _value(self, template: Template) -> Json:
        if isinstance(template, Fields):
            return {key: self._value(below) for key, below in template.fields}
        if isinstance(template, Elements):
            return [self._value(below) for below in template.elements]
        if isinstance(template, Plain):
            return template.value
        outcome = self._outcomes[template.call]
        if not isinstance(outcome, Plain):
            raise Misuse(f"call {template.call} has not ended")
        try:
            value = _follow(outcome.value, template.steps, self._purse)
        except _Nothing as nothing:
            raise KrpcFault(Code.MISSING, f"in the result of call {template.call}, {nothing}") from None
        self._purse.weigh(value)
        return value


class _Nothing(Exception):
    """There is nothing where a step leads, which ``or_else`` makes good."""


class _Purse:
    def __init__(self, left: int) -> None:
        self._left = left

    def pay(self, price: int) -> None:
        """Raises ``KrpcFault`` (``TOO_LARGE``)."""
        if price > self._left:
            self._left = 0
            raise KrpcFault(Code.TOO_LARGE, f"this batch costs more than {MOST_COST}: ask for less, or split it")
        self._left -= price

    def weigh(self, value: Json, depth: int = _MOST_DEPTH) -> None:
        """Pay for ``value``.  Raises as :meth:`pay`."""
        if not depth:
            raise KrpcFault(Code.TOO_LARGE, "a value of this batch is nested too deeply")
        if isinstance(value, str):
            self.pay(1 + len(value) // _PER_COST)
        elif isinstance(value, Mapping):
            self.pay(1)
            for key, below in value.items():
                self.pay(len(key) // _PER_COST)
                self.weigh(below, depth - 1)
        elif isinstance(value, Sequence):
            self.pay(1)
            for below in value:
                self.weigh(below, depth - 1)
        else:
            self.pay(1)


def part_of(value: Json, steps: Sequence[Step]) -> Outcome:
    """What ``steps`` give from ``value``, at most for what a batch can spend."""
    try:
        return Plain(_follow(value, steps, _Purse(MOST_COST)))
    except KrpcFault as fault:
        return fault
    except _Nothing as nothing:
        return KrpcFault(Code.MISSING, str(nothing))


def _follow(value: Json, steps: Sequence[Step], purse: _Purse) -> Json:
    """What ``steps`` give from ``value``.  Raises ``KrpcFault``, and ``_Nothing``."""
    missing: _Nothing | None = None
    for step in steps:
        purse.pay(1)
        if isinstance(step, OrElse):
            if missing is not None or value is None:
                value, missing = step.value, None
        elif missing is None:
            try:
                value = _get(value, step.key) if isinstance(step, Get) else _each(value, step, purse)
            except _Nothing as nothing:
                missing = nothing
    if missing is not None:
        raise missing
    return value


def _get(value: Json, key: str | int) -> Json:
    if isinstance(key, str) and isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(key, int) and isinstance(value, list | tuple) and key < len(value):
        found: Json = value[key]
        return found
    raise _Nothing(f"there is no {key!r}"[:120])


def _each(array: Json, step: Map | Filter | Limit, purse: _Purse) -> Json:
    if not isinstance(array, list | tuple):
        raise _Nothing("there is no array")
    if isinstance(step, Limit):
        purse.pay(min(step.most, len(array)))
        return array[: step.most]
    purse.pay(len(array))
    if isinstance(step, Filter):
        return [element for element in array if _is_kept(element, step, purse)]
    found = [_follow(element, step.steps, purse) for element in array]
    if not step.flat:
        return found
    joined: list[Json] = []
    for part in found:
        if not isinstance(part, list | tuple):
            raise _Nothing("there is no array of arrays")
        purse.pay(len(part))
        joined += part
    return joined


def _is_kept(element: Json, step: Filter, purse: _Purse) -> bool:
    try:
        found = _follow(element, step.steps, purse)
    except _Nothing:
        return False
    if step.sign in ("==", "!="):
        # 1 and true are two values in JSON.
        same = isinstance(found, bool) == isinstance(step.value, bool) and found == step.value
        return same == (step.sign == "==")
    return _rank(found) is _rank(step.value) is not None and _SIGNS[step.sign](found, step.value)


def _rank(value: Json) -> type | None:
    """Values of one rank have an order."""
    if isinstance(value, str):
        return str
    return float if isinstance(value, int | float) and not isinstance(value, bool) else None


_SIGNS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _invalid(message: str) -> KrpcFault:
    return KrpcFault(Code.INVALID, message)
