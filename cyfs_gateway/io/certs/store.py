"""Certificates on disk, in one directory of mode 0700, each file of mode 0600 and replaced as a whole.

``NAME.pem`` is a key with its certificates.  ``NAME.order`` is a key whose certificate has been ordered and not yet
fetched: whoever dies in between asks for the same order again, instead of for another certificate.
``account-HASH.key`` is the key of the account at one authority.  ``trouble.json`` says what went wrong, and when to try
again.

All of it blocks on the disk.  What cannot be read is as good as absent, and said in the log; what cannot be written is
a :class:`~cyfs_gateway.certs.upkeep.CertFault` of the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cyfs_gateway.certs.bundle import MOST_BYTES, Bundle, read_bundle
from cyfs_gateway.certs.upkeep import CertFault, Trouble, trouble_of
from cyfs_gateway.io.certs.contexts import key_pem, new_key
from cyfs_ns.errors import BadWire
from cyfs_ns.io.atomic import write_atomic

_log = logging.getLogger("cyfs.certs")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOrder:
    """An order that was proven, and whose certificate has not been fetched."""

    directory: str
    names: tuple[str, ...]
    uri: str
    finalize: str
    key: str = field(repr=False)


class CertStore:
    """The directory ``path``, made when something is first kept in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def bundle(self, label: str) -> Bundle | None:
        """The certificate kept under a label."""
        file = self.path / f"{label}.pem"
        raw = self._read(file)
        try:
            return read_bundle(raw) if raw else None
        except BadWire as fault:
            _log.warning("%s is passed over: %s", file, fault)
            return None

    def labels(self) -> list[str]:
        """Of all certificates that are kept."""
        return sorted(file.stem for file in self.path.glob("*.pem") if not file.name.startswith("."))

    def keep(self, label: str, bundle: Bundle) -> None:
        """Keep a certificate; its order is done."""
        self._write(f"{label}.pem", bundle.pem)
        self.forget_order(label)

    def order(self, label: str) -> OpenOrder | None:
        raw = self._read(self.path / f"{label}.order")
        try:
            told: dict[str, Any] = json.loads(raw) if raw else {}
            return OpenOrder(**{**told, "names": tuple(told["names"])}) if told else None
        except (ValueError, TypeError, KeyError):
            _log.warning("the order %s.order cannot be read and is forgotten", label)
            return None

    def keep_order(self, label: str, order: OpenOrder) -> None:
        self._write(f"{label}.order", json.dumps(asdict(order)).encode())

    def forget_order(self, label: str) -> None:
        try:
            (self.path / f"{label}.order").unlink(missing_ok=True)
        except OSError as fault:
            raise CertFault("disk", f"{self.path}: {fault.strerror}") from fault

    def account_key(self, directory: str) -> bytes:
        """The key of the account at a directory's authority, as PEM; made if there is none."""
        name = f"account-{hashlib.sha256(directory.encode()).hexdigest()[:12]}.key"
        if found := self._read(self.path / name):
            return found
        made = key_pem(new_key())
        self._write(name, made)
        return made

    def troubles(self) -> dict[str, Trouble]:
        raw = self._read(self.path / "trouble.json")
        try:
            told = json.loads(raw) if raw else {}
        except ValueError:
            told = {}
        if not isinstance(told, Mapping):
            return {}
        return {label: trouble for label, each in told.items() if (trouble := trouble_of(each)) is not None}

    def keep_troubles(self, troubles: Mapping[str, Trouble]) -> None:
        written = {label: asdict(trouble) for label, trouble in troubles.items()}
        self._write("trouble.json", json.dumps(written, indent=1).encode())

    def _read(self, file: Path) -> bytes:
        try:
            with file.open("rb") as opened:
                return opened.read(MOST_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as fault:
            # A key that is there and cannot be read must not be replaced by another.
            raise CertFault("disk", f"{file}: {fault.strerror}") from fault

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self.path / name, data)
        except OSError as fault:
            raise CertFault("disk", f"{self.path / name}: {fault.strerror}") from fault
