"""The stores that sit the exam of system_config, each made empty for one test."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from zone.io.config.backend import Backend
from zone.io.config.sqlite import Database, SqliteBackend


class Kind(Protocol):
    """A store's whereabouts, empty at first."""

    def open(self) -> Backend: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Sqlite:
    """A file."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "zone.db"

    def open(self) -> Backend:
        return SqliteBackend(Database(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


KINDS = [Sqlite]
