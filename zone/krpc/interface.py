"""Interfaces of services, declared as Python classes and checked on both sides.

    class Time(Interface):
        @idempotent
        async def now(self, zone: str = "UTC") -> Moment: ...

Parameters and results have types: texts, numbers, booleans, None, lists, tuples, dicts, ``Literal``, enums,
dataclasses, ``msgspec.Struct`` (with a tag where a union has several), unions, dates and bytes.  What serves an
interface derives from it, and is made for each call, so it knows who calls and has no rights but theirs (``Served``).
What calls it is another class made from it (``stub``).  Everybody can ask a service that has an interface to
``describe`` itself: a JSON Schema of each method.

An interface grows by methods, by parameters that have a default, and by fields of objects that have one.  Whoever sends
a parameter or a field that the service does not know is told its name, since it might have meant ``only if``; whoever
gets a field that they do not know reads past it.  A default that is not said is not sent, so a new client gets along
with an old service until it uses what is new.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar, cast, get_type_hints
from weakref import WeakKeyDictionary

import msgspec

from cyfs_ns.errors import Misuse
from cyfs_ns.identity.strictjson import Json
from zone.krpc.caller import Caller
from zone.krpc.faults import Code, KrpcFault
from zone.krpc.service import METHOD, CallContext

DESCRIBE: Final = "describe"
"""The method that every interface has."""

_REFS: Final = "#/$defs/{name}"
_IDEMPOTENT: Final = "__krpc_idempotent__"


class Interface:
    """What interfaces derive from."""


_KNOWN: Final[WeakKeyDictionary[type[Interface], Mapping[str, Method]]] = WeakKeyDictionary()
"""Compiled ones: that takes a millisecond, and a class does not change."""


I = TypeVar("I", bound=Interface)  # noqa: E741
F = TypeVar("F", bound=Callable[..., Any])


def idempotent(method: F) -> F:
    """Declares that doing it twice is doing it once, so a client may try again when it does not know."""
    setattr(method, _IDEMPOTENT, True)
    return method


@dataclass(frozen=True, slots=True)
class Method:
    """One method of an interface."""

    name: str
    doc: str
    idempotent: bool
    signature: inspect.Signature = field(repr=False)
    params: type[msgspec.Struct] = field(repr=False)
    result: Any = field(repr=False)

    def plain_params(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Json]:
        """The params of a call, those that are given.  Raises ``Misuse`` for what the interface does not allow."""
        try:
            bound = self.signature.bind(*args, **kwargs)
            plain = msgspec.to_builtins(bound.arguments, str_keys=True)
            msgspec.convert(plain, self.params, str_keys=True)
        except (TypeError, msgspec.ValidationError) as bad:
            raise Misuse(f"{self.name}: {bad}") from None
        return cast("dict[str, Json]", plain)

    def read_params(self, untrusted: Mapping[str, Json]) -> dict[str, Any]:
        """The arguments that ``untrusted`` says.  Raises ``KrpcFault`` (``INVALID``), with the place."""
        try:
            read = msgspec.convert(untrusted, self.params, str_keys=True)
        except msgspec.ValidationError as bad:
            raise KrpcFault(Code.INVALID, f"{self.name}: {bad}") from None
        # msgspec reads past unknown fields of dataclasses.
        if unknown := _unknown(untrusted, msgspec.to_builtins(read, str_keys=True), "$"):
            raise KrpcFault(Code.INVALID, f"{self.name}: there is no {unknown}")
        return {name: getattr(read, name) for name in self.params.__struct_fields__}

    def plain_result(self, result: object) -> Json:
        """As it is sent.  Raises ``Misuse`` for one that the interface does not have."""
        try:
            plain = msgspec.to_builtins(result, str_keys=True)
            msgspec.convert(plain, self.result, str_keys=True)
        except (TypeError, msgspec.ValidationError) as bad:
            raise Misuse(f"the result of {self.name}: {bad}") from None
        return cast("Json", plain)

    def read_result(self, untrusted: Json) -> Any:
        """What the service gave.  Raises ``KrpcFault`` (``UNCERTAIN``): something was done, and is not understood."""
        try:
            return msgspec.convert(untrusted, self.result, str_keys=True)
        except msgspec.ValidationError as bad:
            raise KrpcFault(
                Code.UNCERTAIN, f"the result of {self.name} is not what its interface says: {bad}"
            ) from None


def _unknown(given: Any, read: Any, place: str) -> str:
    """The place of the first field that was given and not read; empty: there is none."""
    if isinstance(given, Mapping) and isinstance(read, Mapping):
        for key, below in given.items():
            if key not in read:
                return f"{place}.{key}"[:120]
            if found := _unknown(below, read[key], f"{place}.{key}"):
                return found
    elif isinstance(given, list | tuple) and isinstance(read, list | tuple):
        for index, (below, known) in enumerate(zip(given, read, strict=False)):
            if found := _unknown(below, known, f"{place}[{index}]"):
                return found
    return ""


def methods_of(interface: type[Interface]) -> Mapping[str, Method]:
    """By name.  Raises ``Misuse`` for a class that is no interface."""
    if interface in _KNOWN:
        return _KNOWN[interface]
    found = {}
    for kind in reversed(interface.__mro__):
        for name, function in vars(kind).items():
            if issubclass(kind, Interface) and not name.startswith("_") and callable(function):
                found[name] = _method(f"{interface.__name__}.{name}", name, function)
    if not found:
        raise Misuse(f"{interface.__name__} has no methods")
    _KNOWN[interface] = found
    return found


def _method(place: str, name: str, function: Callable[..., Any]) -> Method:
    if not inspect.iscoroutinefunction(function) or name == DESCRIBE or not METHOD.fullmatch(name):
        raise Misuse(f"{place}: methods are async functions with a name of letters, and not {DESCRIBE}")
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    _, *parameters = signature.parameters.values()
    fields: list[Any] = []
    for one in parameters:
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) or one.name not in hints:
            raise Misuse(f"{place}: {one.name} has to be a parameter with a name and a type")
        fields.append((one.name, hints[one.name], *([] if one.default is one.empty else [one.default])))
    if "return" not in hints:
        raise Misuse(f"{place} says nothing of its result")
    params = msgspec.defstruct(f"{name} params", fields, kw_only=True, forbid_unknown_fields=True)
    try:
        msgspec.json.schema_components([params, hints["return"]])
    except TypeError as bad:
        raise Misuse(f"{place}: {bad}") from None
    return Method(
        name=name,
        doc=inspect.getdoc(function) or "",
        idempotent=getattr(function, _IDEMPOTENT, False),
        signature=signature.replace(parameters=parameters),
        params=params,
        result=hints["return"],
    )


def describe(interface: type[Interface]) -> dict[str, Any]:
    """The interface as data, with JSON Schemas (2020-12) of params and results."""
    methods = methods_of(interface)
    types = [part for method in methods.values() for part in (method.params, method.result)]
    schemas, shared = msgspec.json.schema_components(types, ref_template=_REFS)
    pairs = zip(schemas[::2], schemas[1::2], strict=True)
    told = {
        "interface": interface.__name__,
        "doc": inspect.getdoc(interface) or "",
        "methods": {
            method.name: {
                "doc": method.doc,
                "idempotent": method.idempotent,
                "params": params,
                "result": result,
            }
            for method, (params, result) in zip(methods.values(), pairs, strict=True)
        },
        "$defs": shared,
    }
    return cast("dict[str, Any]", msgspec.to_builtins(told, str_keys=True))


class Served(Generic[I]):
    """A service (``zone.krpc.service.Service``) that has an interface.

    ``make`` gives what answers one call, for whoever calls.
    """

    def __init__(self, interface: type[I], make: Callable[[Caller, CallContext], I]) -> None:
        self.interface: Final = interface
        self._methods = methods_of(interface)
        self._told = describe(interface)
        self._make = make

    async def __call__(self, caller: Caller, method: str, params: Mapping[str, Json], context: CallContext) -> Json:
        if method == DESCRIBE:
            return self._told
        found = self._methods.get(method)
        if found is None:
            raise KrpcFault(Code.UNKNOWN_METHOD, f"{self.interface.__name__} has no method {method!r}")
        arguments = found.read_params(params)
        return found.plain_result(await getattr(self._make(caller, context), method)(**arguments))


class Call(Protocol):
    """Makes one call.  Raises ``KrpcFault``."""

    def __call__(self, method: str, params: Mapping[str, Json], *, idempotent: bool) -> Awaitable[Json]: ...


def stub(interface: type[I], call: Call) -> I:
    """What looks like the service, and makes a call of each method by ``call``."""
    own = {name: _calling(method, call) for name, method in methods_of(interface).items()}
    return cast("I", type(f"{interface.__name__}Stub", (interface,), own)())


def _calling(method: Method, call: Call) -> Callable[..., Awaitable[Any]]:
    async def calling(_self: object, *args: Any, **kwargs: Any) -> Any:
        params = method.plain_params(args, kwargs)
        return method.read_result(await call(method.name, params, idempotent=method.idempotent))

    return calling
