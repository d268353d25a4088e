"""The TLS a door speaks: TLS 1.2 and newer, session tickets, and a certificate that may change while we serve.

A renewed certificate is noticed by looking at its files every few seconds, which works for whatever renews it.  The new
one counts from the next connection on; while the two files do not fit together, as in mid-renewal, the old one stays.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

import trio

_LOOK = 5.0
"""Seconds between looks at the files."""

_log = logging.getLogger("cyfs.ns.tls")


class ServerTls:
    """Certificate and key from ``certificate`` and ``key`` (the same file may hold both), with ``alpn`` on offer.

    The constructor reads the files and raises ``OSError`` or ``ValueError``; later faults are logged.
    """

    def __init__(self, certificate: Path, key: Path, alpn: Sequence[str]) -> None:
        self._certificate, self._key, self._alpn = certificate, key, list(alpn)
        self._seen = self._look()
        self.context = self._load()
        """For connections that begin now."""

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        looks = [path.stat() for path in (self._certificate, self._key)]
        return tuple((look.st_mtime_ns, look.st_size, look.st_ino) for look in looks)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(self._alpn)
        # A password would be asked for on the terminal, and the house would wait for it.
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as fault:
            files = " and ".join(dict.fromkeys((str(self._certificate), str(self._key))))
            reason = f" ({fault.reason})" if fault.reason else ""
            raise ValueError(f"{files}: no certificate with its key, as PEM{reason}") from fault
        return context

    def refresh(self) -> bool:
        """Load the files again if they look different; whether they did and could be.  Blocks on the disk."""
        try:
            look = self._look()
            if look == self._seen:
                return False
            self._seen = look
            self.context = self._load()
        except (OSError, ValueError) as fault:
            _log.warning("the certificate %s stays as it was: %s", self._certificate, fault)
            return False
        _log.info("a new certificate from %s is in use", self._certificate)
        return True

    async def watch(self) -> None:
        """Keep up with the files, until cancelled."""
        while True:
            await trio.sleep(_LOOK)
            await trio.to_thread.run_sync(self.refresh)


def _no_password() -> str:
    raise ValueError("the key is locked by a password")
