"""A server that is not there: answers prepared by each test, requests remembered, and a configuration of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.config
import httpx
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from ropewalk.cli import ask
from ropewalk.cli.main import app
from ropewalk.client import exchange
from ropewalk.errors import NotFoundError, RopewalkError
from ropewalk.schemas.clusters import ClusterDetail, ClusterSpec, ClusterState, Cost, Node, NodeRole, NodeState
from ropewalk.schemas.common import Event
from ropewalk.schemas.identity import Account, AccountKind, Me, MemberRole, User

SERVER = "http://ropewalk.test"
TOKEN = "rw_canary_token"
NOW = datetime.now(UTC).replace(microsecond=0)

Answer = BaseModel | list[Any] | RopewalkError | httpx.Response | None


class FakeServer:
    """Answers by method and path; what it was asked is in ``requests``."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self._answers: dict[tuple[str, str], Callable[[httpx.Request], Answer]] = {}
        self.answer("GET", "/me", me())

    def answer(self, method: str, path: str, *answers: Answer | Callable[[httpx.Request], Answer]) -> None:
        """Prepare answers, given one after the other; the last one stays."""
        left = list(answers)

        def give(request: httpx.Request) -> Answer:
            chosen = left.pop(0) if len(left) > 1 else left[0]
            return chosen(request) if callable(chosen) else chosen

        self._answers[method, path] = give

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path.removeprefix(exchange.PREFIX)
        handler = self._answers.get((request.method, path))
        answer = handler(request) if handler else NotFoundError(f"The test prepared no {request.method} {path}.")
        return _response(answer)

    def bodies(self, method: str, path: str) -> list[Any]:
        """Return the JSON bodies of the requests for *path*."""
        return [
            json.loads(request.content) if request.content else None
            for request in self.requests
            if request.method == method and request.url.path == exchange.PREFIX + path
        ]


def _response(answer: Answer) -> httpx.Response:
    if isinstance(answer, httpx.Response):
        return answer
    if isinstance(answer, RopewalkError):
        return httpx.Response(answer.http_status, json={"error": answer.body()})
    if answer is None:
        return httpx.Response(204)
    if isinstance(answer, list):
        return httpx.Response(200, json=[item.model_dump(mode="json") for item in answer])
    return httpx.Response(200, json=answer.model_dump(mode="json"))


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a directory for Dask's configuration; what holds is only what the test sets."""
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    for name in ("ROPEWALK_DEBUG", "ROPEWALK_PASSWORD", "ROPEWALK_NEW_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with dask.config.set(
        {"ropewalk.server": SERVER, "ropewalk.token": TOKEN, "ropewalk.account": None, "ropewalk.user": None}
    ):
        yield tmp_path / "dask"


@pytest.fixture
def server(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    original = exchange.Exchange._settings

    def settings(self: exchange.Exchange, transport: Any) -> dict[str, Any]:
        return {**original(self, transport), "transport": httpx.MockTransport(fake)}

    monkeypatch.setattr(exchange.Exchange, "_settings", settings)
    return fake


Run = Callable[..., Result]


@pytest.fixture
def run(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs a command as in a pipe: no terminal, separate standard output and error."""
    monkeypatch.setenv("TZ", "UTC")

    def run(*arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make commands believe that somebody sits at a terminal; the answers come from the test's ``stdin``."""
    monkeypatch.setattr(ask, "interactive", lambda: True)


def account(slug: str = "ada", **changes: Any) -> Account:
    values: dict[str, Any] = {
        "slug": slug,
        "kind": AccountKind.PERSONAL if slug == "ada" else AccountKind.TEAM,
        "role": MemberRole.ADMIN,
        "core_limit": None,
        "cores_used": 0,
        "created_at": NOW - timedelta(days=3),
    }
    return Account(**{**values, **changes})


def user(username: str = "ada", **changes: Any) -> User:
    values: dict[str, Any] = {"email": None, "operator": False, "disabled": False, "created_at": NOW}
    return User(username=username, **{**values, **changes})


def me(**changes: Any) -> Me:
    values: dict[str, Any] = {
        "user": user(),
        "accounts": [account("ada"), account("weather")],
        "default_account": "ada",
        "server_version": "0.1.0",
    }
    return Me(**{**values, **changes})


def node(name: str = "flights-1-scheduler", **changes: Any) -> Node:
    values: dict[str, Any] = {
        "role": NodeRole.SCHEDULER,
        "state": NodeState.READY,
        "reason": None,
        "address": None,
        "cpu": 1,
        "memory": 2**30,
        "exit_code": None,
        "created_at": NOW - timedelta(minutes=2),
        "ready_at": NOW,
        "stopped_at": None,
    }
    return Node(name=name, **{**values, **changes})


def cluster(name: str = "flights", **changes: Any) -> ClusterDetail:
    values: dict[str, Any] = {
        "id": f"c-{name}",
        "name": name,
        "account": "ada",
        "creator": "ada",
        "cloud_kind": "hosted",
        "backend": "local",
        "state": ClusterState.READY,
        "reason": None,
        "n_workers": 4,
        "minimum": None,
        "maximum": None,
        "workers_ready": 3,
        "cores": 5,
        "memory": 5 * 2**30,
        "cost": Cost(currency="USD", per_hour=0.25, so_far=0.0123),
        "tags": {},
        "software": None,
        "scheduler_address": "tls://127.0.0.1:40000",
        "dashboard_link": None,
        "created_at": NOW - timedelta(minutes=2, seconds=5),
        "ready_at": NOW - timedelta(minutes=1),
        "stopped_at": None,
        "spec": ClusterSpec(),
        "nodes": [node()],
    }
    return ClusterDetail(**{**values, **changes})


def event(number: int, code: str = "node.ready", message: str = "It is ready.", **changes: Any) -> Event:
    values: dict[str, Any] = {"level": "info", "cluster": "c-flights", "node": None, "details": {}}
    return Event(id=number, time=NOW + timedelta(seconds=number), code=code, message=message, **{**values, **changes})
