from __future__ import annotations

import base64
import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from ropewalk.errors import SettingsError
from ropewalk.server import keys
from ropewalk.server.settings import Settings

SECRET = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def settings(folder: Path, **values: object) -> Settings:
    return Settings(data_dir=folder, **values)  # type: ignore[arg-type] # checked by pydantic


def test_the_first_start_makes_a_file_for_this_user_only(tmp_path: Path) -> None:
    vault = keys.load_vault(settings(tmp_path), create=True)
    path = tmp_path / "encryption.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.load_vault(settings(tmp_path), create=False).key_ids == vault.key_ids
    assert [entry.name for entry in tmp_path.iterdir()] == ["encryption.key"]


def test_a_later_start_never_makes_a_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is missing") as caught:
        keys.load_vault(settings(tmp_path), create=False)
    assert caught.value.field == "encryption_key_file"
    assert "backup" in str(caught.value.advice)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_there_is_used_at_a_first_start_too(tmp_path: Path) -> None:
    (tmp_path / "encryption.key").write_text(f"mine:{SECRET}\n")
    (tmp_path / "encryption.key").chmod(0o600)
    assert keys.load_vault(settings(tmp_path), create=True).current == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_file_that_others_may_use_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    keys.load_vault(settings(tmp_path), create=True)
    path = tmp_path / "encryption.key"
    path.chmod(mode)
    with pytest.raises(SettingsError, match="other users") as caught:
        keys.load_vault(settings(tmp_path), create=True)
    assert caught.value.advice == f"Close it with: chmod 600 '{path}'"


def test_keys_in_the_environment_take_the_place_of_the_file(tmp_path: Path) -> None:
    given = SecretStr(f"new:{SECRET}, old:{SECRET}")
    vault = keys.load_vault(settings(tmp_path, encryption_key=given), create=True)
    assert vault.key_ids == ("new", "old")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no encryption key"),
        ("# nothing", "no encryption key"),
        (SECRET, "id and a colon"),
        ("k:short", "base64|bytes"),
    ],
)
def test_a_broken_file_is_an_error_without_its_contents(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "encryption.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=f"(?i){words}") as caught:
        keys.load_vault(settings(tmp_path), create=True)
    assert caught.value.field == "encryption_key_file"
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "encryption.key"
    path.write_bytes(b"\xff\xfe\x00")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="it is not text"):
        keys.load_vault(settings(tmp_path), create=True)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = settings(tmp_path, encryption_key_file=tmp_path / "file" / "encryption.key")
    with pytest.raises(SettingsError, match="Not a directory"):
        keys.load_vault(where, create=True)


def test_of_many_that_make_the_file_at_once_one_wins_and_all_have_its_key(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(8), []

    def first_start() -> None:
        barrier.wait()
        found.append(keys.load_vault(settings(tmp_path), create=True).current)

    threads = [threading.Thread(target=first_start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["encryption.key"]


def test_replacing_a_file_keeps_it_private(tmp_path: Path) -> None:
    path = tmp_path / "setup-code"
    path.write_text("old")
    path.chmod(0o644)
    keys.replace(path, "new\n")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
