"""The public API: what `import ropewalk` offers, how little it loads, login and diagnostics."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import httpx
import pytest

import ropewalk
from ropewalk import errors
from ropewalk.client import config, diagnostics, login
from ropewalk.client.http import Api
from ropewalk.errors import AuthenticationError, NotFoundError
from tests.support.client import ME, SERVER, TOKEN, dask_config_restored


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    with dask_config_restored(), dask.config.set({"ropewalk": config.defaults()["ropewalk"]}):
        yield tmp_path / "dask"


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] if not name.startswith("ropewalk") else name for name in out.stdout.split()}


def test_everything_public_is_sorted_and_there() -> None:
    assert ropewalk.__all__ == sorted(ropewalk.__all__)
    for name in ropewalk.__all__:
        assert getattr(ropewalk, name) is not None
    assert set(ropewalk.__all__) <= set(dir(ropewalk))


def test_the_whole_tree_of_errors_is_public() -> None:
    def tree(cls: type[Exception]) -> Iterator[str]:
        yield cls.__name__
        for child in cls.__subclasses__():
            if child.__module__ == "ropewalk.errors":
                yield from tree(child)

    assert set(tree(errors.RopewalkError)) <= set(ropewalk.__all__)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clutser'"):
        _ = ropewalk.Clutser


def test_importing_costs_nothing_until_something_is_used() -> None:
    assert not {"dask", "distributed", "httpx", "pydantic"} & loaded_by("import ropewalk")
    assert "distributed" not in loaded_by(
        "import ropewalk; ropewalk.list_clusters, ropewalk.login, ropewalk.diagnostics"
    )


def test_the_client_loads_nothing_of_the_server() -> None:
    loaded = loaded_by(f"import ropewalk\nfor name in {ropewalk.__all__}: getattr(ropewalk, name)")
    assert not {"sqlalchemy", "fastapi", "starlette", "uvicorn", "alembic"} & loaded
    assert not [name for name in loaded if name.startswith(("ropewalk.server", "ropewalk.backends", "ropewalk.cli."))]
    assert "distributed" in loaded


# Login.


class Fake:
    """Stands in for the server in `login` and `diagnostics`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
        self.answers: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        self.requests: list[httpx.Request] = []

        def api(server: str, token: str | None = None, **options: Any) -> Api:
            return Api(server, token, transport=httpx.MockTransport(self._answer), sleep=lambda _: None, **options)

        for module in modules:
            monkeypatch.setattr(module, "Api", api)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answers[request.url.path](request)


def device(approvals: list[dict[str, Any]]) -> dict[str, Callable[[httpx.Request], httpx.Response]]:
    code = {
        "device_code": "secret-device-code",
        "user_code": "ABCD-EFGH",
        "verification_uri": f"{SERVER}/device",
        "verification_uri_complete": f"{SERVER}/device?code=ABCD-EFGH",
        "expires_in": 60,
        "interval": 1,
    }
    return {
        "/api/v1/device": lambda _: httpx.Response(200, json=code),
        "/api/v1/device/token": lambda _: httpx.Response(200, json=approvals.pop(0)),
        "/api/v1/me": lambda _: httpx.Response(200, json=ME),
    }


APPROVED = {
    "status": "approved",
    "username": "ada",
    "token": {
        "id": "t-1",
        "name": "login",
        "created_at": "2026-01-02T03:04:05Z",
        "expires_at": None,
        "last_used_at": None,
        "token": TOKEN,
    },
}
PENDING = {"status": "authorization_pending", "token": None, "username": None}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pages: list[str] = []
    monkeypatch.setattr(login.webbrowser, "open", pages.append)
    monkeypatch.setattr(login.approve_by_browser, "__kwdefaults__", {
        **(login.approve_by_browser.__kwdefaults__ or {}), "open_page": pages.append, "sleep": lambda _: None,
    })  # fmt: skip
    return pages


def test_a_login_is_approved_in_a_browser_and_saved(
    monkeypatch: pytest.MonkeyPatch, directory: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(monkeypatch, login)
    fake.answers = device([PENDING, PENDING, APPROVED])
    path = ropewalk.login(SERVER, account="team")
    assert config.current_login() == config.Login(SERVER, TOKEN, "team", "ada")
    assert path == directory / "ropewalk.yaml"
    assert opened == [f"{SERVER}/device?code=ABCD-EFGH"]
    shown = capsys.readouterr().err
    assert f"{SERVER}/device?code=ABCD-EFGH" in shown
    assert "account team" in shown
    assert TOKEN not in shown
    assert "secret-device-code" not in shown


@pytest.mark.parametrize(("status", "told"), [("access_denied", "denied"), ("expired_token", "in time")])
def test_a_login_that_is_not_approved_saves_nothing(
    monkeypatch: pytest.MonkeyPatch, directory: Path, opened: list[str], status: str, told: str
) -> None:
    Fake(monkeypatch, login).answers = device([{**PENDING, "status": status}])
    with pytest.raises(AuthenticationError, match=told):
        ropewalk.login(SERVER)
    assert not directory.exists()


def test_a_login_that_nobody_answers_ends() -> None:
    times = iter([0.0, 1.0, 100.0])
    answers = device([PENDING])
    transport = httpx.MockTransport(lambda request: answers[request.url.path](request))
    with Api(SERVER, transport=transport) as api, pytest.raises(AuthenticationError, match="in time"):
        login.approve_by_browser(
            api, say=lambda _: None, open_page=lambda _: None, sleep=lambda _: None, clock=lambda: next(times)
        )


def test_a_machine_without_a_browser_shows_the_address() -> None:
    def none(_: str) -> None:
        raise OSError("no display")

    answers = device([APPROVED])
    said: list[str] = []
    with Api(SERVER, transport=httpx.MockTransport(lambda request: answers[request.url.path](request))) as api:
        assert login.approve_by_browser(api, say=said.append, open_page=none) == TOKEN
    assert "ABCD-EFGH" in said[0]


def test_a_token_is_checked_before_it_is_saved(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    fake = Fake(monkeypatch, login)
    fake.answers = {"/api/v1/me": lambda _: httpx.Response(401)}
    with pytest.raises(AuthenticationError):
        ropewalk.login(SERVER, token="wrong")
    assert not directory.exists()


def test_a_login_with_an_account_that_is_not_yours_saves_nothing(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    Fake(monkeypatch, login).answers = device([])
    with pytest.raises(NotFoundError, match="Yours: ada, team"):
        ropewalk.login(SERVER, token=TOKEN, account="nobody")
    assert not directory.exists()


def test_a_login_that_the_environment_overrides_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Fake(monkeypatch, login).answers = device([])
    monkeypatch.setenv("DASK_ROPEWALK__TOKEN", "other")
    ropewalk.login(SERVER, token=TOKEN)
    assert "DASK_ROPEWALK__TOKEN in the environment" in capsys.readouterr().err


def test_a_closed_standard_error_does_not_break_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, login).answers = device([])
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert ropewalk.login(SERVER, token=TOKEN).exists()


# Diagnostics.


def test_diagnostics_say_everything_but_the_secrets(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    fake = Fake(monkeypatch, diagnostics)
    fake.answers = {
        "/healthz": lambda _: httpx.Response(200, headers={"Date": "Sat, 01 Jan 2000 00:00:00 GMT"}),
        "/api/v1/me": lambda _: httpx.Response(200, json={**ME, "server_version": "9.9.9"}),
    }
    config.save_login(SERVER, TOKEN)
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:hunter2@proxy.test:3128")
    monkeypatch.setenv("DASK_ROPEWALK__TOKEN", TOKEN)
    with dask.config.set({"ropewalk.cluster.environ": {"PASSWORD": "hunter2"}, "ropewalk.cluster.worker_cpu": 2}):
        found = ropewalk.diagnostics()
    text = json.dumps(found)
    assert TOKEN not in text
    assert "hunter2" not in text
    assert found["ropewalk"] == ropewalk.__version__
    assert found["packages"]["dask"]
    assert found["configuration"]["token"] == "********"
    assert found["configuration"]["file_mode"] == "0600"
    assert found["configuration"]["cluster"] == {
        "environ": "********", "worker_cpu": 2, "wait_for_workers": 0.3, "package_sync": True,
    }  # fmt: skip
    assert found["environment"] == ["DASK_ROPEWALK__TOKEN"]
    assert found["network"]["HTTPS_PROXY"] == "http://********@proxy.test:3128"
    assert found["server"]["reachable"]
    assert found["server"]["logged_in"]
    assert found["server"]["accounts"] == ["ada", "team"]
    assert len(found["problems"]) == 2
    assert "clocks" in found["problems"][0]
    assert "9.9.9" in found["problems"][1]


def test_diagnostics_work_with_nothing_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x")

    fake = Fake(monkeypatch, diagnostics)
    fake.answers = {"/healthz": refuse}
    assert not ropewalk.diagnostics()["server"]["reachable"]
    with dask.config.set({"ropewalk.server": "https://ada:hunter2@x"}):
        found = ropewalk.diagnostics()
    assert "hunter2" not in json.dumps(found)
    assert found["problems"]
    with dask.config.set({"ropewalk": "nonsense"}):
        assert "not a mapping" in ropewalk.diagnostics()["problems"][0]


def test_diagnostics_without_a_login_say_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(monkeypatch, diagnostics).answers = {"/healthz": lambda _: httpx.Response(200)}
    found = ropewalk.diagnostics()
    assert found["server"]["reachable"]
    assert not found["server"]["logged_in"]
    assert "ropewalk login" in found["problems"][0]
