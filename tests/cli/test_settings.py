"""``ropewalk cloud-account|configuration|config …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml

from ropewalk.schemas.cloud_accounts import (
    CheckItem,
    CheckReport,
    CheckStatus,
    CloudAccount,
    CloudKind,
    HostedSettings,
)
from ropewalk.schemas.clusters import Configuration
from tests.cli.conftest import NOW, SERVER, TOKEN, FakeServer, Run


def report(status: CheckStatus = CheckStatus.OK) -> CheckReport:
    item = CheckItem(name="disk", status=status, message="2 GiB are free.", advice="Make room.")
    return CheckReport(checked_at=NOW, items=[item])


def hosted(**changes: Any) -> HostedSettings:
    return HostedSettings(**{"core_hour_price": 0.04, "currency": "EUR", **changes})


# cloud-account


def test_a_cloud_account_is_shown_with_its_last_check(run: Run, server: FakeServer) -> None:
    cloud = CloudAccount(
        kind=CloudKind.HOSTED, backend="local", settings={"listen_host": "127.0.0.1"}, has_credentials=False,
        last_check=report(), updated_at=NOW,
    )  # fmt: skip
    server.answer("GET", "/accounts/ada/cloud-account", cloud)
    result = run("cloud-account", "show")
    assert "local" in result.stdout
    assert "listen_host" in result.stdout
    assert "2 GiB are free. Make room." in result.stdout
    shown = run("cloud-account", "show", "--json").stdout
    assert CloudAccount.model_validate_json(shown) == cloud


@pytest.mark.parametrize(
    ("status", "code"),
    [(CheckStatus.OK, 0), (CheckStatus.WARNING, 0), (CheckStatus.UNKNOWN, 0), (CheckStatus.FAILED, 1)],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_check_that_failed_is_seen_in_the_exit_status(
    run: Run, server: FakeServer, status: CheckStatus, code: int, options: list[str]
) -> None:
    server.answer("POST", "/accounts/ada/cloud-account/check", report(status))
    result = run("cloud-account", "check", *options)
    assert result.exit_code == code
    assert str(status) in result.stdout


def test_hosted_settings_are_shown_without_options(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/hosted", hosted())
    assert json.loads(run("cloud-account", "set", "hosted", "--json").stdout)["currency"] == "EUR"
    assert not server.bodies("PUT", "/hosted")


def test_hosted_settings_that_are_left_out_stay(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/hosted", hosted(contact_host="old.example.org"))
    server.answer("PUT", "/hosted", hosted())
    result = run("cloud-account", "set", "hosted", "--gib-hour-price", "0.005", "--contact-host", "")
    assert result.exit_code == 0
    (sent,) = server.bodies("PUT", "/hosted")
    assert sent["core_hour_price"] == 0.04
    assert sent["gib_hour_price"] == 0.005
    assert sent["contact_host"] is None


def test_how_nodes_are_kept_apart_is_set_like_everything_else(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/hosted", hosted(cpu_quota=True, uid_base=3_000_000))
    server.answer("PUT", "/hosted", hosted())
    result = run("cloud-account", "set", "hosted", "--isolation", "required", "--process-limit", "99", "--no-cpu-quota")
    assert result.exit_code == 0
    (sent,) = server.bodies("PUT", "/hosted")
    assert [sent[name] for name in ("isolation", "process_limit", "cpu_quota")] == ["required", 99, False]
    assert sent["uid_base"] == 3_000_000


@pytest.mark.parametrize(
    "options",
    [
        ["--currency", "euro"],
        ["--core-hour-price", "-1"],
        ["--listen-host", ""],
        ["--isolation", "sometimes"],
        ["--uid-base", "0"],
    ],
)
def test_hosted_settings_that_make_no_sense_are_refused(run: Run, server: FakeServer, options: list[str]) -> None:
    server.answer("GET", "/hosted", hosted())
    assert run("cloud-account", "set", "hosted", *options).exit_code == 2
    assert not server.bodies("PUT", "/hosted")


# configuration


def configuration_(**spec: Any) -> Configuration:
    return Configuration(name="big", account="ada", spec=spec, updated_at=NOW)


def test_configurations_are_listed_and_shown(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/configurations", [configuration_(worker_cpu=4)])
    server.answer("GET", "/accounts/ada/configurations/big", configuration_(worker_cpu=4))
    assert "worker_cpu=4" in run("configuration", "list").stdout
    assert "worker_cpu  4" in run("configuration", "show", "ada/big").stdout
    assert json.loads(run("configuration", "show", "big", "--json").stdout)["spec"] == {"worker_cpu": 4}


def test_a_configuration_is_set_from_arguments_and_a_file(run: Run, server: FakeServer, tmp_path: Path) -> None:
    server.answer("PUT", "/accounts/ada/configurations/big", configuration_(n_workers=2))
    file = tmp_path / "big.yaml"
    file.write_text("n_workers: 2\nworker_memory: 8 GiB\n")
    result = run("configuration", "set", "big", "n_workers=[1, 8]", "tags={a: b=c}", "--file", str(file))
    assert result.exit_code == 0
    assert server.bodies("PUT", "/accounts/ada/configurations/big") == [
        {"spec": {"n_workers": [1, 8], "worker_memory": "8 GiB", "tags": {"a": "b=c"}}}
    ]
    assert "ropewalk.Cluster(configuration='big')" in result.stdout


def test_a_configuration_is_read_from_standard_input(run: Run, server: FakeServer) -> None:
    server.answer("PUT", "/accounts/ada/configurations/big", configuration_())
    assert run("configuration", "set", "big", "--file", "-", stdin='{"worker_cpu": 2}').exit_code == 0
    assert server.bodies("PUT", "/accounts/ada/configurations/big") == [{"spec": {"worker_cpu": 2}}]


@pytest.mark.parametrize("stdin", ["- a\n- b\n", "a: [", "a: 2026-01-01", "!!python/object/apply:os.getpid []"])
def test_a_file_that_holds_something_else_is_refused(run: Run, server: FakeServer, stdin: str) -> None:
    assert run("configuration", "set", "big", "--file", "-", stdin=stdin).exit_code == 2
    assert not server.bodies("PUT", "/accounts/ada/configurations/big")


@pytest.mark.parametrize("arguments", [[], ["novalue"], ["=4"], ["a=["]])
def test_arguments_that_cannot_be_read_are_refused(run: Run, arguments: list[str]) -> None:
    assert run("configuration", "set", "big", *arguments).exit_code == 2


def test_a_missing_file_is_told(run: Run, tmp_path: Path) -> None:
    result = run("configuration", "set", "big", "--file", str(tmp_path / "none.yaml"))
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_a_configuration_is_deleted_with_consent(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/configurations", [configuration_()])
    server.answer("DELETE", "/accounts/ada/configurations/big", None)
    assert run("configuration", "delete", "big").exit_code == 2
    assert run("configuration", "delete", "small", "--yes").exit_code == 4
    assert run("configuration", "delete", "big", "--yes").exit_code == 0
    assert len(server.bodies("DELETE", "/accounts/ada/configurations/big")) == 1


# config


def stored(directory: Path) -> Any:
    return yaml.safe_load((directory / "ropewalk.yaml").read_text())["ropewalk"]


def test_config_list_hides_the_token(run: Run) -> None:
    for options in ([], ["--json"]):
        shown = run("config", "list", *options).output
        assert SERVER in shown
        assert "********" in shown
        assert TOKEN not in shown


def test_config_get_hides_the_token(run: Run) -> None:
    assert run("config", "get", "token").stdout == "********\n"
    assert json.loads(run("config", "get", "token", "--json").stdout) == {"token": "********"}
    assert run("config", "get", "server").stdout == f"{SERVER}\n"
    assert run("config", "get", "account").stdout == "-\n"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("account", "weather", "weather"),
        ("versions", "error", "error"),
        ("progress", "on", "on"),
        ("timeout", "10 minutes", "10 minutes"),
        ("server", "https://ropewalk.example.com/", "https://ropewalk.example.com"),
    ],
)
def test_config_set_writes_the_file(run: Run, configuration: Path, key: str, value: str, expected: object) -> None:
    assert run("config", "set", key, value).exit_code == 0
    assert stored(configuration) == {key: expected}
    assert (configuration / "ropewalk.yaml").stat().st_mode & 0o777 == 0o600
    assert dask.config.get(f"ropewalk.{key}") == expected


def test_config_set_and_unset_nested_values_and_leave_the_others(run: Run, configuration: Path) -> None:
    run("config", "set", "cluster.n_workers", "[1, 8]")
    run("config", "set", "cluster.worker_memory", "8 GiB")
    assert stored(configuration) == {"cluster": {"n_workers": [1, 8], "worker_memory": "8 GiB"}}
    assert run("config", "unset", "cluster.n_workers").exit_code == 0
    assert stored(configuration) == {"cluster": {"worker_memory": "8 GiB"}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("token", "rw_secret"),
        ("acount", "weather"),
        ("cluster", "{}"),
        ("cluster.worker_cpus", "2"),
        ("server", "ftp://x"),
        ("server", "12"),
        ("versions", "maybe"),
        ("account", "[a]"),
        ("cluster.worker_gpu", "true"),
        ("cluster.n_workers", "[1,"),
    ],
)
def test_config_set_refuses_what_the_schema_does_not_know(run: Run, configuration: Path, key: str, value: str) -> None:
    assert run("config", "set", key, value).exit_code == 2
    assert not configuration.exists()


def test_a_slip_of_the_pen_is_told(run: Run) -> None:
    assert "Did you mean account" in run("config", "get", "acount").stderr


def test_a_corrupted_file_is_reported_and_kept(run: Run, configuration: Path) -> None:
    configuration.mkdir()
    file = configuration / "ropewalk.yaml"
    file.write_text("ropewalk: {token: rw_canary")
    result = run("config", "set", "account", "weather")
    assert result.exit_code == 2
    assert str(file) in result.stderr
    assert "rw_canary" not in result.output
    assert file.read_text() == "ropewalk: {token: rw_canary"


def test_config_path_is_the_file(run: Run, configuration: Path) -> None:
    assert run("config", "path").stdout == f"{configuration / 'ropewalk.yaml'}\n"
