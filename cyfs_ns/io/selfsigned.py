"""A certificate of our own, made on the first start, for whoever has not been given one by an authority.

Clients must be told to trust it, or not to check.  It names the host names and addresses given, is an end entity and
no authority (so trusting it trusts nothing else), and is kept: the same certificate after every restart.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cyfs_ns.clock import SET_SINCE
from cyfs_ns.io.atomic import write_atomic

_LIFE = datetime.timedelta(days=3650)
_BEFORE = datetime.timedelta(days=365)
"""Clients' clocks may be behind."""


def ensure_certificate(path: Path, names: Sequence[str]) -> Path:
    """``path`` as a file that holds key and certificate for ``names`` (host names and addresses); made if missing.

    One file, mode 0600, written atomically, so that key and certificate always belong together.  Raises ``OSError``.
    Blocks on the disk.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, make_certificate(names, _now()))
    return path


def memory_certificate(names: Sequence[str]) -> Path:
    """The same in memory, for as long as this process lives: the path leads to a descriptor that stays open.

    Raises ``OSError``.
    """
    file = os.memfd_create("certificate")
    with open(file, "wb", closefd=False) as out:
        out.write(make_certificate(names, _now()))
    return Path(f"/proc/self/fd/{file}")


def _now() -> datetime.datetime:
    """Not before the clock could have been set, for at the very first start it may not be yet."""
    return max(datetime.datetime.now(datetime.UTC), datetime.datetime.fromtimestamp(SET_SINCE, datetime.UTC))


def make_certificate(names: Sequence[str], now: datetime.datetime) -> bytes:
    """A fresh P-256 key and its certificate, as PEM.  ``ValueError`` when nothing is named."""
    alternatives = [_general_name(name) for name in dict.fromkeys(names)]
    if not alternatives:
        raise ValueError("a certificate needs a name")
    key = ec.generate_private_key(ec.SECP256R1())
    # Common names end at 64 characters; the names that count are the alternatives.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
