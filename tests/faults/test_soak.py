"""A short soak; the long one is ``scripts/soak``. And that what it looks for would be found."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.soak import isolating, soak

from tests.support import isolated
from tests.support.installation import made
from tests.support.inventory import Installed, installed, not_records
from tests.support.waiting import wait_until

NODES = Path("data/local")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("users", ["one", "isolated"])
def test_after_random_work_and_random_deaths_nothing_is_left(users: str) -> None:
    with isolating() if users == "isolated" else contextlib.nullcontext():
        assert soak(isolated.public_folder(), seconds=12, clusters=6, seed=7) == []


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that a server worked on."""
    data_dir, _token = made(tmp_path_factory.mktemp("used") / "data")
    return data_dir


@pytest.fixture
def place(used: Path, tmp_path: Path) -> Installed:
    """A copy for one test, since what it leaves there, and closing the database, show in the next look."""
    shutil.copytree(used, tmp_path / "data")
    return installed(tmp_path, tmp_path / "data")


class TestInventory:
    """Each kind of thing that could be left is told of."""

    @pytest.fixture
    def stranger(self, place: Installed, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
        """A process that has nothing to do with it but what the parameter says."""
        how = request.param
        code = "import socket, signal; s = socket.create_server(('127.0.0.1', 0)); print(flush=True); signal.pause()"
        environ = {"ROPEWALK_NODE": f"{place.installation}/c1/worker/c1-worker-1"} if how == "tag" else {}
        command = [sys.executable, "-c", code, *([str(place.data_dir)] if how == "command" else [])]
        process = subprocess.Popen(
            command, env=environ, cwd=place.directory if how == "directory" else "/", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()
        process.wait()
        process.stdout.close()

    @pytest.mark.parametrize("stranger", ["tag", "command", "directory"], indirect=True)
    def test_tells_of_processes_and_their_sockets(self, place: Installed, stranger: subprocess.Popen[bytes]) -> None:
        found = sorted(place.everything())
        assert any(line.startswith(f"process {stranger.pid}: ") for line in found)
        assert any(line.startswith(f"socket of process {stranger.pid}: LISTEN") for line in found)

    @pytest.mark.parametrize("stranger", ["nothing"], indirect=True)
    def test_leaves_strangers_alone(self, place: Installed, stranger: subprocess.Popen[bytes]) -> None:
        assert not [line for line in place.everything() if f"process {stranger.pid}" in line]

    def test_counts_main_processes_of_a_node(self, place: Installed) -> None:
        environ = {"ROPEWALK_NODE": f"{place.installation}/c1/worker/c1-worker-1"}
        code = "import signal; signal.pause()"
        twice = [
            subprocess.Popen([sys.executable, "-c", code], env=environ, start_new_session=session)
            for session in (True, True, False)
        ]
        try:
            wait_until(lambda: place.main_processes() == {"c1-worker-1": 2})
            assert len(place.node_processes()) == 3
        finally:
            for process in twice:
                process.kill()
                process.wait()

    def test_tells_of_files_and_socket_files_that_are_no_records(self, place: Installed) -> None:
        before = place.everything()
        node = place.data_dir / "local" / "clusters" / "c1" / "c1-scheduler"
        node.joinpath("tmp").mkdir(parents=True)
        for name in ("config.json", "log", "ended.json", "about.json.abc.new"):
            (node / name).touch()
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(node, os.O_PATH)
            listener.bind(f"/proc/self/fd/{here}/sock")
            os.close(here)
            left = not_records(place.everything() - before, NODES)
        start = "file data/local/clusters/c1/c1-scheduler"
        assert left == [
            "file data/local/clusters",
            f"{start}/about.json.abc.new",
            f"{start}/config.json",
            f"{start}/sock",
            f"{start}/tmp",
            f"socket file {node}/sock",
        ]

    def test_tells_of_rows_that_live(self, place: Installed) -> None:
        before = place.everything()
        with contextlib.closing(sqlite3.connect(place.data_dir / "ropewalk.db")) as database:
            columns = {row[1]: row[2] for row in database.execute("PRAGMA table_info(clusters)")}
            values = dict.fromkeys(columns, "") | {"id": "c1", "state": "stopping", "lease_owner": "me"}
            marks = ", ".join("?" * len(values))
            database.execute(f"INSERT INTO clusters ({', '.join(values)}) VALUES ({marks})", list(values.values()))
            database.execute("INSERT INTO login_attempts VALUES ('k', 1, '', '')")
            database.commit()
        grown = sorted(place.everything() - before)
        assert [line.split(":")[0] for line in grown] == ["lease of c1", "row 1 of login_attempts", "row of clusters"]
