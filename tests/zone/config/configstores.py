"""The stores that sit the exam of system_config, each made empty for one test."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from etcdserver import Cluster

from cyfs_ns.identity.keys import SecretKey
from rtcp.v5.keys import device_key
from zone.io.config.backend import Backend
from zone.io.config.sealing import SealedBackend
from zone.io.config.sqlite import Database, SqliteBackend


class Kind(Protocol):
    """A store's whereabouts, empty at first."""

    def fresh(self) -> None:
        """Go elsewhere, where it is empty again; revisions may go on."""

    def open(self) -> Backend: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Sqlite:
    """A file."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._places = 1

    def fresh(self) -> None:
        self._places += 1

    def open(self) -> Backend:
        return SqliteBackend(Database(self._directory / f"zone{self._places}.db"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Sealed(Sqlite):
    """A file in which every value is sealed."""

    name = "sealed"

    def open(self) -> Backend:
        ood = SecretKey(bytes(32))
        return SealedBackend(super().open(), device_key(ood), [ood.public], ["**"])


class Etcd:
    """A real server."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        self._cluster = Cluster(directory)
        self._places = 1

    def fresh(self) -> None:
        self._places += 1

    def open(self) -> Backend:
        return self._cluster.open(namespace=f"/buckyos/zone{self._places}/")

    def __enter__(self) -> Self:
        self._cluster.start()
        self._cluster.wait_for_quorum()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()


KINDS = [Sqlite, Sealed, Etcd]
