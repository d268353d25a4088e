"""A key and its certificates in one file, so that the two always belong together.

The file is PEM: the private key, the certificate, the certificates that lead from it to the authority.  Others' files
may have the key elsewhere, so both are read the same way: all blocks of all files, in any order but for the first
certificate, which is the one the key belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from cyfs_ns import names
from cyfs_ns.errors import BadWire

MOST_BYTES = 1 << 18
_END_OF_KEY = b"PRIVATE KEY-----"
_DER, _SPKI = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One certificate that can be used.  Times are seconds since 1970."""

    names: frozenset[str]
    """Canonical; a wildcard begins with ``*.``."""
    not_before: float
    not_after: float
    issuer: str
    serial: str
    """Hexadecimal."""
    spread: float
    """0 to 1, by chance and for ever the same for one certificate: when in the window it is renewed."""
    pem: bytes = field(repr=False)
    """Key and certificates."""

    def covers(self, name: str) -> bool:
        """Whether it is for a canonical host name: exactly, or by a wildcard for one label (RFC 6125 6.4.3)."""
        return name in self.names or f"*.{name.partition('.')[2]}" in self.names


def read_bundle(*untrusted: bytes) -> Bundle:
    """What key and certificates say.  Raises ``BadWire`` for what cannot be used, which tells whose fault it is."""
    pem = b"\n".join(part.strip() for part in untrusted) + b"\n"
    if len(pem) > MOST_BYTES:
        raise BadWire(f"key and certificates of {len(pem)} bytes, at most {MOST_BYTES} are read")
    key = _key(pem)
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        told = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ours = leaf.public_key().public_bytes(_DER, _SPKI) == key.public_key().public_bytes(_DER, _SPKI)
        issuer = leaf.issuer.rfc4514_string()
        print_ = leaf.fingerprint(SHA256())
        dns_names = told.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        raise BadWire("the certificate names no host (it has no subjectAltName)") from None
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise BadWire(f"no certificate that can be read: {fault}") from None
    if not ours:
        raise BadWire("the key is not that of the (first) certificate")
    return Bundle(
        names=frozenset(filter(None, map(_name, dns_names))),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        issuer=issuer,
        serial=f"{leaf.serial_number:x}",
        spread=int.from_bytes(print_[:4], "big") / 2**32,
        pem=pem,
    )


def _key(pem: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    end = pem.rfind(_END_OF_KEY)
    begin = pem.rfind(b"-----BEGIN", 0, pem.rfind(b"-----END", 0, end) if end >= 0 else 0)
    if begin < 0:
        raise BadWire("no private key")
    try:
        key = serialization.load_pem_private_key(pem[begin : end + len(_END_OF_KEY)], password=None)
    except TypeError:
        raise BadWire(
            "the private key is locked by a password; keep it unlocked, readable by the gateway alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise BadWire(f"no private key that can be read: {fault}") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise BadWire("the private key is none of RSA, ECDSA and Ed25519")
    return key


def _name(text: str) -> str:
    """The canonical name; empty for what is none (nobody can ask for it)."""
    star = "*." if text.startswith("*.") else ""
    try:
        return star + names.name(text.removeprefix(star))
    except BadWire:
        return ""
