"""A cluster's certificates: each role can do its part and no other, and nobody can make more."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ropewalk.server.clusters.certificates import ROLES, ClusterCertificates, issue

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def certificates() -> ClusterCertificates:
    return issue("c-one", NOW)


def _context(
    certificates: ClusterCertificates, role: str, purpose: ssl.Purpose, folder: Path, ca: str | None = None
) -> ssl.SSLContext:
    tls = certificates.for_role(role)
    context = ssl.create_default_context(purpose, cadata=ca or tls["ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    path = folder / f"{role}.pem"
    path.write_text(tls["cert"] + tls["key"])
    context.load_cert_chain(path)
    return context


def _shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """Do a handshake and exchange a byte; raises what the client or the server raised."""
    left, right = socket.socketpair()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            with server.wrap_socket(left, server_side=True) as wrapped:
                wrapped.recv(1)
                wrapped.send(b"x")
        except OSError as exc:
            failures.append(exc)
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(right, server_hostname=name) as wrapped:
            wrapped.send(b"x")
            # In TLS 1.3 a server refuses a client's certificate only after the client's handshake is done.
            if wrapped.recv(1) != b"x":
                raise ConnectionResetError
    finally:
        right.close()
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("client", ["client", "control", "worker"])
def test_a_scheduler_and_its_peers_trust_each_other(
    certificates: ClusterCertificates, tmp_path: Path, client: str
) -> None:
    server = _context(certificates, "scheduler", ssl.Purpose.CLIENT_AUTH, tmp_path)
    peer = _context(certificates, client, ssl.Purpose.SERVER_AUTH, tmp_path)
    _shake(server, peer, "scheduler.c-one.ropewalk")


@pytest.mark.parametrize("role", ["client", "control"])
def test_a_client_certificate_cannot_pose_as_a_server(
    certificates: ClusterCertificates, tmp_path: Path, role: str
) -> None:
    server = _context(certificates, role, ssl.Purpose.CLIENT_AUTH, tmp_path)
    peer = _context(certificates, "worker", ssl.Purpose.SERVER_AUTH, tmp_path)
    with pytest.raises(OSError, match=r"purpose|certificate"):
        _shake(server, peer, f"{role}.c-one.ropewalk")


def test_a_certificate_of_one_cluster_is_useless_on_another(certificates: ClusterCertificates, tmp_path: Path) -> None:
    other = issue("c-two", NOW)
    server = _context(certificates, "scheduler", ssl.Purpose.CLIENT_AUTH, tmp_path)
    stranger = _context(other, "client", ssl.Purpose.SERVER_AUTH, tmp_path, ca=certificates.ca)
    with pytest.raises(OSError, match=r"."):
        _shake(server, stranger, "scheduler.c-one.ropewalk")


def test_a_worker_cannot_pose_as_the_scheduler_to_who_checks_the_name(
    certificates: ClusterCertificates, tmp_path: Path
) -> None:
    server = _context(certificates, "worker", ssl.Purpose.CLIENT_AUTH, tmp_path)
    control = _context(certificates, "control", ssl.Purpose.SERVER_AUTH, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _shake(server, control, "scheduler.c-one.ropewalk")


def test_the_key_of_the_authority_is_kept_nowhere(certificates: ClusterCertificates) -> None:
    assert str(certificates.dump()).count("PRIVATE KEY-----") == 2 * len(ROLES)
    authority = x509.load_pem_x509_certificate(certificates.ca.encode()).public_key()
    keys = [x509.load_pem_x509_certificate(pair.cert.encode()).public_key() for pair in certificates.pairs.values()]
    assert all(key != authority for key in keys)
    assert len({key.public_numbers() for key in keys}) == len(ROLES)  # type: ignore[union-attr] # all are EC keys


def test_certificates_tolerate_clocks_that_are_behind(certificates: ClusterCertificates) -> None:
    for pair in certificates.pairs.values():
        cert = x509.load_pem_x509_certificate(pair.cert.encode())
        assert cert.not_valid_before_utc <= NOW - timedelta(days=1)
        assert cert.not_valid_after_utc >= NOW + timedelta(days=800)


def test_the_role_is_the_common_name(certificates: ClusterCertificates) -> None:
    for role, pair in certificates.pairs.items():
        subject = x509.load_pem_x509_certificate(pair.cert.encode()).subject
        assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"ropewalk-{role}"


def test_what_is_stored_is_read_back(certificates: ClusterCertificates) -> None:
    assert ClusterCertificates.load(certificates.dump()) == certificates


def test_keys_are_not_in_the_repr(certificates: ClusterCertificates) -> None:
    assert "PRIVATE" not in repr(certificates) + repr(certificates.pairs["worker"])
