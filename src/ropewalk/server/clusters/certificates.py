"""A certificate authority per cluster, used once.

Its private key signs four certificates and is dropped: nobody, the control plane included, can make another one for
that cluster afterwards. Each role has its own key, and a client's certificate cannot pose as a server:

=============  ======================  =====================================
role           extended key usage      held by
=============  ======================  =====================================
``scheduler``  server, client          the scheduler
``worker``     server, client          the workers
``client``     client                  people, by ``GET …/connection``
``control``    client                  the control plane
=============  ======================  =====================================
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=825)
"""The longest that common TLS stacks accept of a server certificate; clusters live far shorter."""

BACKDATE = timedelta(hours=25)
"""Nodes' clocks may be behind ours; a day covers a wrong time zone, too."""

ROLES = ("scheduler", "worker", "client", "control")

_SERVER_AND_CLIENT = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """A certificate and its private key, PEM."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True, repr=False)
class ClusterCertificates:
    """The authority's certificate and a pair for each role."""

    ca: str
    pairs: dict[str, Pair]

    def for_role(self, role: str) -> dict[str, str]:
        """Return ``ca``, ``cert`` and ``key`` as PEM texts."""
        pair = self.pairs[role]
        return {"ca": self.ca, "cert": pair.cert, "key": pair.key}

    def dump(self) -> dict[str, object]:
        """Return plain values for storage; encrypt them."""
        return {"ca": self.ca, "pairs": {role: [pair.cert, pair.key] for role, pair in self.pairs.items()}}

    @classmethod
    def load(cls, stored: dict[str, object]) -> ClusterCertificates:
        """Read what :meth:`dump` returned."""
        pairs = stored["pairs"]
        if not isinstance(pairs, dict):
            raise TypeError("stored certificates have another form")
        return cls(str(stored["ca"]), {role: Pair(cert, key) for role, (cert, key) in pairs.items()})


def server_name(cluster_id: str, role: str = "scheduler") -> str:
    """Return the name in a certificate of a cluster: the gateway routes by it, and clients that check names find it."""
    return f"{role}.{cluster_id}.ropewalk"


def issue(cluster_id: str, now: datetime) -> ClusterCertificates:
    """Make an authority for one cluster, issue a certificate per role, and forget the authority's key."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name(f"ropewalk {cluster_id}")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pairs = {role: _issue_role(role, cluster_id, ca_name, ca_key, now) for role in ROLES}
    return ClusterCertificates(_pem(ca), pairs)


def _issue_role(
    role: str, cluster_id: str, ca_name: x509.Name, ca_key: ec.EllipticCurvePrivateKey, now: datetime
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _SERVER_AND_CLIENT if role in ("scheduler", "worker") else [ExtendedKeyUsageOID.CLIENT_AUTH]
    cert = (
        _builder(_name(f"ropewalk-{role}"), ca_name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(cluster_id, role))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Pair(_pem(cert), private)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LIFETIME)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(Encoding.PEM).decode()
