"""The certificates of a running gateway: obtained, renewed, watched, and handed to whoever ends TLS.

What to do and when is decided by :mod:`cyfs_gateway.certs.upkeep`; here it is done.  The clock on the wall is looked at
anew every minute, so that neither a jump of it nor a night asleep matters.

An order goes this way, and may be cut off anywhere:

1. a new key, an order, its proofs shown and looked at.  Cut off here, nothing is lost: the next order is a new one;
2. the order and the key are *written down*, and only then is the certificate asked for.  Cut off here, the same order
   is asked again.  A full disk ends it before an authority has counted a certificate;
3. the certificate is checked, used, and written down.  If the disk is full now, it is used all the same, and written
   when there is room.

A certificate in use is never given up for a fault of its successor.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cyfs_gateway.certs.bundle import MOST_BYTES, Bundle, read_bundle
from cyfs_gateway.certs.source import ACME_TLS
from cyfs_gateway.certs.upkeep import (
    CertFault,
    Trouble,
    after,
    next_attempt,
    renewal_time,
    state_of,
    too_old_when_new,
)
from cyfs_gateway.certs.wanted import Settings, Wanted
from cyfs_gateway.io.certs.acmeclient import AcmeClient
from cyfs_gateway.io.certs.answers import Answers
from cyfs_gateway.io.certs.contexts import key_pem, new_key, server_context
from cyfs_gateway.io.certs.store import CertStore, OpenOrder
from cyfs_ns.clock import is_unset, why_unset
from cyfs_ns.errors import BadWire
from cyfs_ns.io.watch import Sign, signs_of, watch_files

LOOK: Final = 60.0
"""Seconds between looks at the clock on the wall."""

_AT_ONCE: Final = 4
_WHOLE_ORDER: Final = 600.0
_FORGET: Final = 86_400.0

_log = logging.getLogger("cyfs.certs")


@dataclass(slots=True, eq=False)
class _Held:
    """A certificate in use."""

    bundle: Bundle
    told: float | None = None
    """When the authority wants it renewed."""
    ask_at: float = 0.0
    """When to ask it that again, by the clock on the wall."""
    kept: bool = True
    contexts: dict[tuple[str, ...], ssl.SSLContext] = field(default_factory=dict)

    def context(self, speak: tuple[str, ...]) -> ssl.SSLContext:
        if (found := self.contexts.get(speak)) is None:
            found = self.contexts[speak] = server_context(self.bundle.pem, speak)
        return found


class Certificates:
    """A :class:`~cyfs_gateway.certs.source.CertificateSource`.  ``client`` is missing where nothing is ordered."""

    def __init__(
        self,
        settings: Settings,
        store: CertStore,
        client: AcmeClient | None,
        answers: Answers,
        *,
        wall: Callable[[], float] = time.time,
        die: Callable[[], float] = random.random,
    ) -> None:
        self._settings, self._store, self._client, self._answers = settings, store, client, answers
        self._wall, self._die = wall, die
        self._wanted = {wanted.label: wanted for wanted in settings.wanted}
        self._held: dict[str, _Held] = {}
        self._manual: dict[str, _Held] = {}
        self._file_faults: dict[str, str] = {}
        self._signs: dict[Path, Sign] = {}
        self._troubles: dict[str, Trouble] = {}
        self._wishes: dict[str, Wanted] = {}
        self._forced: set[str] = set()
        self._working: set[str] = set()
        self._by_name: dict[str, list[_Held]] = {}
        self._bell = trio.Event()
        self._changed = trio.Event()
        self._seats = trio.CapacityLimiter(_AT_ONCE)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them, until cancelled.  ``started()`` means that what is on disk is in use."""
        await trio.to_thread.run_sync(self._load)
        self._index()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            task_status.started()
            while True:
                self._bell = trio.Event()
                soonest = self._start_due(nursery)
                with trio.move_on_after(min(LOOK, max(0.0, soonest - self._wall()))):
                    await self._bell.wait()

    def certificate_for(
        self, sni: str, alpn: Sequence[str] = (), *, speak: Sequence[str] = ("http/1.1",)
    ) -> ssl.SSLContext | None:
        if ACME_TLS in alpn:
            return self._answers.over_tls(sni) if len(alpn) == 1 else None
        held = self._best(sni)
        self._wish(sni, held)
        return held.context(tuple(speak)) if held is not None else None

    def proof_for(self, host: str, path: str) -> bytes | None:
        return self._answers.over_http(host, path)

    async def obtained(self, name: str) -> None:
        """Wait until there is a certificate for a canonical name that is good now."""
        while (held := self._best(name)) is None or self._wall() >= held.bundle.not_after:
            await self._changed.wait()

    def renew(self, name: str = "") -> list[str]:
        """Order anew, whatever is there and whatever went wrong: of this label or name, or of all; the labels."""
        labels = [
            label
            for label, wanted in self._all_wanted().items()
            if name in ("", label) or name in wanted.names or name.replace("*", "_") == label
        ]
        self._forced.update(labels)
        self._bell.set()
        return labels

    def status(self) -> Mapping[str, Any]:
        """What the owner may want to know, for people and programs; times are seconds since 1970."""
        now = self._wall()
        listed = [self._told_of(label, wanted, now) for label, wanted in self._all_wanted().items()]
        for file, held in self._manual.items():
            listed.append({"label": file, "source": "file", **_described(held, now), "renewal": None})
        listed += [
            {"label": file, "source": "file", "names": [], **_described(None, now)}
            for file in self._file_faults.keys() - self._manual.keys()
        ]
        for told in listed:
            if told["source"] == "file" and (fault := self._file_faults.get(told["label"])) is not None:
                told["fault"] = fault
        said: dict[str, Any] = {"certificates": listed}
        if is_unset(now):
            said["waits"] = why_unset(now)
        if self._client is not None:
            said |= {"directory": self._client.directory, "account": self._client.account}
            said["issuers"] = list(self._client.issuers)
        return said

    def _told_of(self, label: str, wanted: Wanted, now: float) -> dict[str, Any]:
        held, trouble = self._held.get(label), self._troubles.get(label)
        told: dict[str, Any] = {
            "label": label,
            "source": "acme",
            "names": list(wanted.names),
            "challenge": wanted.challenge,
            **_described(held, now),
            "working": label in self._working,
        }
        if held is not None and not held.kept:
            told["fault"] = "in use, and not yet on disk"
        if trouble is not None:
            told["fault"], told["advice"], told["whose"] = trouble.said, trouble.advice, trouble.whose
            told["failures"], told["next_try"] = trouble.failures, round(trouble.next_try)
        if self._client is not None and self._client.issuers and self._client.account:
            # RFC 8657: who else has an account there can then get no certificate for these names.
            issuer = f"{self._client.issuers[0]}; accounturi={self._client.account}"
            told["caa"] = f'0 issue "{issuer}; validationmethods={wanted.challenge}"'
        return told

    def _all_wanted(self) -> dict[str, Wanted]:
        demand = self._settings.on_demand
        found = dict(self._wanted)
        if demand is not None:
            for label in (*self._held, *self._wishes, *self._troubles):
                if label not in found and demand.allows(label):
                    found[label] = Wanted(names=(label,), challenge=demand.challenge)
        return found

    def _best(self, name: str) -> _Held | None:
        candidates = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}") or ()
        now = self._wall()
        return next((held for held in candidates if now < held.bundle.not_after), next(iter(candidates), None))

    def _wish(self, name: str, held: _Held | None) -> None:
        """Remember that ``name`` was asked for, if it is of those that get their certificate only then."""
        demand = self._settings.on_demand
        if demand is None or name in self._wishes or (held is not None and name not in self._held):
            return
        if held is not None and self._wall() < renewal_time(held.bundle, held.told):
            return
        if not demand.allows(name) or name in self._wanted or not self._may_wish(name):
            return
        known = self._all_wanted().keys() - self._wanted.keys()
        if name not in known and len(known) >= demand.most:
            return
        self._wishes[name] = Wanted(names=(name,), challenge=demand.challenge)
        self._bell.set()

    def _may_wish(self, name: str) -> bool:
        """Whether ``name`` did not fail just now; what failed long ago makes room for others."""
        now = self._wall()
        for label, trouble in list(self._troubles.items()):
            if label not in self._wanted and trouble.next_try + _FORGET < now:
                del self._troubles[label]
        own = self._troubles.get(name)
        return own is None or own.next_try <= now

    def _load(self) -> None:
        demand = self._settings.on_demand
        try:
            kept = self._store.labels()
            for label in kept:
                if label in self._wanted or (demand is not None and demand.allows(label)):
                    bundle = self._store.bundle(label)
                    if bundle is not None and self._fits(label, bundle):
                        self._held[label] = _Held(bundle)
            self._troubles = self._store.troubles()
        except CertFault as fault:
            _log.error("certificates on disk cannot be read: %s", fault)
        self._signs = signs_of(self._place(file) for pair in self._settings.files for file in pair)
        for certificate, key in self._settings.files:
            self._take_manual(certificate, self._read_manual(certificate, key))

    def _fits(self, label: str, bundle: Bundle) -> bool:
        wanted = self._wanted.get(label)
        try:
            server_context(bundle.pem, ())
        except BadWire as fault:
            _log.warning("the certificate %s is passed over: %s", label, fault)
            return False
        return bundle.names >= (set(wanted.names) if wanted is not None else {label})

    def _read_manual(self, certificate: str, key: str) -> _Held | str:
        """The certificate, or what is wrong with it.  Blocks on the disk."""
        try:
            parts = []
            for file in dict.fromkeys((certificate, key)):
                with self._place(file).open("rb") as opened:
                    parts.append(opened.read(MOST_BYTES))
            bundle = read_bundle(*parts)
            server_context(bundle.pem, ())
        except (OSError, BadWire) as fault:
            return str(fault)
        return _Held(bundle)

    def _take_manual(self, certificate: str, found: _Held | str) -> None:
        if isinstance(found, _Held):
            self._manual[certificate] = found
            self._file_faults.pop(certificate, None)
        else:
            # Renewals replace one file after the other: what was read before is good until both fit.
            self._file_faults[certificate] = found
            _log.warning("the certificate %s: %s", certificate, found)

    def _place(self, file: str) -> Path:
        return self._store.path.parent / file

    async def _watch(self) -> None:
        files = {self._place(file): pair for pair in self._settings.files for file in pair}
        if not files:
            return

        async def changed(paths: Iterable[Path]) -> None:
            for certificate, key in {files[path] for path in paths}:
                self._take_manual(certificate, await trio.to_thread.run_sync(self._read_manual, certificate, key))
                self._index()

        await watch_files(files, changed, since=self._signs)

    def _index(self) -> None:
        """Manual ones first, then those that are good for longest."""
        found: dict[str, list[_Held]] = {}
        ordered = sorted(self._held.values(), key=lambda held: -held.bundle.not_after)
        for held in (*self._manual.values(), *ordered):
            for name in held.bundle.names:
                found.setdefault(name, []).append(held)
        self._by_name = found
        self._changed.set()
        self._changed = trio.Event()

    def _start_due(self, nursery: trio.Nursery) -> float:
        """Begin what is due; when there is something next, by the clock on the wall."""
        now = self._wall()
        if is_unset(now) or self._client is None:
            return now + LOOK
        soonest = now + LOOK
        for label, wanted in self._all_wanted().items():
            if label in self._working:
                continue
            held, trouble = self._held.get(label), self._troubles.get(label)
            good = held is not None and state_of(held.bundle, now, held.told) == "good"
            if good and trouble is not None and trouble.whose == "clock":
                del self._troubles[label]  # the clock has been set
            on_demand = label not in self._wanted and label not in self._wishes
            at = next_attempt(
                held.bundle if held is not None else None,
                self._troubles.get(label),
                now,
                held.told if held is not None else None,
            )
            if label in self._forced or (at <= now and not on_demand):
                self._working.add(label)
                nursery.start_soon(self._attempt, wanted)
            elif held is not None and (held.ask_at <= now or not held.kept):
                self._working.add(label)
                nursery.start_soon(self._tend, label, held)
            elif not on_demand:
                soonest = min(soonest, at)
        return soonest

    async def _attempt(self, wanted: Wanted) -> None:
        label = wanted.label
        try:
            async with self._seats:
                self._forced.discard(label)
                try:
                    with trio.fail_after(_WHOLE_ORDER):
                        await self._obtain(wanted)
                except trio.TooSlowError:
                    raise CertFault("authority", "the order took too long") from None
            self._troubles.pop(label, None)
            self._wishes.pop(label, None)
        except CertFault as fault:
            trouble = after(fault, self._troubles.get(label), self._wall(), self._die())
            self._troubles[label] = trouble
            self._wishes.pop(label, None)
            _log.warning("no certificate for %s: %s (%s)", label, fault, fault.advice)
        finally:
            self._working.discard(label)
            self._bell.set()
        with suppress(CertFault):  # a full disk costs the memory of it
            remembered = self._all_wanted().keys()
            self._troubles = {label: trouble for label, trouble in self._troubles.items() if label in remembered}
            await trio.to_thread.run_sync(self._store.keep_troubles, dict(self._troubles))

    async def _obtain(self, wanted: Wanted) -> None:
        client, label = self._client, wanted.label
        assert client is not None
        order = await trio.to_thread.run_sync(self._store.order, label)
        pem = None
        if order is not None and (order.directory, order.names) == (client.directory, wanted.names):
            pem = await self._resumed(label, order)
        if pem is None:
            self._answers.check(wanted.challenge, wanted.names)
            key = new_key()
            csr = _request(key, wanted.names)
            opened = await client.order(wanted.names, csr, wanted.challenge)
            async with self._answers.shown(wanted.challenge, opened.asks):
                await client.prove(opened)
            order = OpenOrder(
                directory=client.directory,
                names=wanted.names,
                uri=opened.uri,
                finalize=opened.finalize,
                key=key_pem(key).decode(),
            )
            await trio.to_thread.run_sync(self._store.keep_order, label, order)
            pem = order.key.encode() + await client.fetch(order, csr)
        await self._take(label, wanted, pem)

    async def _resumed(self, label: str, order: OpenOrder) -> bytes | None:
        """The certificate of an order that was cut off, if it can still be had."""
        assert self._client is not None
        try:
            key = serialization.load_pem_private_key(order.key.encode(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("its key is of another kind")
            pem = order.key.encode() + await self._client.fetch(order, _request(key, order.names))
        except (CertFault, ValueError) as fault:
            if isinstance(fault, CertFault) and fault.whose in ("network", "limit", "disk"):
                raise
            _log.info("the order for %s that was cut off leads nowhere: %s", label, fault)
            await trio.to_thread.run_sync(self._store.forget_order, label)
            return None
        _log.info("the order for %s that was cut off has been finished", label)
        return pem

    async def _take(self, label: str, wanted: Wanted, pem: bytes) -> None:
        """Use a certificate that was just given, and keep it."""
        try:
            bundle = read_bundle(pem)
            server_context(bundle.pem, ())
        except BadWire as fault:
            await trio.to_thread.run_sync(self._store.forget_order, label)
            raise CertFault("authority", f"what it gave cannot be used: {fault}") from fault
        if missing := set(wanted.names) - bundle.names:
            await trio.to_thread.run_sync(self._store.forget_order, label)
            raise CertFault("authority", f"it gave a certificate without {', '.join(sorted(missing))}")
        held = self._held[label] = _Held(bundle, kept=False)
        self._index()
        _log.info("a new certificate for %s is in use", label)
        await self._keep(label, held)
        if (old := too_old_when_new(bundle, self._wall())) is not None:
            raise old

    async def _keep(self, label: str, held: _Held) -> None:
        await trio.to_thread.run_sync(self._store.keep, label, held.bundle)
        held.kept = True

    async def _tend(self, label: str, held: _Held) -> None:
        """Small duties to a certificate in use: have it on disk, ask when it should be renewed."""
        try:
            if not held.kept:
                with suppress(CertFault):
                    await self._keep(label, held)
                    self._troubles.pop(label, None)
            if self._client is not None and held.ask_at <= (now := self._wall()):
                held.ask_at = now + 6 * 3600.0
                with suppress(CertFault):
                    held.told, wait = await self._client.renewal(_chain(held.bundle.pem))
                    held.ask_at = now + wait
        finally:
            self._working.discard(label)
            if held.kept:
                self._bell.set()


def _described(held: _Held | None, now: float) -> dict[str, Any]:
    if held is None:
        return {"state": "missing"}
    bundle = held.bundle
    return {
        "state": state_of(bundle, now, held.told),
        "names": sorted(bundle.names),
        "issuer": bundle.issuer,
        "serial": bundle.serial,
        "not_before": round(bundle.not_before),
        "not_after": round(bundle.not_after),
        "renewal": round(renewal_time(bundle, held.told)),
    }


def _request(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> bytes:
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def _chain(pem: bytes) -> bytes:
    return pem[pem.index(b"-----BEGIN CERTIFICATE") :]
