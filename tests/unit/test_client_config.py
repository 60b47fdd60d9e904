"""The client's configuration: which server, token and account; saving a login; corrupted files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml

from ropewalk.client import config
from ropewalk.errors import AuthenticationError, InputError, NotFoundError, SettingsError
from ropewalk.schemas.clusters import ClusterCreate
from ropewalk.schemas.identity import Me
from tests.support.client import ME, SERVER, TOKEN, dask_config_restored


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Dask's configuration directory of this test."""
    place = tmp_path / "dask"
    monkeypatch.setenv("DASK_CONFIG", str(place))
    with dask_config_restored(), dask.config.set({"ropewalk": config.defaults()["ropewalk"]}):
        yield place


def me(**fields: Any) -> Me:
    return Me.model_validate({**ME, **fields})


# Defaults.


def test_every_default_is_in_the_schema_and_the_other_way_round() -> None:
    def keys(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in section.items():
            yield from keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    def declared(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in section["properties"].items():
            assert value.get("description") or "properties" in value, f"{prefix}{name} has no description"
            yield from declared(value, f"{prefix}{name}.") if "properties" in value else [prefix + name]

    assert list(keys(config.defaults()["ropewalk"])) == list(declared(config.schema()["properties"]["ropewalk"]))


def test_every_argument_of_a_cluster_has_a_default_in_the_configuration() -> None:
    arguments = set(ClusterCreate.model_fields) - {"fingerprint"}  # the client finds out by itself
    assert arguments <= set(config.defaults()["ropewalk"]["cluster"])


def test_environment_variables_come_before_files_and_defaults(directory: Path) -> None:
    directory.mkdir()
    (directory / "ropewalk.yaml").write_text("ropewalk: {server: 'http://file:1', user: ada}")
    script = "from ropewalk.client import config; c = config.current_login(); print(c.server, c.user, c.token)"
    environ = {**os.environ, "DASK_ROPEWALK__SERVER": "http://env:2", "DASK_ROPEWALK__TOKEN": "rw_from_env"}
    out = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["http://env:2", "ada", "rw_from_env"]


def test_a_section_that_is_no_mapping_is_told() -> None:
    with dask.config.set({"ropewalk": "yes"}), pytest.raises(SettingsError, match="not a mapping"):
        config.current_login()


@pytest.mark.parametrize("value", [123, 1.5, ["x"], True])
def test_a_token_that_is_not_text_is_told_without_showing_it(value: object) -> None:
    with dask.config.set({"ropewalk.token": value}), pytest.raises(SettingsError) as caught:
        config.current_login()
    assert caught.value.field == "ropewalk.token"
    assert "123" not in str(caught.value)


# Who.


def test_without_a_token_it_says_how_to_log_in() -> None:
    with pytest.raises(AuthenticationError, match="ropewalk login"):
        config.current_login().require_token()


def test_the_token_goes_only_to_the_server_it_belongs_to() -> None:
    with dask.config.set({"ropewalk.server": SERVER + "/", "ropewalk.token": TOKEN}):
        assert config.current_login().require_token() == TOKEN
        assert config.current_login(server=SERVER).token == TOKEN
        assert config.current_login(server="http://elsewhere.test").token is None
        assert config.current_login(server="http://elsewhere.test", token="other").token == "other"


def test_a_login_does_not_show_its_token() -> None:
    with dask.config.set({"ropewalk.token": TOKEN}):
        assert TOKEN not in repr(config.current_login())


@pytest.mark.parametrize(
    ("name", "account", "expected"),
    [
        ("mine", None, (None, "mine")),
        ("team/ours", None, ("team", "ours")),
        ("team/ours", "team", ("team", "ours")),
        ("mine", "team", ("team", "mine")),
        (None, "team", ("team", None)),
        (None, None, (None, None)),
    ],
)
def test_a_name_may_begin_with_its_account(
    name: str | None, account: str | None, expected: tuple[str | None, str | None]
) -> None:
    assert config.split_name(name, account) == expected


@pytest.mark.parametrize(
    ("name", "account", "field"),
    [
        ("team/ours", "other", "account"),
        ("UPPER", None, "name"),
        ("a/b/c", None, "account"),
        ("team/", None, "name"),
        ("/x", None, "account"),
        ("x" * 41, None, "name"),
        (7, None, "name"),
        ("x", 7, "account"),
    ],
)
def test_wrong_names_are_refused_by_field(name: Any, account: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        config.split_name(name, account)
    assert caught.value.field == field


def test_the_account_is_the_one_asked_for_then_the_configured_one_then_your_own() -> None:
    assert config.choose_account(me(), "team", "ada") == "team"
    assert config.choose_account(me(), None, "team") == "team"
    assert config.choose_account(me(), None, None) == "ada"


@pytest.mark.parametrize(("asked", "configured"), [("nobody", None), (None, "nobody")])
def test_an_unknown_account_is_an_error_that_lists_yours(asked: str | None, configured: str | None) -> None:
    with pytest.raises(NotFoundError, match="Yours: ada, team") as caught:
        config.choose_account(me(), asked, configured)
    assert caught.value.details == {"accounts": ["ada", "team"]}
    assert ("configuration" in str(caught.value)) is (configured is not None)


def test_an_operator_may_name_any_account() -> None:
    operator = me(user={**ME["user"], "operator": True})  # type: ignore[dict-item] # ME holds JSON
    assert config.choose_account(operator, "somebody", None) == "somebody"


# Saving.


def saved(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def test_a_login_is_saved_for_this_and_later_programs_and_only_for_you(directory: Path) -> None:
    old = os.umask(0)
    try:
        path = config.save_login(SERVER, TOKEN, user="ada", account="team")
    finally:
        os.umask(old)
    assert path == directory / "ropewalk.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert saved(path) == {"ropewalk": {"server": SERVER, "token": TOKEN, "user": "ada", "account": "team"}}
    assert config.current_login() == config.Login(SERVER, TOKEN, "team", "ada")


def test_a_file_that_others_could_read_becomes_private(directory: Path) -> None:
    directory.mkdir()
    (directory / "ropewalk.yaml").write_text("{}")
    (directory / "ropewalk.yaml").chmod(0o644)
    assert stat.S_IMODE(config.save_login(SERVER, TOKEN).stat().st_mode) == 0o600


def test_other_keys_stay_and_a_former_account_goes(directory: Path) -> None:
    directory.mkdir()
    before = {"ropewalk": {"account": "old", "cluster": {"worker_cpu": 2}}, "distributed": {"x": 1}}
    (directory / "ropewalk.yaml").write_text(yaml.safe_dump(before))
    path = config.save_login(SERVER, TOKEN, user="ada")
    expected = {"server": SERVER, "token": TOKEN, "user": "ada", "cluster": {"worker_cpu": 2}}
    assert saved(path) == {"ropewalk": expected, "distributed": {"x": 1}}


def test_values_are_saved_and_taken_out_by_their_dotted_key() -> None:
    path = config.save({"cluster.worker_cpu": 2, "account": "team"})
    assert config.get("cluster.worker_cpu") == 2
    config.save({"cluster.worker_cpu": None, "cluster.tags": None, "server": None})
    assert saved(path)["ropewalk"] == {"cluster": {}, "account": "team"}
    assert config.get("cluster.worker_cpu") is None
    assert config.get("server") == "http://127.0.0.1:8780"


def test_a_link_stays_a_link(directory: Path, tmp_path: Path) -> None:
    directory.mkdir()
    real = tmp_path / "dotfiles.yaml"
    real.write_text("{}")
    (directory / "ropewalk.yaml").symlink_to(real)
    config.save_login(SERVER, TOKEN)
    assert (directory / "ropewalk.yaml").is_symlink()
    assert saved(real)["ropewalk"]["token"] == TOKEN


def test_dask_config_may_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "one.yaml"))
    assert config.save_login(SERVER, TOKEN) == tmp_path / "one.yaml"


def test_without_dask_config_it_is_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, clean_environment: Path
) -> None:
    monkeypatch.delenv("DASK_CONFIG")
    assert config.config_file() == clean_environment / ".config" / "dask" / "ropewalk.yaml"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ropewalk:\n  token: rw_canary\n bad: [", "line 3"),
        ("- a list\n", "holds a list"),
        ("ropewalk: text\n", "`ropewalk` is not a mapping"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_a_corrupted_file_is_told_by_name_and_line_and_left_alone(
    directory: Path, text: str | bytes, told: str
) -> None:
    directory.mkdir()
    file = directory / "ropewalk.yaml"
    content = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=told) as caught:
        config.save_login(SERVER, TOKEN)
    assert str(file) in str(caught.value)
    assert "canary" not in str(caught.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "told"), [("ropewalk:\n  token: rw_canary\n bad: [", "line 3"), ("- rw_canary\n", "names and values")]
)
def test_a_corrupted_file_is_told_by_the_import_without_quoting_it(directory: Path, text: str, told: str) -> None:
    directory.mkdir()
    (directory / "ropewalk.yaml").write_text(text)
    out = subprocess.run(
        [sys.executable, "-c", "import ropewalk; ropewalk.Cluster"], capture_output=True, text=True, check=False
    )
    assert out.returncode == 1
    last = out.stderr.strip().splitlines()[-1]
    assert last.startswith("ropewalk.errors.SettingsError: The configuration file ")
    assert str(directory / "ropewalk.yaml") in last
    assert told in last
    assert "canary" not in out.stderr


def test_a_place_that_cannot_be_written_is_told(directory: Path) -> None:
    directory.write_text("a file where a directory should be")
    with pytest.raises(SettingsError) as caught:
        config.save_login(SERVER, TOKEN)
    assert "ropewalk.yaml" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_litter(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config.save_login(SERVER, TOKEN)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match="No space left"):
        config.save_login(SERVER, "rw_new")
    assert saved(path)["ropewalk"]["token"] == TOKEN
    assert [each.name for each in directory.iterdir()] == ["ropewalk.yaml"]
