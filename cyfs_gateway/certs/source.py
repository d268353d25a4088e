"""Who ends TLS asks here for a certificate, and who answers plain HTTP for the proofs of a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

ACME_TLS: Final = "acme-tls/1"
"""The application protocol by which an authority asks for a TLS-ALPN-01 proof (RFC 8737 section 3)."""
PROOF_PATH: Final = "/.well-known/acme-challenge/"
"""RFC 8555 section 8.3."""


class CertificateSource(Protocol):
    """Answers at once; never blocks."""

    def certificate_for(self, sni: str, alpn: Sequence[str] = (), *, speak: Sequence[str] = ("http/1.1",)) -> Any:
        """The server's side of TLS (``ssl.SSLContext``) for a canonical host name and the protocols a client offers,
        ready to speak ``speak``, the best first; None: there is no certificate for it.

        A client that offers :data:`ACME_TLS` alone is an authority: it gets its proof or nothing, and wants the
        connection closed after the handshake.
        """

    def proof_for(self, host: str, path: str) -> bytes | None:
        """The body for ``GET path`` of a canonical host, if an authority waits for it there."""
