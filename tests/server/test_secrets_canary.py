"""Secrets are put everywhere, and then looked for everywhere: in every table, every log line, every answer."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.engine import make_url

from ropewalk.backends.memory import MemoryBackend
from ropewalk.server.app import create_app
from ropewalk.server.cloud_accounts import service, stored
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.context import Context
from ropewalk.server.db.models import Base, CloudAccount
from ropewalk.server.identity.access import hash_token
from ropewalk.server.logs import configure_logs
from ropewalk.server.settings import Settings
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

PASSWORD = "canary-password-tweet"
NEW_PASSWORD = "canary-new-password-chirp"
WRONG_PASSWORD = "canary-wrong-password-peep"
ENVIRON = "canary-environ-trill"
CREDENTIAL = "canary-credential-warble"
AWS_SECRET = "canary/aws/secret/of/a/team".ljust(40, "x")
INDEX_USER = "canary-index-user-coo"
INDEX_SECRET = "canary-index-password-caw"
KUBE_TOKEN = "canary-kubernetes-token-hoot"


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """Everything that the server would log at its most talkative."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logs("debug", "json", stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


class Recorder:
    """Keeps every answer, by the path that it answered."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str]] = []

    async def __call__(self, response: httpx.Response) -> None:
        await response.aread()
        path = f"{response.request.method} {response.request.url.path}"
        self.answers.append((path, f"{response.status_code} {response.headers!r} {response.text}"))

    def places(self, secret: str) -> set[str]:
        return {path for path, answer in self.answers if secret in answer}


@pytest.fixture
async def app(settings: Settings, clock: FakeClock, logs: io.StringIO) -> AsyncIterator[FastAPI]:
    elsewhere = MemoryBackend()
    factories = dict.fromkeys(("aws", "kubernetes"), lambda _plan: elsewhere)
    made = create_app(settings, clock=clock, backends=Backends({"local": MemoryBackend()}, factories))
    async with made.router.lifespan_context(made):
        yield made


async def dump(context: Context) -> str:
    """Return everything that the database holds; binary columns as what they would be if they were text."""
    parts = []
    async with context.db.read() as session:
        for table in Base.metadata.sorted_tables:
            for row in (await session.execute(text(f"SELECT * FROM {table.name}"))).all():
                values = [v.decode("latin-1") if isinstance(v, bytes) else repr(v) for v in row]
                parts.append(f"{table.name}: {values}")
    url = make_url(context.settings.database_url)
    if context.db.is_sqlite:
        # What was deleted or overwritten is in the files, too.
        files = Path(str(url.database)).parent.glob(f"{Path(str(url.database)).name}*")
        parts += [file.read_bytes().decode("latin-1") for file in files]
    return "\n".join(parts)


def forms(secret: str) -> list[str]:
    """Return what a secret looks like when somebody encoded it on the way."""
    raw = secret.encode()
    return [secret, base64.b64encode(raw).decode().rstrip("=")[:-1], raw.hex()]


async def sign_in(client: httpx.AsyncClient, password: str) -> httpx.Response:
    page = await client.get("/sign-in")
    csrf = re.findall(r'name="csrf" value="([^"]*)"', page.text)[0]
    return await client.post("/sign-in", data={"username": "ada", "password": password, "csrf": csrf})


class Story:
    """Does all that involves secrets, and notes each with the only places whose answers may hold it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.recorder = Recorder()
        self.secrets: dict[str, set[str]] = {
            secret: set()
            for secret in (
                *(PASSWORD, NEW_PASSWORD, WRONG_PASSWORD, ENVIRON, CREDENTIAL, AWS_SECRET, KUBE_TOKEN),
                *(INDEX_USER, INDEX_SECRET),
            )
        }

    async def client(self, token: str | None = None) -> httpx.AsyncClient:
        made = await self.api.connect(token)
        made.event_hooks["response"].append(self.recorder)
        return made

    async def post(self, who: httpx.AsyncClient, path: str, status: int, **wish: Any) -> Any:
        response = await who.post(f"/api/v1{path}", json=wish)
        assert response.status_code == status, response.text
        return response.json()

    async def give(self, who: httpx.AsyncClient, path: str, status: int, **wish: Any) -> httpx.AsyncClient:
        """Let *path* give a token and return a client with it."""
        token = (await self.post(who, path, status, **wish))["token"]
        self.secrets[token] = {f"POST /api/v1{path}"}
        return await self.client(token)

    async def passwords(self) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        """Use passwords: right, wrong, misplaced, malformed; return an operator's and a user's client."""
        anyone = await self.client()
        code = (self.api.context.settings.data_dir / "setup-code").read_text().strip()
        self.secrets[code] = set()
        root = await self.give(anyone, "/setup", 201, code=code, username="root", password=PASSWORD)
        await self.post(root, "/users", 201, username="ada", password=PASSWORD)
        await self.post(anyone, "/login", 401, username="ada", password=WRONG_PASSWORD)
        await self.post(anyone, "/login", 401, username=WRONG_PASSWORD, password=WRONG_PASSWORD)
        await self.post(anyone, "/login", 422, username=7, password=WRONG_PASSWORD)
        await self.post(root, "/users", 422, username="eve", password=[WRONG_PASSWORD])
        await self.post(root, "/users", 422, username="Eve", password=WRONG_PASSWORD, extra=1)
        await self.post(anyone, "/setup", 409, code=WRONG_PASSWORD, username="eve", password=WRONG_PASSWORD)
        ada = await self.give(anyone, "/login", 200, username="ada", password=PASSWORD)
        change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
        assert (await ada.patch("/api/v1/users/ada", json=change)).status_code == 200
        return root, ada

    async def tokens(self, ada: httpx.AsyncClient) -> None:
        """Use tokens that are new, revoked and unknown."""
        laptop = await self.give(ada, "/tokens", 201, name="laptop")
        assert (await laptop.get("/api/v1/tokens")).status_code == 200
        await laptop.delete("/api/v1/tokens/laptop")
        assert (await laptop.get("/api/v1/me")).status_code == 401
        unknown = "rwt_canary-unknown-token-cheep"
        self.secrets[unknown] = set()
        assert (await (await self.client(unknown)).get("/api/v1/me")).status_code == 401

    async def device(self) -> None:
        """Log a terminal in by the page."""
        anyone, browser = await self.client(), await self.client()
        login = await self.post(anyone, "/device", 200, client_name="terminal")
        self.secrets[login["device_code"]] = {"POST /api/v1/device"}
        self.secrets[login["user_code"]] = {"POST /api/v1/device", "GET /device"}
        assert (await sign_in(browser, WRONG_PASSWORD)).status_code == 401
        assert (await sign_in(browser, NEW_PASSWORD)).status_code == 303
        self.secrets[browser.cookies["ropewalk_session"]] = {"POST /sign-in"}
        page = await browser.get("/device", params={"user_code": login["user_code"]})
        csrf = re.findall(r'name="csrf" value="([^"]*)"', page.text)[0]
        self.secrets[csrf] = {"GET /device"}  # another one in each page
        fields = {"csrf": csrf, "user_code": login["user_code"], "decision": "approve"}
        assert "Approved" in (await browser.post("/device", data=fields)).text
        claimed = await self.post(anyone, "/device/token", 200, device_code=login["device_code"])
        self.secrets[claimed["token"]["token"]] = {"POST /api/v1/device/token"}

    async def invitations(self, root: httpx.AsyncClient) -> None:
        """Invite somebody, who comes by the page. Its address has the secret in it, which no log may have."""
        path = "/accounts/physics/invitations"
        await self.post(root, "/accounts", 201, slug="physics")
        made = await self.post(root, path, 201)
        secret = made["url"].rpartition("/")[2]
        self.secrets[secret] = {f"POST /api/v1{path}", f"GET /join/{secret}"}
        browser = await self.client()
        assert (await browser.get(f"/join/{secret}")).status_code == 200
        await self.give(browser, "/invitations/join", 201, token=secret, username="marie", password=PASSWORD)
        assert (await browser.get(f"/join/{secret}")).status_code == 404

    async def clusters(self, ada: httpx.AsyncClient) -> None:
        """Store credentials of a cloud account, environment variables and keys of a cluster."""
        context = self.api.context
        async with context.db.transaction() as session:
            row = await session.get_one(CloudAccount, service.HOSTED_ID)
            stored.set_credentials(context.vault, row, {"secret": CREDENTIAL}, context.clock.now())
        path, environ = "/accounts/ada/clusters", {"SECRET": ENVIRON}
        await self.post(ada, path, 201, name="etl", n_workers=1, environ=environ)
        await self.post(ada, path, 422, name="bad", n_workers=-1, environ=environ)
        await self.post(ada, path, 422, name="bad", environ={"SEC RET": ENVIRON})
        spec = {"spec": {"environ": environ}}
        assert (await ada.put("/api/v1/accounts/ada/configurations/x", json=spec)).status_code == 422

        async def connection() -> Any:
            response = await ada.get(f"/api/v1{path}/etl/connection")
            return response.json() if response.status_code == 200 else None

        key = (await eventually(connection))["key"].splitlines()[1]
        self.secrets[key] = {f"GET /api/v1{path}/etl/connection"}

    async def cloud_accounts(self, ada: httpx.AsyncClient) -> None:
        """Give credentials that are right, wrong, misplaced and malformed; prepare, and look at everything."""
        path = "/api/v1/accounts/ada/cloud-account"
        key = {"access_key_id": "AKIA0000000000000000", "secret_access_key": AWS_SECRET}
        kubeconfig = (
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}], clusters: "
            f"[{{name: c, cluster: {{server: 'https://k'}}}}], users: [{{name: u, user: {{token: {KUBE_TOKEN}}}}}]}}"
        )
        wishes: list[tuple[int, dict[str, Any]]] = [
            (422, {"kind": "aws", "credentials": key | {"access_key_id": AWS_SECRET}}),
            (422, {"kind": "aws", "credentials": key, "session_token": AWS_SECRET}),
            (422, {"kind": "aws", "credentials": [AWS_SECRET]}),
            (422, {"kind": "kubernetes", "kubeconfig": kubeconfig.replace("{token:", "{exec:")}),
            (422, {"kind": "kubernetes", "kubeconfig": {"token": KUBE_TOKEN}}),
            (422, {"kind": "kubernetes", "kubeconfig": f"{KUBE_TOKEN}: ["}),
            (200, {"kind": "kubernetes", "kubeconfig": kubeconfig}),
            (200, {"kind": "aws", "credentials": key}),
        ]
        for status, wish in wishes:
            answer = await ada.put(path, json=wish)
            assert answer.status_code == status, answer.text
        assert (await ada.post(f"{path}/prepare", json={})).status_code == 200

        async def prepared() -> bool:
            return bool((await ada.get(path)).json()["state"] == "ready")

        await eventually(prepared)
        assert (await ada.post(f"{path}/check")).status_code == 200
        assert (await ada.get(f"{path}/prepare")).status_code == 200
        assert (await ada.get(f"{path}/events")).status_code == 200
        assert (await ada.delete(f"{path}?force=true")).status_code == 200

    async def index_credentials(self, ada: httpx.AsyncClient) -> None:
        """Store credentials of a package index: right, misplaced, and in the address of a specification."""
        path = "/api/v1/accounts/ada/index-credentials"
        given = {"url": "https://index.example.org/simple", "username": INDEX_USER, "password": INDEX_SECRET}
        assert (await ada.put(f"{path}/ours", json=given)).status_code == 200
        assert (await ada.put(f"{path}/ours", json={**given, "password": [INDEX_SECRET]})).status_code == 422
        assert (await ada.put(f"{path}/ours", json={**given, "url": f"https://a:{INDEX_SECRET}@b"})).status_code == 422
        assert (await ada.get(path)).json()[0]["name"] == "ours"
        for spec in (
            {"pip": ["dask"], "extra_index_urls": [f"https://{INDEX_USER}:{INDEX_SECRET}@example.org/simple"]},
            {"pip": [f"mine @ https://{INDEX_USER}:{INDEX_SECRET}@example.org/mine.whl"]},
        ):
            await self.post(ada, "/accounts/ada/environments", 422, name="bad", spec=spec)

    async def read_everything(self, root: httpx.AsyncClient, ada: httpx.AsyncClient) -> None:
        anyone = await self.client()
        for path in ("me", "tokens", "accounts", "clusters?state=all", "accounts/ada/cloud-account"):
            assert (await ada.get(f"/api/v1/{path}")).status_code == 200
        for path in ("clusters/etl", "clusters/etl/events", "clusters/etl/logs", "clusters/etl/cost", "configurations"):
            assert (await ada.get(f"/api/v1/accounts/ada/{path}")).status_code == 200, path
        for path in ("audit?limit=1000", "users", "hosted"):
            assert (await root.get(f"/api/v1/{path}")).status_code == 200
        for path in ("/metrics", "/healthz", "/readyz", "/api/v1/openapi.json"):
            assert (await anyone.get(path)).status_code == 200


async def test_secrets_are_nowhere_but_in_the_one_answer_that_gives_them(api: Api, logs: io.StringIO) -> None:
    story = Story(api)
    root, ada = await story.passwords()
    await story.tokens(ada)
    await story.device()
    await story.invitations(root)
    await story.clusters(ada)
    await story.cloud_accounts(ada)
    await story.index_credentials(ada)
    await story.read_everything(root, ada)
    await ada.delete("/api/v1/accounts/ada/clusters/etl")
    stored, logged = await dump(api.context), logs.getvalue()
    # What must be found is found, so what is not found is not there.
    assert hash_token(str(ada.headers["Authorization"]).removeprefix("Bearer ")) in stored
    assert "/api/v1/login" in logged
    for secret, allowed in story.secrets.items():
        assert len(secret) >= 8
        for form in forms(secret):
            assert form not in stored, f"{form} is in the database"
            assert form not in logged, f"{form} is in a log: {[x for x in logged.splitlines() if form in x]}"
        assert story.recorder.places(secret) == allowed, secret


async def test_an_error_of_the_database_is_logged_without_the_values_of_its_statement(
    api: Api, logs: io.StringIO
) -> None:
    """SQLAlchemy puts them into its messages unless it is told not to."""
    ada = await api.person("ada")
    engine = api.context.db.engine
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE tokens RENAME COLUMN name TO renamed"))
    answer = await ada.client.post("/api/v1/tokens", json={"name": "canary-name-tweet"})
    assert answer.status_code in {500, 503}
    assert "canary-name-tweet" not in answer.text
    assert "tokens" in logs.getvalue()
    assert ada.token not in logs.getvalue()
    assert "canary-name-tweet" not in logs.getvalue()
