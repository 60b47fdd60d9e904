"""Certificates and keys of a control plane on loopback."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Pki:
    """Made once in *home*: an authority, a server's pair, and the pair that signs service account tokens."""

    def __init__(self, home: Path) -> None:
        self._home = home / "pki"
        self._home.mkdir(0o700)
        authority_key, key, signing = (rsa.generate_private_key(65537, 2048) for _ in range(3))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-bed")])
        authority = _builder(name, name, authority_key.public_key())
        authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = authority.sign(authority_key, hashes.SHA256())
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-bed-server")])
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        server = _builder(own, name, key.public_key())
        server = server.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        self._write("ca.crt", self.certificate.public_bytes(serialization.Encoding.PEM))
        self._write("server.crt", server.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self._write("server.key", _private(key))
        self._write("sa.key", _private(signing))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        self._write("sa.pub", signing.public_key().public_bytes(serialization.Encoding.PEM, spki))
        self._authority_key, self._name = authority_key, name

    def path(self, name: str) -> Path:
        return self._home / name

    def client(self, user: str, group: str) -> tuple[str, str]:
        """Return certificate and key of a user, as PEM."""
        key = rsa.generate_private_key(65537, 2048)
        parts = [(NameOID.ORGANIZATION_NAME, group), (NameOID.COMMON_NAME, user)]
        subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
        use = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(subject, self._name, key.public_key()).add_extension(use, critical=False)
        signed = builder.sign(self._authority_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode(), _private(key).decode()

    def _write(self, name: str, content: bytes) -> None:
        path = self._home / name
        path.touch(0o600)
        path.write_bytes(content)


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _DAY).not_valid_after(now + 30 * _DAY)


def _private(key: rsa.RSAPrivateKey) -> bytes:
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
