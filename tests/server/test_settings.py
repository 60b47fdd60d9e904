from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ropewalk.cli.main import app as program
from ropewalk.errors import SettingsError
from ropewalk.server.settings import HIDDEN, Settings, Source, load_settings

KEY = "k1:" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "ropewalk.toml"


def test_flags_win_over_environment_over_file_over_defaults(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('host = "10.0.0.1"\nport = 1001\nlog_level = "error"\n')
    monkeypatch.setenv("ROPEWALK_PORT", "1002")
    monkeypatch.setenv("ROPEWALK_LOG_LEVEL", "warning")
    loaded = load_settings({"log_level": "debug", "host": None}, config=toml)
    settings = loaded.settings
    assert (settings.host, settings.port, settings.log_level, settings.log_format) == (
        "10.0.0.1",
        1002,
        "debug",
        "text",
    )
    assert [loaded.sources[name] for name in ("host", "port", "log_level", "log_format")] == [
        Source.FILE,
        Source.ENV,
        Source.FLAG,
        Source.DEFAULT,
    ]
    assert loaded.file == toml


def test_the_file_of_the_data_directory_is_read_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ropewalk.toml").write_text("port = 4321\n")
    assert load_settings({"data_dir": tmp_path}).settings.port == 4321
    monkeypatch.setenv("ROPEWALK_DATA_DIR", str(tmp_path))
    assert load_settings().settings.port == 4321


def test_the_environment_names_the_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text("port = 4321\n")
    monkeypatch.setenv("ROPEWALK_CONFIG", str(toml))
    assert load_settings().settings.port == 4321


def test_defaults_follow_the_data_directory_and_the_address(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, host="0.0.0.0", port=9999)
    assert settings.database_url == f"sqlite:///{tmp_path}/ropewalk.db"
    assert settings.encryption_key_file == tmp_path / "encryption.key"
    assert settings.public_url == "http://127.0.0.1:9999"
    assert Settings(host="::1", port=80).public_url == "http://[::1]:80"


def test_data_goes_to_the_home_directory_by_default(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().data_dir == clean_environment / ".local/share/ropewalk"
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert Settings().data_dir == Path("/srv/data/ropewalk")


def test_relative_paths_and_tildes_become_absolute(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clean_environment)
    assert Settings(data_dir=Path("here")).data_dir == clean_environment / "here"
    assert Settings(data_dir=Path("~/there")).data_dir == clean_environment / "there"


def test_a_free_port_changes_the_public_address_unless_that_was_chosen() -> None:
    assert Settings(port=0).on_port(4711).public_url == "http://127.0.0.1:4711"
    chosen = Settings(port=0, public_url="https://dask.example.org/").on_port(4711)
    assert (chosen.port, chosen.public_url) == (4711, "https://dask.example.org")


def test_made_directly_it_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_PORT", "1")
    assert Settings().port == 8780


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_PORT", "")
    assert load_settings().sources["port"] is Source.DEFAULT


def test_unknown_names_are_errors_with_a_suggestion(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="prot in") as caught:
        load_settings(config=toml)
    assert (caught.value.field, caught.value.advice) == ("prot", "Did you mean port?")
    assert str(toml) in caught.value.message
    monkeypatch.setenv("ROPEWALK_DATABSE_URL", "x")
    with pytest.raises(SettingsError, match="ROPEWALK_DATABSE_URL in the environment") as caught:
        load_settings()
    assert caught.value.advice == "Did you mean ROPEWALK_DATABASE_URL?"


@pytest.mark.parametrize("name", ["CONFIG", "DEBUG", "NODE_CONFIG", "PASSWORD", "NEW_PASSWORD", "LOGIN_TOKEN"])
def test_our_variables_that_are_no_settings_are_left_alone(
    name: str, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml.touch()
    monkeypatch.setenv(f"ROPEWALK_{name}", str(toml))
    load_settings()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("port", "http", "'http'"),
        ("port", "70000", "'70000'"),
        ("port", "-1", "'-1'"),
        ("log_level", "loud", "'loud'"),
        ("lease_seconds", "0", "'0'"),
        ("lease_seconds", "nan", "'nan'"),
        ("sweep_seconds", "inf", "'inf'"),
        ("reconcile_concurrency", "1e3", "'1e3'"),
        ("public_url", "dask.example.org", "begins with http"),
        ("default_member_core_limit", "-3", "'-3'"),
    ],
)
def test_wrong_values_name_the_setting_its_source_and_the_value(name: str, value: str, words: str, toml: Path) -> None:
    toml.write_text(f"{name} = {json.dumps(value)}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(config=toml)
    assert caught.value.field == name
    assert words in caught.value.message
    assert name in caught.value.message
    assert str(toml) in caught.value.message


def test_values_of_secrets_are_not_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_METRICS_TOKEN", "hunter2")
    with pytest.raises(SettingsError, match=r"ROPEWALK_METRICS_TOKEN.*16 characters") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"port = \n", "line 1"),
        (b"port = 1\n[clusters\n", "line 2"),
        (b"port = 1\nport = 2\n", "line 2"),
        (b"\xff\xfe\x00", "utf-8"),
    ],
)
def test_a_corrupted_file_is_an_error_with_its_name_and_the_line(text: bytes, words: str, toml: Path) -> None:
    toml.write_bytes(text)
    with pytest.raises(SettingsError, match="not valid TOML") as caught:
        load_settings(config=toml)
    assert words in caught.value.message
    assert str(toml) in caught.value.message


def test_a_missing_file_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(config=tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(config=tmp_path)


def test_a_file_with_the_key_must_not_be_readable_by_others(toml: Path) -> None:
    toml.write_text(f'encryption_key = "{KEY}"\n')
    toml.chmod(0o644)
    with pytest.raises(SettingsError, match="other users") as caught:
        load_settings(config=toml)
    assert caught.value.advice == f"Close it with: chmod 600 '{toml}'"
    toml.chmod(0o600)
    assert load_settings(config=toml).settings.encryption_key is not None


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(program, ["server", "config", *arguments], env=environment)


def test_config_shows_values_with_their_sources_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "ropewalk.toml").write_text('log_format = "json"\n')
    url = "postgresql://ropewalk:hunter2@db.example.org/ropewalk"
    result = run(
        "--data-dir", str(tmp_path), "--json", ROPEWALK_DATABASE_URL=url, ROPEWALK_ENCRYPTION_KEY=KEY, ROPEWALK_PORT="1"
    )
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["file"] == str(tmp_path / "ropewalk.toml")
    settings = shown["settings"]
    assert settings["data_dir"] == {"value": str(tmp_path), "source": "flag"}
    assert settings["log_format"] == {"value": "json", "source": "file"}
    assert settings["port"] == {"value": 1, "source": "env"}
    assert settings["host"] == {"value": "127.0.0.1", "source": "default"}
    assert settings["encryption_key"] == {"value": HIDDEN, "source": "env"}
    assert settings["database_url"]["value"] == f"postgresql://ropewalk:{HIDDEN}@db.example.org/ropewalk"
    assert "hunter2" not in result.output
    assert KEY[3:] not in result.output


def test_config_for_people_says_where_to_change_each(tmp_path: Path) -> None:
    (tmp_path / "ropewalk.toml").write_text('log_format = "json"\n')
    result = run("--data-dir", str(tmp_path), ROPEWALK_PORT="1")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "environment ROPEWALK_PORT" in lines["port"]
    assert str(tmp_path / "ropewalk.toml") in lines["log_format"]
    assert "flag --data-dir" in lines["data_dir"]


def test_config_with_a_wrong_setting_ends_with_status_2_and_no_traceback() -> None:
    result = run(ROPEWALK_PORT="many")
    assert result.exit_code == 2
    assert "ROPEWALK_PORT" in result.stderr
    assert "Traceback" not in result.output


def test_hiding_works_for_urls_that_cannot_be_parsed() -> None:
    shown = Settings(database_url="://user:hunter2").shown()
    assert shown["database_url"] == HIDDEN


def test_nothing_is_made_by_looking_at_settings(tmp_path: Path) -> None:
    run("--data-dir", str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []
