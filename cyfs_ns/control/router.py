"""From a method and a path to the handler that the route table names.

Paths are split first and percent-decoded after, so a proxy called ``a/b`` (``a%2Fb``) stays one segment and no
decoded byte can add a segment.  A pattern is literal segments and ``{name}`` ones; a last ``{name...}`` takes the
rest as one tuple.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """One line of the table."""

    method: str
    pattern: str
    handler: T
    body_limit: int = 1 << 20
    """Most bytes of body that are read for it."""


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The route that answers, and what its ``{name}`` segments stood for."""

    route: Route[T]
    names: dict[str, str]
    rest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotFound:
    """No route: ``allowed`` lists the methods that the path would have, none for an unknown path."""

    allowed: tuple[str, ...]


class Router(Generic[T]):
    """The table, made once.  The first line that fits wins, so literal patterns stand before ``{name}`` ones."""

    def __init__(self, routes: Iterable[Route[T]]) -> None:
        self._routes = [(route, segments_of(route.pattern)) for route in routes]

    def find(self, method: str, path: str) -> Found[T] | NotFound:
        """HEAD finds what GET would."""
        segments = segments_of(path)
        allowed: list[str] = []
        for route, pattern in self._routes:
            found = _fit(route, pattern, segments)
            if found is None:
                continue
            if route.method == method or (method == "HEAD" and route.method == "GET"):
                return found
            allowed.append(route.method)
        return NotFound(tuple(dict.fromkeys(allowed)))


def segments_of(path: str) -> tuple[str, ...]:
    """Decoded segments of a path; a trailing slash leaves an empty last one.  Bad UTF-8 becomes U+FFFD."""
    return tuple(unquote(part) for part in path.removeprefix("/").split("/"))


def _fit(route: Route[T], pattern: tuple[str, ...], segments: tuple[str, ...]) -> Found[T] | None:
    names: dict[str, str] = {}
    for place, want in enumerate(pattern):
        if want.endswith("...}"):
            return Found(route, names, segments[place:])
        if place == len(segments):
            return None
        if want.startswith("{"):
            if not segments[place]:
                return None
            names[want[1:-1]] = segments[place]
        elif want != segments[place]:
            return None
    return Found(route, names) if len(pattern) == len(segments) else None
