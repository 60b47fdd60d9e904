"""Behind TLS, as users reach a server: a real certificate, real sockets, and cookies as browsers judge them."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from ropewalk.server.app import create_app
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.settings import Settings
from tests.server.web.test_sign_in import PASSWORD
from tests.support.clock import FakeClock
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Nothing here depends on the database that others do not try on both."""


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate of loopback that vouches for itself; return its file and its key's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ropewalk test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return files


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: FastAPI, listener: socket.socket, cert: Path, key: Path) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, ssl_certfile=cert, ssl_keyfile=key, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve([listener]))
    await eventually(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def https(
    settings: Settings, clock: FakeClock, backends: Backends, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in front of a server that is reached by HTTPS."""
    cert, key = certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
        app = create_app(settings.model_copy(update={"public_url": url}), clock=clock, backends=backends)
        async with app.router.lifespan_context(app), served(app, listener, cert, key):
            trust = ssl.create_default_context(cafile=str(cert))
            async with httpx.AsyncClient(base_url=url, verify=trust, timeout=PATIENCE) as client:
                yield client


def flags(answer: httpx.Response, name: str) -> set[str]:
    """Return the attributes with which a cookie was set."""
    (cookie,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(f"{name}=")]
    return {part.strip().lower() for part in cookie.split(";")[1:]}


async def test_sign_in_works_and_no_cookie_leaves_https_or_this_host(
    https: httpx.AsyncClient, settings: Settings
) -> None:
    page = await https.get("/setup")
    assert flags(page, "__Host-ropewalk_form") >= {"secure", "httponly", "samesite=lax", "path=/"}
    assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
    csrf = re.findall(r'name="csrf" value="([^"]+)"', page.text)[0]
    form = {
        "csrf": csrf,
        "code": (settings.data_dir / "setup-code").read_text().strip(),
        "username": "ada",
        "password": PASSWORD,
    }
    done = await https.post("/setup", data=form)
    assert done.status_code == 303, done.text
    session = flags(done, "__Host-ropewalk_session")
    assert session >= {"secure", "httponly", "samesite=lax", "path=/"}
    assert not any(flag.startswith("domain") for flag in session), "the prefix forbids it"
    profile = await https.get("/profile")
    assert profile.status_code == 200
    csrf = re.findall(r'name="csrf" value="([^"]+)"', profile.text)[0]
    out = await https.post("/sign-out", data={"csrf": csrf})
    assert flags(out, "__Host-ropewalk_session") >= {"secure", "max-age=0"}
    assert (await https.get("/profile")).status_code == 303
