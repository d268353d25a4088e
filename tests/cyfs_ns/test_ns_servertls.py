"""Certificates: our own, and those that change while we serve."""

from __future__ import annotations

import datetime
import ssl
import stat
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from cyfs_ns.io.selfsigned import ensure_certificate, make_certificate
from cyfs_ns.io.servertls import ServerTls

NOW = datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC)


def test_our_own_certificate_names_what_it_should(tmp_path: Path) -> None:
    names = ["router.lan", "192.0.2.1", "2001:db8::1", "router.lan", "x" * 60 + ".example"]
    certificate = x509.load_pem_x509_certificate(make_certificate(names, NOW))
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["router.lan", names[4]]
    assert alternatives.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.1"), ip_address("2001:db8::1")]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
    certificate.verify_directly_issued_by(certificate)
    with pytest.raises(ValueError, match="name"):
        make_certificate([], NOW)


def test_it_is_made_once_and_for_our_eyes_only(tmp_path: Path) -> None:
    path = ensure_certificate(tmp_path / "new" / "tls.pem", ["a.test"])
    first = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ensure_certificate(path, ["b.test"]).read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["tls.pem"]


def _serial(context: ssl.SSLContext) -> int:
    """Of the certificate that a client is shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(down, up)
    answering = context.wrap_bio(up, down, server_side=True)
    for _ in range(3):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = asking.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = ensure_certificate(tmp_path / "tls.pem", ["a.test"])
    tls = ServerTls(path, path, ["dot"])
    first = _serial(tls.context)
    assert not tls.refresh()
    path.write_bytes(make_certificate(["b.test"], NOW))
    assert tls.refresh()
    second = _serial(tls.context)
    assert second != first
    for broken in (b"no certificate", make_certificate(["c.test"], NOW)[:400]):
        path.write_bytes(broken)
        assert not tls.refresh()
        assert _serial(tls.context) == second
    path.unlink()
    assert not tls.refresh()
    path.write_bytes(make_certificate(["d.test"], NOW))
    assert tls.refresh()


def test_key_and_certificate_that_do_not_fit_leave_the_old_pair(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    old, new = make_certificate(["a.test"], NOW), make_certificate(["b.test"], NOW)
    for path in (key, certificate):
        path.write_bytes(old)
    tls = ServerTls(certificate, key, ["h2"])
    first = _serial(tls.context)
    certificate.write_bytes(new)
    assert not tls.refresh()
    assert _serial(tls.context) == first
    key.write_bytes(new)
    assert tls.refresh()
    assert _serial(tls.context) != first


def test_a_locked_key_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = make_certificate(["a.test"], NOW)
    key = serialization.load_pem_private_key(pem, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = tmp_path / "tls.pem"
    path.write_bytes(locked + pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    with pytest.raises(ValueError, match="password"):
        ServerTls(path, path, ["dot"])
