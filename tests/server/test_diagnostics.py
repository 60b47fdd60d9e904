"""``GET /api/v1/diagnostics``: for operators, complete, and without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from ropewalk.backends.memory import MemoryBackend
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.settings import Settings
from tests.support.api import Api

CANARY = "a-canary-of-a-token"


@pytest.fixture
def backends() -> Backends:
    return Backends(overrides={"local": MemoryBackend()})


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url, port=0, metrics_token=SecretStr(CANARY))


async def test_an_operator_sees_the_whole_server_and_no_secret(api: Api) -> None:
    root = await api.person("root", operator=True)
    answer = await root.client.get("/api/v1/diagnostics")
    assert answer.status_code == 200
    found = answer.json()
    assert CANARY not in answer.text
    assert found["settings"]["metrics_token"] == "********"
    assert found["database"]["kind"] in ("sqlite", "postgresql")
    assert 0 < found["database"]["seconds"] < 60
    assert {loop["name"] for loop in found["loops"]} == {
        *("claim", "renew", "sweep"),
        *("claim cloud accounts", "renew cloud accounts"),
        *("claim builds", "renew builds", "tidy environments"),
    }
    assert all(loop["running"] and not loop["failures"] and loop["problem"] is None for loop in found["loops"])
    assert found["orphans"] == found["working_on"] == 0
    (backend,) = found["backends"]
    assert backend["report"]["items"][0]["status"] == "ok"
    assert "fastapi" in found["packages"]


async def test_others_do_not(api: Api) -> None:
    ada = await api.person("ada")
    assert (await ada.client.get("/api/v1/diagnostics")).status_code == 403
