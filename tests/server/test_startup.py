from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ropewalk.errors import SettingsError
from ropewalk.server.datadir import make_data_dir
from ropewalk.server.settings import Settings
from tests.support.postgres import PostgresServer, in_thread
from tests.support.server_process import ServerProcess, ropewalk, server_process
from tests.support.waiting import PATIENCE, wait_until

PASSWORD = "correct horse battery"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def operator(data_dir: Path, **environment: str) -> str:
    """Make an operator and return a token of theirs."""
    made = ropewalk(
        "server", "setup", "--username", "ada", "--password-stdin", "--data-dir", str(data_dir),
        stdin=PASSWORD + "\n", **environment,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    url = json.loads((data_dir / "server.json").read_text())["url"]
    login = httpx.post(f"{url}/api/v1/login", json={"username": "ada", "password": PASSWORD}, timeout=PATIENCE)
    assert login.status_code == 200, login.text
    return str(login.json()["token"])


def me(server: ServerProcess, token: str) -> httpx.Response:
    return httpx.get(f"{server.url}/api/v1/me", headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_starts_says_where_it_is_and_stops_in_order(data_dir: Path, number: signal.Signals) -> None:
    with server_process(data_dir) as server:
        server.wait_ready()
        state = server.state
        assert state["url"].startswith("http://127.0.0.1:")
        assert not state["url"].endswith(":0")
        assert f"Ropewalk is ready at {state['url']}" in server.output
        assert server.stop(number) == 0
        assert not (data_dir / "server.json").exists()
        assert "server.stopped" in server.output
        assert "Traceback" not in server.output


def test_files_are_for_this_user_only(data_dir: Path) -> None:
    with server_process(data_dir) as server:
        server.wait_ready()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir() if path.is_file()}
        assert {"ropewalk.db", "encryption.key", "setup-code", "server.json", "server.lock"} <= set(modes)
        assert set(modes.values()) == {0o600}, modes
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_no_long_lived_secret_is_in_the_log(data_dir: Path) -> None:
    with server_process(data_dir, "--log-level", "debug", "--log-format", "json") as server:
        server.wait_ready()
        code = (data_dir / "setup-code").read_text().strip()
        token = operator(data_dir)
        me(server, token)
        wrong = {"Authorization": "Bearer rwt_wrong"}
        httpx.get(f"{server.url}/api/v1/me?token={token}", headers=wrong, timeout=PATIENCE)
        server.stop()
        key = (data_dir / "encryption.key").read_text().partition(":")[2].strip()
        for secret in (code, token, key, PASSWORD):
            assert secret not in server.output
        lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
        assert any(line["event"] == "request" and line.get("user") == "ada" for line in lines)
        assert {"server.starting", "setup.waiting", "server.ready", "server.stopping"} <= {x["event"] for x in lines}


def test_an_operator_can_be_made_before_the_server_ever_ran(data_dir: Path) -> None:
    made = ropewalk(
        "server", "setup", "--username", "ada", "--data-dir", str(data_dir), "--password-stdin", stdin=PASSWORD
    )
    assert made.returncode == 0, made.stderr
    with server_process(data_dir) as server:
        server.wait_ready()
        wish = {"username": "ada", "password": PASSWORD}
        login = httpx.post(f"{server.url}/api/v1/login", json=wish, timeout=PATIENCE)
        assert login.status_code == 200
        assert not (data_dir / "setup-code").exists()


def test_a_weak_password_or_a_bad_name_makes_no_operator(data_dir: Path) -> None:
    for name, password in (("ada", "short"), ("Ada Lovelace", PASSWORD)):
        made = ropewalk(
            "server", "setup", "--username", name, "--data-dir", str(data_dir), "--password-stdin", stdin=password
        )
        assert made.returncode == 2
        assert "Traceback" not in made.stderr
        assert password not in made.stderr


def test_a_killed_server_starts_again_on_the_same_data(data_dir: Path) -> None:
    with server_process(data_dir) as first:
        first.wait_ready()
        token = operator(data_dir)
        first.stop(signal.SIGKILL)
    assert (data_dir / "server.json").exists()
    with server_process(data_dir) as second:
        second.wait_ready()
        assert me(second, token).status_code == 200
        assert second.stop() == 0
    assert not (data_dir / "server.json").exists()


def test_a_second_server_on_the_same_data_is_refused_and_told_which_runs(data_dir: Path) -> None:
    with server_process(data_dir) as first:
        first.wait_ready()
        second = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0")
        assert second.returncode == 5
        assert f"process {first.process.pid}" in second.stderr
        assert "--data-dir" in second.stderr
        first.wait_ready()


def test_a_second_server_on_the_same_sqlite_file_is_refused(data_dir: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    with server_process(data_dir, "--database-url", url) as first:
        first.wait_ready()
        second = ropewalk(
            "server", "start", "--data-dir", str(tmp_path / "other"), "--database-url", url, "--port", "0"
        )
        assert second.returncode == 5
        assert f"process {first.process.pid}" in second.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use_is_told_with_its_user(data_dir: Path, taken_port: int) -> None:
    result = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", str(taken_port))
    assert result.returncode == 2
    assert f"Port {taken_port} of 127.0.0.1 is in use already" in result.stderr
    assert f"process {os.getpid()}" in result.stderr
    assert "--port 0" in result.stderr
    assert not (data_dir / "ropewalk.db-wal").exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_this_machines_is_told(data_dir: Path, host: str) -> None:
    result = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0", "--host", host)
    assert result.returncode == 2
    assert host in result.stderr
    assert "Traceback" not in result.stderr


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "data"):
        result = ropewalk("server", "start", "--data-dir", str(place), "--port", "0")
        assert result.returncode == 2
        assert str(place) in result.stderr
        assert "--data-dir" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_read_only_data_directory_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may write everywhere but on a read-only file system, which is what access() tells.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SettingsError, match="cannot be written") as caught:
        make_data_dir(Settings(data_dir=data_dir))
    assert caught.value.field == "data_dir"
    assert str(data_dir) in caught.value.message


def test_a_corrupted_configuration_file_is_told_with_its_line(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "ropewalk.toml").write_text('port = 0\nhost = "127.0.0.1\n')
    result = ropewalk("server", "start", "--data-dir", str(data_dir))
    assert result.returncode == 2
    assert str(data_dir / "ropewalk.toml") in result.stderr
    assert "line 2" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_key_stops_the_start(data_dir: Path) -> None:
    with server_process(data_dir) as server:
        server.wait_ready().stop()
    path = data_dir / "encryption.key"
    key = path.read_text()
    path.unlink()
    missing = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0")
    assert missing.returncode == 2
    assert "is missing" in missing.stderr
    assert not path.exists()

    path.write_text("other:" + "A" * 43 + "=\n")
    path.chmod(0o600)
    wrong = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0")
    assert wrong.returncode == 1
    assert "not the one that this database was made with" in wrong.stderr

    path.write_text(key)
    path.chmod(0o644)
    opened = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0")
    assert opened.returncode == 2
    assert f"chmod 600 '{path}'" in opened.stderr
    for result in (missing, wrong, opened):
        assert "Traceback" not in result.stderr


def test_a_newer_database_stops_the_start(data_dir: Path) -> None:
    assert ropewalk("server", "migrate", "--data-dir", str(data_dir)).returncode == 0
    with sqlite3.connect(data_dir / "ropewalk.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffff'")
    connection.close()
    for command in ("start", "migrate", "setup"):
        more = {"start": ["--port", "0"], "setup": ["--username", "ada", "--password-stdin"]}.get(command, [])
        result = ropewalk("server", command, "--data-dir", str(data_dir), *more, stdin=PASSWORD)
        assert result.returncode == 1, command
        assert "newer version" in result.stderr, command
        assert "Traceback" not in result.stderr


def test_a_damaged_database_stops_the_start(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "ropewalk.db").write_bytes(b"not a database" * 1000)
    result = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0")
    assert result.returncode == 1
    assert "not a database" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root@localhost/x", "'mysql' is not supported"),
        ("nonsense", "cannot be parsed"),
        ("sqlite://", "in memory"),
        ("postgresql://ropewalk:hunter2hunter2@127.0.0.1:1/ropewalk", "PostgreSQL runs at 127.0.0.1:1"),
    ],
)
def test_a_database_that_cannot_be_used_stops_the_start(data_dir: Path, url: str, words: str) -> None:
    result = ropewalk("server", "start", "--data-dir", str(data_dir), "--port", "0", ROPEWALK_DATABASE_URL=url)
    assert result.returncode in {1, 2}
    assert words in result.stderr
    assert "hunter2" not in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = ropewalk("--debug", "server", "start", "--data-dir", str(tmp_path / "file"))
    assert "Traceback" in result.stderr


def test_a_stream_ends_at_once_when_the_server_stops(data_dir: Path) -> None:
    with server_process(data_dir) as server:
        server.wait_ready()
        token = operator(data_dir)
        headers = {"Authorization": f"Bearer {token}"}
        wish = {"name": "etl", "n_workers": 0}
        with httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
            assert client.post("/api/v1/accounts/ada/clusters", json=wish).status_code == 201
            with client.stream("GET", "/api/v1/accounts/ada/clusters/etl/events?follow=true") as stream:
                parts = stream.iter_text()
                assert "cluster.created" in next(parts)
                stopper = threading.Thread(target=server.stop)
                stopper.start()
                for _ in parts:
                    pass
                stopper.join()
        assert server.process.returncode == 0
        assert "Traceback" not in server.output
    with server_process(data_dir) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
            assert client.delete("/api/v1/accounts/ada/clusters/etl").status_code == 200
            wait_until(
                lambda: (
                    client.get("/api/v1/accounts/ada/clusters/etl").json().get("state") in {"stopped", "failed", None}
                )
            )


def test_rotating_the_key_needs_a_stopped_server_and_keeps_everything(data_dir: Path) -> None:
    with server_process(data_dir) as server:
        server.wait_ready()
        token = operator(data_dir)
        running = ropewalk("server", "rotate-key", "--yes", "--data-dir", str(data_dir))
        assert running.returncode == 5
        server.stop()
    before = (data_dir / "encryption.key").read_text()
    unsure = ropewalk("server", "rotate-key", "--data-dir", str(data_dir))
    assert unsure.returncode == 2
    assert "--yes" in unsure.stderr
    done = ropewalk("server", "rotate-key", "--yes", "--data-dir", str(data_dir))
    assert done.returncode == 0, done.stderr
    after = (data_dir / "encryption.key").read_text()
    assert after != before
    assert len(after.splitlines()) == 1
    with server_process(data_dir) as server:
        assert me(server.wait_ready(), token).status_code == 200


def test_migrate_goes_up_says_so_and_asks_before_it_goes_down(data_dir: Path) -> None:
    script = ropewalk("server", "migrate", "--sql", "--data-dir", str(data_dir))
    assert "CREATE TABLE installation" in script.stdout
    first = ropewalk("server", "migrate", "--data-dir", str(data_dir))
    assert (first.returncode, "from revision base to" in first.stdout) == (0, True)
    assert "nothing to do" in ropewalk("server", "migrate", "--data-dir", str(data_dir)).stdout
    unsure = ropewalk("server", "migrate", "--to", "base", "--data-dir", str(data_dir))
    assert unsure.returncode == 2
    assert "would be lost" in unsure.stderr
    assert ropewalk("server", "migrate", "--to", "base", "--yes", "--data-dir", str(data_dir)).returncode == 0
    wrong = ropewalk("server", "migrate", "--to", "nonsense", "--data-dir", str(data_dir))
    assert (wrong.returncode, "no database revision 'nonsense'" in wrong.stderr) == (2, True)


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    in_thread(postgres.execute(f"CREATE DATABASE {name}"))
    yield postgres.url(name)
    in_thread(postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))


def test_two_servers_share_a_postgresql_database_and_its_key(postgres_url: str, tmp_path: Path) -> None:
    key = tmp_path / "encryption.key"
    environment = {"ROPEWALK_DATABASE_URL": postgres_url, "ROPEWALK_ENCRYPTION_KEY_FILE": str(key)}
    shared = {**environment, "ROPEWALK_LOCAL_DIR": str(tmp_path / "nodes")}
    with (
        server_process(tmp_path / "one", **shared) as one,
        server_process(tmp_path / "two", **shared) as two,
    ):
        one.wait_ready()
        two.wait_ready()
        away = ropewalk("server", "start", "--data-dir", str(tmp_path / "three"), "--port", "0", **environment)
        assert away.returncode == 2
        assert "could neither see nor stop them" in away.stderr
        token = operator(tmp_path / "one", **environment)
        assert me(one, token).status_code == me(two, token).status_code == 200
        assert one.stop() == 0
        assert me(two, token).status_code == 200
        assert two.stop() == 0


def test_a_server_with_another_key_on_the_same_database_is_refused(postgres_url: str, tmp_path: Path) -> None:
    with server_process(tmp_path / "one", ROPEWALK_DATABASE_URL=postgres_url) as one:
        one.wait_ready()
        for _ in range(2):
            other = ropewalk(
                "server", "start", "--data-dir", str(tmp_path / "two"), "--port", "0",
                ROPEWALK_DATABASE_URL=postgres_url,
            )  # fmt: skip
            assert other.returncode in {1, 2}
            assert "Traceback" not in other.stderr
            assert "key" in other.stderr
