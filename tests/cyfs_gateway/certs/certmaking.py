"""Certificates for tests, with the times a test wants."""

from __future__ import annotations

from datetime import UTC, datetime

import trustme

from cyfs_gateway.certs.bundle import Bundle, read_bundle

DAY = 86_400.0


def parts(*names: str, ca: trustme.CA | None = None, until: float = 0.0, key: str = "ECDSA") -> tuple[bytes, bytes]:
    """Certificates and key, as PEM."""
    made = (ca or trustme.CA()).issue_cert(
        *names,
        key_type=trustme.KeyType[key],
        **({"not_after": datetime.fromtimestamp(until, UTC)} if until else {}),
    )
    return b"".join(each.bytes() for each in made.cert_chain_pems), made.private_key_pem.bytes()


def bundle(since: float, until: float, *, spread: float = 0.5) -> Bundle:
    """One that says these times."""
    certificate, key = parts("me.example")
    read = read_bundle(key, certificate)
    return Bundle(
        names=read.names,
        not_before=since,
        not_after=until,
        issuer=read.issuer,
        serial=read.serial,
        spread=spread,
        pem=read.pem,
    )
