"""A web server with pages, for all the end-to-end tests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from e2e_house import Nginx, websocket_echo


@pytest.fixture(scope="session")
def certificate() -> trustme.LeafCert:
    return trustme.CA().issue_cert("plain.test", "secure.test")


@pytest.fixture(scope="session")
def key_pin(certificate: trustme.LeafCert) -> str:
    """By this flag Chromium takes the key of our web server, and no other that it does not know."""
    key = load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificate: trustme.LeafCert) -> Iterator[Nginx]:
    home: Path = tmp_path_factory.mktemp("nginx")
    with websocket_echo() as ws:
        server = Nginx(home, ws)
        server.trust(certificate)
        with server.run():
            yield server
