"""``ropewalk login|logout|diagnostics``."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest
import yaml

from ropewalk.client import login
from ropewalk.errors import AuthenticationError, PermissionDeniedError
from ropewalk.schemas.diagnostics import (
    BackendDiagnostics,
    DatabaseDiagnostics,
    LeaseDiagnostics,
    LoopDiagnostics,
    ServerDiagnostics,
)
from ropewalk.schemas.identity import DeviceCode, DeviceStatus, DeviceToken, Token, TokenCreated
from tests.cli.conftest import NOW, SERVER, FakeServer, Run, me

MADE = "rw_made_token"
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "LEAST_WAIT", 0)


def made() -> TokenCreated:
    token = Token(id="t1", name="login", created_at=NOW, expires_at=None, last_used_at=None)
    return TokenCreated(**token.model_dump(), token=MADE)


def code(expires_in: int = 600) -> DeviceCode:
    return DeviceCode(
        device_code="secret-device-code",
        user_code="ABCD-EFGH",
        verification_uri=f"{SERVER}/device",
        verification_uri_complete=f"{SERVER}/device?code=ABCD-EFGH",
        expires_in=expires_in,
        interval=0,
    )


def saved(directory: Path) -> object:
    return yaml.safe_load((directory / "ropewalk.yaml").read_text())["ropewalk"]


def test_a_token_from_a_pipe_is_checked_and_saved(run: Run, server: FakeServer, configuration: Path) -> None:
    result = run("login", "--server", SERVER + "/", "--token", "-", stdin=f"{MADE}\n")
    assert result.exit_code == 0
    assert server.requests[-1].headers["Authorization"] == f"Bearer {MADE}"
    assert saved(configuration) == {"server": SERVER, "token": MADE, "user": "ada"}
    assert (configuration / "ropewalk.yaml").stat().st_mode & 0o777 == 0o600
    assert MADE not in result.output


def test_a_token_from_the_environment(run: Run, configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_LOGIN_TOKEN", MADE)
    assert run("login", "--token", "-", "--account", "weather", "--json").exit_code == 0
    assert saved(configuration) == {"server": SERVER, "token": MADE, "user": "ada", "account": "weather"}


def test_a_token_is_asked_for_at_a_terminal(run: Run, person: None, configuration: Path) -> None:
    assert run("login", "--token", "-", stdin=f"{MADE}\n").exit_code == 0
    assert MADE in (configuration / "ropewalk.yaml").read_text()


def test_a_token_on_the_command_line_is_advised_against(run: Run) -> None:
    assert "can be read by others" in run("login", "--token", MADE).stderr


def test_a_wrong_token_saves_nothing(run: Run, server: FakeServer, configuration: Path) -> None:
    server.answer("GET", "/me", AuthenticationError("The token is not valid."))
    assert run("login", "--token", "-", stdin=f"{MADE}\n").exit_code == 3
    assert not configuration.exists()


def test_an_account_that_is_not_yours_saves_nothing(run: Run, configuration: Path) -> None:
    result = run("login", "--token", "-", "--account", "wether", stdin=f"{MADE}\n")
    assert result.exit_code == 4
    assert "ada, weather" in result.stderr
    assert not configuration.exists()


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_no_token_is_wrong_input(run: Run, stdin: str) -> None:
    assert run("login", "--token", "-", stdin=stdin).exit_code == 2


def test_a_password_is_traded_for_a_token(run: Run, server: FakeServer, configuration: Path) -> None:
    server.answer("POST", "/login", made())
    result = run("login", "--user", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert result.exit_code == 0
    (sent,) = server.bodies("POST", "/login")
    assert (sent["username"], sent["password"]) == ("ada", PASSWORD)
    assert sent["token_name"].startswith("login on ")
    assert "Authorization" not in server.requests[0].headers
    assert PASSWORD not in result.output
    assert MADE in (configuration / "ropewalk.yaml").read_text()


def test_the_browser_is_opened_and_the_approval_waited_for(
    run: Run, server: FakeServer, person: None, monkeypatch: pytest.MonkeyPatch, configuration: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    server.answer("POST", "/device", code())
    pending = DeviceToken(status=DeviceStatus.PENDING)
    approved = DeviceToken(status=DeviceStatus.APPROVED, token=made(), username="ada")
    server.answer("POST", "/device/token", pending, pending, approved)
    result = run("login")
    assert result.exit_code == 0
    assert opened == [f"{SERVER}/device?code=ABCD-EFGH"]
    assert "ABCD-EFGH" in result.stderr
    assert len(server.bodies("POST", "/device/token")) == 3
    assert MADE in (configuration / "ropewalk.yaml").read_text()
    assert MADE not in result.output
    assert "secret-device-code" not in result.output


@pytest.mark.parametrize("options", [["--no-browser"], []])
def test_no_browser_is_opened_when_it_is_not_wanted_or_nobody_is_there(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    server.answer("POST", "/device", code())
    server.answer("POST", "/device/token", DeviceToken(status=DeviceStatus.APPROVED, token=made(), username="ada"))
    assert run("login", *options).exit_code == 0
    assert not opened


@pytest.mark.parametrize(
    ("status", "told"), [(DeviceStatus.DENIED, "denied"), (DeviceStatus.EXPIRED, "Nobody approved")]
)
def test_a_login_that_is_not_approved_saves_nothing(
    run: Run, server: FakeServer, configuration: Path, status: DeviceStatus, told: str
) -> None:
    server.answer("POST", "/device", code())
    server.answer("POST", "/device/token", DeviceToken(status=status))
    result = run("login", "--no-browser")
    assert result.exit_code == 3
    assert told in result.stderr
    assert not configuration.exists()


def test_an_approval_that_never_comes_ends_in_time(run: Run, server: FakeServer) -> None:
    server.answer("POST", "/device", code(expires_in=0))
    assert "Nobody approved the login in time." in run("login", "--no-browser").stderr


def test_two_ways_at_once_are_wrong_input(run: Run) -> None:
    assert run("login", "--token", "-", "--user", "ada", stdin="x\n").exit_code == 2


def test_a_wrong_address_is_told(run: Run) -> None:
    result = run("login", "--server", "ropewalk.example.com", "--token", "-", stdin="x\n")
    assert result.exit_code == 2
    assert "is not the address of a server" in result.stderr


def test_an_environment_that_overrides_the_login_is_mentioned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_ROPEWALK__TOKEN", "other")
    assert "DASK_ROPEWALK__TOKEN in the environment" in run("login", "--token", "-", stdin=f"{MADE}\n").stderr


def test_logout_forgets_the_token_and_keeps_the_rest(run: Run, configuration: Path) -> None:
    run("login", "--token", "-", stdin=f"{MADE}\n")
    run("config", "set", "versions", "error")
    assert run("logout").exit_code == 0
    assert saved(configuration) == {"server": SERVER, "versions": "error"}
    assert run("cluster", "list").exit_code == 3


def test_an_operator_may_use_any_account(run: Run, server: FakeServer, configuration: Path) -> None:
    answer = me()
    answer.user.operator = True
    server.answer("GET", "/me", answer)
    result = run("login", "--token", "-", "--account", "storms", "--json", stdin=f"{MADE}\n")
    assert json.loads(result.stdout) == {"server": SERVER, "user": "ada", "account": "storms"}


def test_diagnostics_show_what_the_library_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"versions": {"dask": "2026.8.0"}, "server": {"url": SERVER, "reachable": True}}
    monkeypatch.setattr("ropewalk.diagnostics", lambda: found, raising=False)
    assert json.loads(run("diagnostics", "--json").stdout) == found
    shown = run("diagnostics").stdout
    assert "versions.dask     2026.8.0" in shown
    assert "server.reachable  yes" in shown


def test_diagnostics_of_the_server_are_for_people_and_for_programs(run: Run, server: FakeServer) -> None:
    loops = [LoopDiagnostics(name="claim", running=True, last_success=NOW)]
    lease = LeaseDiagnostics(owner="boot/1/2/3", mine=True, clusters=2, expires_at=NOW)
    backend = BackendDiagnostics(
        cloud_account="ca-hosted", kind="hosted", backend="local", report=None, problem="It did not answer."
    )
    found = ServerDiagnostics(
        version="0.1.0", python="3.11.2", platform="Linux", packages={"fastapi": "0.1"}, settings={"port": 8780},
        time=NOW, database=DatabaseDiagnostics(kind="sqlite", version="3.40", seconds=0.001), loops=loops,
        leases=[lease], working_on=2, linked=1, orphans=0, backends=[backend],
    )  # fmt: skip
    server.answer("GET", "/diagnostics", found)
    assert json.loads(run("diagnostics", "--server", "--json").stdout) == found.model_dump(mode="json")
    shown = dict(line.split(maxsplit=1) for line in run("diagnostics", "--server").stdout.splitlines())
    assert shown["loops.claim.running"] == "yes"
    assert shown["leases.1.clusters"] == "2"
    assert shown["backends.1.problem"] == "It did not answer."
    assert (shown["working_on"], shown["linked"]) == ("2", "1")


def test_diagnostics_of_the_server_are_refused_to_others_with_the_reason(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/diagnostics", PermissionDeniedError("This needs installation:diagnostics:read."))
    result = run("diagnostics", "--server")
    assert result.exit_code != 0
    assert "installation:diagnostics:read" in result.stderr
