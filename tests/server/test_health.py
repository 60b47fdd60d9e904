from __future__ import annotations

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from ropewalk.server.app import create_app
from ropewalk.server.settings import Settings
from tests.support.api import Api

TOKEN = "metrics-token-of-the-operator"


async def test_a_started_server_is_alive_and_ready(api: Api) -> None:
    assert (await api.client.get("/healthz")).json()["status"] == "ok"
    response = await api.client.get("/readyz")
    assert response.status_code == 200
    parts = dict.fromkeys(("database", "reconciler", "cloud accounts", "software environments", "server"), "ok")
    assert response.json() == {"status": "ready", "parts": parts}


async def test_a_stopped_reconciler_makes_it_not_ready(api: Api, app: FastAPI) -> None:
    await app.state.reconciler.stop()
    response = await api.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["parts"]["reconciler"] == "is not running"
    assert response.headers["Retry-After"]
    assert (await api.client.get("/healthz")).status_code == 200


async def test_a_server_that_builds_nothing_is_not_ready(api: Api, app: FastAPI) -> None:
    await app.state.environments.stop()
    response = await api.client.get("/readyz")
    assert response.status_code == 503
    wrong = {name: found for name, found in response.json()["parts"].items() if found != "ok"}
    assert wrong == {"software environments": "are not built"}


async def test_a_stopping_server_is_not_ready(api: Api) -> None:
    api.context.stopping.set()
    assert (await api.client.get("/readyz")).json()["parts"]["server"] == "is stopping"


async def test_a_database_that_was_migrated_by_another_version_makes_it_not_ready(api: Api) -> None:
    async with api.context.db.transaction() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    response = await api.client.get("/readyz")
    assert response.status_code == 503
    assert "ffff" in response.json()["parts"]["database"]


async def test_a_database_that_is_gone_makes_it_not_ready_and_requests_unavailable(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await api.person()

    async def refused(*_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("sqlalchemy.ext.asyncio.AsyncSession.connection", refused)
    response = await api.client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (503, "not ready")
    assert "cannot be used" in response.json()["parts"]["database"]
    response = await ada.client.get("/api/v1/me")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "unavailable"
    assert "Connection refused" in response.json()["error"]["message"]
    assert response.headers["Retry-After"] == "2"
    assert (await api.client.get("/healthz")).status_code == 200


async def test_metrics_are_for_this_machine(api: Api) -> None:
    response = await api.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    assert 'ropewalk_build_info{version="' in response.text
    await api.client.get("/healthz")
    again = (await api.client.get("/metrics")).text
    assert 'ropewalk_http_requests_total{method="GET",route="/healthz",status="200"}' in again


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "testclient"])
async def test_metrics_are_closed_to_other_machines(api: Api, address: str) -> None:
    client = await api.connect(address=address)
    response = await client.get("/metrics")
    assert (response.status_code, response.json()["error"]["code"]) == (401, "not_authenticated")


async def test_the_metrics_token_opens_them_and_nothing_else_does(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"metrics_token": SecretStr(TOKEN)}))
    async with app.router.lifespan_context(app), Api(app, address="192.0.2.1") as api:
        ada = await api.operator("ada")
        for header, status in (
            (f"Bearer {TOKEN}", 200),
            (f"bearer {TOKEN}", 200),
            (f"Bearer {TOKEN}x", 401),
            (f"Basic {TOKEN}", 401),
            ("Bearer ", 401),
            (f"Bearer {ada.token}", 401),
        ):
            response = await api.client.get("/metrics", headers={"Authorization": header})
            assert response.status_code == status, header
        assert (await (await api.connect(TOKEN)).get("/api/v1/me")).status_code == 401
