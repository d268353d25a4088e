"""What makes this machine one of a zone, on its disk: all of it, or nothing.

``identity/membership.json`` below its home, beside its key, is the one truth.  From it follow ``identity/device.jwt``,
which tunnels show, and the pins of owner and zone in ``names/pins``, by which others are believed.  The rename that
gives that file its name is the moment at which the machine belongs to the zone, and the rename to ``leaving.json`` the
one at which it does not any more.  A kill behind either leaves something to be brought about: :meth:`mend` does.

Pins that were here before stay what they are, and stay when the machine leaves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cyfs_ns.errors import BadWire, ConfigFault, Refused
from cyfs_ns.identity.did import Did
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.trusted.keystore import KeyStore, read_file
from cyfs_ns.io.trusted.lock import locked
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from zone.membership import MOST_MEMBERSHIP, Membership, read_membership

SOURCE: Final = "node activate"
"""Who made the pins that go when the machine leaves."""


class MembershipStore:
    """The membership of the machine whose home is ``home``.

    Every method blocks on the disk, and raises ``ConfigFault``, ``OSError`` and, where another process holds on to the
    directory, ``Unreachable``.
    """

    def __init__(self, home: Path) -> None:
        self._keys, self._trust = KeyStore(home), TrustStore(home)
        self.path = self._keys.path / "membership.json"
        self._leaving = self._keys.path / "leaving.json"

    def held(self) -> Membership | None:
        """What was accepted here, whether or not it still counts; None: nothing."""
        return _read(self.path) if self.path.exists() else None

    def own(self, now: float) -> Membership:
        """What counts at ``now``, in seconds since 1970.

        It is no earlier than when the documents were issued: a machine without a clock comes up all the same.
        """
        held = self.held()
        if held is None:
            raise ConfigFault("this machine is in no zone; say: cyfs-gateway node activate")
        latest = max(held.owner.iat, held.zone.iat, held.device.iat)
        try:
            membership = read_membership(held.text(), max(now, latest))
        except BadWire as bad:
            raise ConfigFault(f"{self.path}: {bad}") from None
        if membership.device.key != self._keys.device().public:
            raise ConfigFault("this machine has another key since it was activated; say: cyfs-gateway node activate")
        return membership

    def check(self, membership: Membership) -> None:
        """Raises ``Refused`` where what is pinned here speaks against it."""
        for about in _pinned(membership):
            pin = self._trust.anchors().pin(about)
            if pin is not None and (pin.revoked or pin.key != membership.owner.key):
                how = "it is revoked" if pin.revoked else f"it signs with {pin.key.x}"
                raise Refused(f"{about} is pinned here, and {how}; if that is over: id untrust {about}")

    def put(self, membership: Membership, now: float) -> None:
        """Belong to the zone, or to the same one by newer documents.  Raises ``Refused`` as :meth:`check`."""
        self.check(membership)
        self._keys.device()
        with locked(self._keys.path):
            self._mend(now)
            write_atomic(self.path, membership.text())
            self._mend(now)

    def leave(self, now: float) -> None:
        """Belong to no zone; the key stays."""
        with locked(self._keys.path):
            self._mend(now)
            if self.path.exists():
                self.path.replace(self._leaving)
                _sync(self.path.parent)
            self._mend(now)

    def mend(self, now: float) -> None:
        """Bring about what a kill left undone."""
        if self._keys.path.exists():
            with locked(self._keys.path):
                self._mend(now)

    def _mend(self, now: float) -> None:
        if self._leaving.exists():
            self._forget(_read(self._leaving))
            self._leaving.unlink()
            _sync(self.path.parent)
        if (held := self.held()) is None:
            return
        self._show(held)
        anchors = self._trust.anchors()
        for about in _pinned(held):
            if anchors.pin(about) is None:
                self._trust.pin(Pin(about=about, key=held.owner.key, source=SOURCE, at=now))

    def _show(self, held: Membership) -> None:
        """Have tunnels show the machine's document, unless its key was exchanged since, or a newer one accepted."""
        document = self._keys.device_document()
        newer = document is not None and document[1].key == held.device.key and document[1].iat > held.device.iat
        if newer or held.device.key != self._keys.device().public:
            return
        if document is None or document[0].text != held.device_token.text:
            self._keys.accept(held.device_token.text)

    def _forget(self, left: Membership) -> None:
        document = self._keys.device_document()
        if document is not None and document[0].text == left.device_token.text:
            self._keys.device_jwt.unlink()
        for about in _pinned(left):
            pin = self._trust.anchors().pin(about)
            if pin is not None and pin.source == SOURCE:
                self._trust.unpin(about)


def _pinned(membership: Membership) -> tuple[Did, Did]:
    return membership.owner.id, membership.zone.id


def _read(path: Path) -> Membership:
    try:
        return read_membership(read_file(path, MOST_MEMBERSHIP))
    except BadWire as bad:
        raise ConfigFault(f"{path}: {bad}; remove it and activate this machine again") from None


def _sync(folder: Path) -> None:
    """What was renamed in ``folder`` stays so after a power cut."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
