"""The server's side of TLS from a certificate in memory.

OpenSSL as Python has it reads certificates from files only.  An anonymous file in memory is one, so that no key is
written anywhere it was not already, and a full disk stops no renewal from being used.
"""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cyfs_gateway.certs.source import ACME_TLS
from cyfs_ns.errors import BadWire

_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_DAY = datetime.timedelta(days=1)


def server_context(pem: bytes, speak: Sequence[str]) -> ssl.SSLContext:
    """TLS 1.2 and newer with this key and certificate.  Raises ``BadWire`` for what OpenSSL refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if speak:
        context.set_alpn_protocols(list(speak))
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(file, "wb", closefd=False) as memory:
            memory.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{file}", password=_no_password)
    except (OSError, ValueError) as fault:  # SSLError is an OSError
        raise BadWire(f"key and certificate cannot be used: {fault}") from None
    finally:
        os.close(file)
    return context


def proof_context(name: str, digest: bytes) -> ssl.SSLContext:
    """What an authority wants to see of ``name`` (RFC 8737 section 3); ``digest``: SHA-256 of the key authorization."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return server_context(key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM), [ACME_TLS])


def new_key() -> ec.EllipticCurvePrivateKey:
    """For a certificate or an account: P-256, which every browser and authority takes."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Unlocked, as it is kept in files of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _no_password() -> str:
    # One that is asked for would be asked on the terminal, and the house would wait for it.
    raise ValueError("the key is locked by a password")
