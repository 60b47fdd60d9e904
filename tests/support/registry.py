"""A real registry on loopback (Debian's ``docker-registry``), and a proxy before it that makes what goes wrong.

Bearer tokens are those of the distribution project's specification: signed by a key of ours, checked by the registry.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from tests.support.ports import kept_port
from tests.support.waiting import PATIENCE

USERNAME, PASSWORD = "pusher", "s3cret-of-the-registry"
HASHED = "$2y$04$abcdefghijklmnopqrstuuTF2maMdtVv8r8joBPmdX9ZGV5oqXM36"
"""The password with bcrypt, which is all that the registry takes."""


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    host: str
    folder: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def blob(self, digest: str) -> Path:
        """Return the file of a blob."""
        name = digest.removeprefix("sha256:")
        return self.folder / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def forget(self, repository: str) -> None:
        """Lose a repository, as an over-eager clean-up does."""
        shutil.rmtree(self.folder / "docker/registry/v2/repositories" / repository)


def program() -> str:
    """Return the registry, or skip."""
    found = shutil.which("docker-registry")
    if found is None:
        pytest.skip("docker-registry is not installed; scripts/test installs it where it may")
    return found


@contextlib.contextmanager
def running(folder: Path, auth: dict[str, Any] | None = None, tls: dict[str, str] | None = None) -> Iterator[Registry]:
    """Run a registry with its blobs in *folder*."""
    with kept_port() as port:
        yield from _running(f"127.0.0.1:{port}", folder, auth, tls)


def _running(host: str, folder: Path, auth: dict[str, Any] | None, tls: dict[str, str] | None) -> Iterator[Registry]:
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": host, **({"tls": tls} if tls else {})},
        **({"auth": auth} if auth else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))  # which is YAML, too
    with (folder / "log").open("wb") as log:
        command = [program(), "serve", str(folder / "config.json")]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(host, process, folder / "log")
        yield Registry(host, folder / "data")
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    name, _, port = host.partition(":")
    while True:
        connection = http.client.HTTPConnection(name, int(port), timeout=5)
        try:
            connection.connect()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()


@dataclass
class Fault:
    """What goes wrong: with the requests that *method* and *path* match, after *skip* of them, *times* times."""

    kind: str
    """``status`` (answer that), ``forget-login`` (pass on without Authorization), ``lose`` (pass on, drop the answer),
    ``cut`` (break off within the answer), ``flip`` (another byte in the answer), ``flip-sent`` (… in the request)."""
    method: str = "GET"
    path: str = ""
    times: int = 1
    skip: int = 0
    status: int = 503
    used: int = 0


@dataclass
class Proxy:
    """A proxy before a registry."""

    host: str
    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and bytes of each request."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, method: str, path: str = "") -> int:
        return sum(1 for m, p, _ in self.requests if m == method and re.search(path, p))

    @property
    def sent(self) -> int:
        """Bytes of blobs and manifests that were sent."""
        return sum(size for _, _, size in self.requests)

    def inject(self, kind: str, method: str = "GET", path: str = "", **facts: Any) -> Fault:
        self.faults.append(Fault(kind, method, path, **facts))
        return self.faults[-1]

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                    elif fault.used < fault.times:
                        fault.used += 1
                        return fault
        return None


@contextlib.contextmanager
def proxied(registry: Registry) -> Iterator[Proxy]:
    """Run a proxy before *registry*."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Relay)
    server.daemon_threads = False
    proxy = Proxy(f"127.0.0.1:{server.server_address[1]}", registry.host)
    server.proxy = proxy  # type: ignore[attr-defined] # for its handlers
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Relay(BaseHTTPRequestHandler):
    def _relay(self) -> None:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined] # set by proxied()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with proxy.lock:
            proxy.requests.append((self.command, self.path, len(body)))
        fault = proxy.fault(self.command, self.path)
        kind = fault.kind if fault else ""
        self.close_connection = True
        if fault is not None and kind == "status":
            self._answer(fault.status, [], b"")
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        if kind == "forget-login":
            headers.pop("Authorization", None)
        if kind == "flip-sent":
            body = _flipped(body)
        status, fields, data = self._ask(proxy.upstream, body, headers)
        if kind == "lose":
            return
        if kind == "flip":
            data = _flipped(data)
        self._answer(status, fields, data, len(data) // 2 if kind == "cut" else None)

    def _ask(self, host: str, body: bytes, headers: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
        name, _, port = host.partition(":")
        connection = http.client.HTTPConnection(name, int(port), timeout=60)
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, fields: list[tuple[str, str]], data: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        known = {name.lower() for name, _ in fields}
        for name, value in fields:
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if "content-length" not in known:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[:cut])

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815 - the names of http.server

    def log_message(self, *_: object) -> None: ...


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return folder / "cert.pem", folder / "key.pem"


class Tokens:
    """Gives tokens for a registry to those who know the password, as ``auth.token`` of its configuration wants."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / "tokens.pem"
        self.bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self.given: list[str] = []
        """Scopes of the tokens that were given."""

    def config(self, realm: str) -> dict[str, Any]:
        facts = {"realm": realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(self.bundle)}
        return {"token": facts}

    def make(self, scopes: list[str]) -> str:
        now = int(time.time())
        access = [
            dict(zip(("type", "name"), each.split(":")[:2], strict=True)) | {"actions": each.split(":")[2].split(",")}
            for each in scopes
        ]
        certificate = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        header = {"typ": "JWT", "alg": "ES256", "x5c": [certificate]}
        claims = {
            "iss": "tests",
            "sub": USERNAME,
            "aud": "tests",
            "jti": str(len(self.given)),
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "access": access,
        }
        text = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve tokens; yields the address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _TokenHandler)
        server.daemon_threads = False
        server.tokens = self  # type: ignore[attr-defined] # for its handlers
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/token"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _TokenHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        tokens: Tokens = self.server.tokens  # type: ignore[attr-defined] # set by serving()
        wanted = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        scopes = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("scope", [""])[0].split()
        known = self.headers.get("Authorization") == f"Basic {wanted}"
        data = json.dumps({"token": tokens.make(scopes)} if known else {"errors": [{"code": "DENIED"}]}).encode()
        tokens.given.extend(scopes if known else [])
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
