"""What holds for every command: errors, exit statuses, streams, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import dask.config
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from ropewalk._version import __version__
from ropewalk.cli import main, members, output
from ropewalk.cli.main import app
from ropewalk.cli.options import cluster_names
from ropewalk.errors import (
    AuthenticationError,
    ConflictError,
    InputError,
    LimitExceededError,
    NotFoundError,
    PermissionDeniedError,
    RopewalkError,
    UnavailableError,
)
from ropewalk.schemas.identity import MemberRole
from tests.cli.conftest import FakeServer, Run, cluster


def _program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ropewalk.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return] # options of run


@pytest.mark.parametrize("arguments", [["--help"], ["cluster", "--help"], ["cluster", "stop", "--help"], ["version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from ropewalk.cli.main import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as e: assert e.code in (0, None), e.code\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in"
        " {'distributed', 'dask', 'httpx', 'sqlalchemy', 'fastapi', 'tornado', 'cryptography'}"
        " or m.startswith(('ropewalk.server', 'ropewalk.client'))]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_server_commands_waits_until_one_is_wanted() -> None:
    code = (
        "import sys\nfrom ropewalk.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "assert 'ropewalk.cli.server' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("Wrong."), 2),
        (AuthenticationError("Who?"), 3),
        (PermissionDeniedError("No."), 3),
        (NotFoundError("Not there."), 4),
        (ConflictError("Taken."), 5),
        (LimitExceededError("Too many cores."), 5),
        (RopewalkError("Something."), 1),
    ],
)
def test_an_error_of_the_server_decides_the_exit_status(
    run: Run, server: FakeServer, error: RopewalkError, status: int
) -> None:
    error.advice = "Do this."
    server.answer("GET", "/clusters", error)
    result = run("cluster", "list")
    assert result.exit_code == status
    assert error.message.rstrip(".") in result.stderr
    assert "Do this." in result.stderr or isinstance(error, AuthenticationError)
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_with_json_an_error_is_json_too(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/clusters", PermissionDeniedError("No.", advice="Ask.", field="account"))
    result = run("cluster", "list", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr)["error"]["code"] == "permission_denied"
    assert result.stdout == ""


def test_without_a_login_the_error_says_how_to_get_one(run: Run) -> None:
    with dask.config.set({"ropewalk.token": None}):
        result = run("cluster", "list")
    assert result.exit_code == 3
    assert "ropewalk login" in result.stderr


def test_a_server_that_does_not_answer_is_reported_without_a_traceback(configuration: Path) -> None:
    environ = {**os.environ, "DASK_ROPEWALK__SERVER": "http://127.0.0.1:9", "DASK_ROPEWALK__TOKEN": "rw_canary"}
    done = _program("cluster", "list", env=environ)
    assert done.returncode == 6
    assert "No Ropewalk server answers at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    assert "rw_canary" not in done.stderr + done.stdout


def test_debug_shows_the_traceback(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/clusters", NotFoundError("Not there."))
    result = run("--debug", "cluster", "list")
    assert result.exit_code == 4
    assert "Traceback (most recent call last)" in result.stderr
    assert "Error: Not there." in result.stderr


def test_debug_of_one_run_is_forgotten_by_the_next(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/clusters", NotFoundError("Not there."))
    run("--debug", "cluster", "list", "--json")
    assert "Traceback" not in run("cluster", "list").stderr
    assert "Error:" in run("cluster", "list").stderr


def test_a_defect_is_told_as_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("x")

    monkeypatch.setattr("ropewalk.cli.api.connect", broken)
    result = run("cluster", "list")
    assert result.exit_code == 1
    assert "A defect of ropewalk" in result.stderr
    assert "ropewalk --debug" in result.stderr


def test_a_file_that_cannot_be_written_is_told_without_traceback(run: Run, configuration: Path) -> None:
    configuration.write_text("a file where a directory should be")
    result = run("config", "set", "account", "weather")
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.stderr
    assert "Error:" in result.stderr


def test_ctrl_c_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ropewalk.cli.api.connect", interrupted)
    result = run("cluster", "list")
    assert result.exit_code == 130
    assert "Interrupted." in result.stderr


def test_ctrl_c_at_a_question_ends_with_130(run: Run, server: FakeServer, person: None) -> None:
    def aborted(*_: object, **__: object) -> None:
        raise typer.Abort

    server.answer("DELETE", "/tokens/ci", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer, "confirm", aborted)
        assert run("token", "revoke", "ci").exit_code == 130
    assert not server.bodies("DELETE", "/tokens/ci")


def test_a_broken_pipe_is_quiet(configuration: Path) -> None:
    command = f"{sys.executable} -c 'from ropewalk.cli.main import main; main()' config list | true"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def test_an_unknown_command_suggests_the_right_one(run: Run) -> None:
    result = run("clustr")
    assert result.exit_code == 2
    assert "cluster" in result.stderr


def test_without_arguments_help_is_shown(run: Run) -> None:
    assert "Usage" in run().output


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version_is_shown(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert __version__ in result.stdout


def test_version_asks_the_server_on_request(run: Run) -> None:
    assert json.loads(run("version", "--server", "--json").stdout)["server"] == "0.1.0"


def test_version_works_when_the_server_does_not(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/me", UnavailableError("It restarts."))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropewalk.client.exchange.RetryPolicy.attempts", 1)
        result = run("version", "--server")
    assert result.exit_code == 0
    assert __version__ in result.stdout


def test_every_command_explains_itself_and_its_options() -> None:
    unexplained = []

    def visit(command: object, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            if not (getattr(child, "help", None) or ""):
                unexplained.append(f"{path} {name}")
            options = [each for each in getattr(child, "params", []) if each.param_type_name == "option"]
            unexplained.extend(f"{path} {name} {option.name}" for option in options if not option.help)
            visit(child, f"{path} {name}")

    visit(get_command(app), "ropewalk")
    assert not unexplained


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_commands_works(shell: str, configuration: Path) -> None:
    environ = {
        **os.environ,
        "_ROPEWALK_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "ropewalk cl",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "ropewalk cl",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = _program(env=environ)
    assert "cluster" in done.stdout
    assert "cloud-account" in done.stdout


def test_names_of_live_clusters_are_completed(server: FakeServer) -> None:
    server.answer("GET", "/clusters", [cluster("flights"), cluster("weather")])
    assert cluster_names("fl") == ["flights"]
    assert server.requests[-1].url.params["state"] == "live"


def test_completion_is_silent_when_the_server_cannot_be_asked(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer("GET", "/clusters", UnavailableError("It restarts."))
    assert cluster_names("") == []
    assert len(server.requests) == 1, "whoever completes a name does not wait"
    assert capsys.readouterr() == ("", "")


def test_names_are_never_cut_when_piped(run: Run, server: FakeServer) -> None:
    long = "a" * 40
    server.answer("GET", "/clusters", [cluster(long, reason="because " * 60)])
    result = run("cluster", "list")
    assert long in result.stdout
    assert len(result.stdout.splitlines()) == 2
    assert "…" not in result.stdout


def test_what_a_program_wrote_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.raw("\x1b]0;title\x07\x1b[2Jred: \x1b[31mok\x1b[0m\r\n\x9b2J")
    assert capsys.readouterr().out == "]0;title[2Jred: \x1b[31mok\x1b[0m\n2J"


def test_roles_are_those_of_the_api() -> None:
    assert [role.value for role in members.Role] == [role.value for role in MemberRole]


def test_a_missing_server_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ropewalk.cli.server", None)

    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "ropewalk.cli.server":
                raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")

    monkeypatch.delitem(sys.modules, "ropewalk.cli.server")
    monkeypatch.delattr("ropewalk.cli.server", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    result = CliRunner().invoke(app, ["server", "start"])
    assert result.exit_code == 6
    assert "pip install '.[server]'" in result.stderr


def test_the_entry_point_is_the_one_that_is_installed() -> None:
    (found,) = entry_points(group="console_scripts", name="ropewalk")
    assert found.load() is main.main
