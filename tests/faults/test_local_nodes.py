"""What can go wrong with nodes that are processes. The node program is a stand-in that starts fast and misbehaves."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ropewalk.backends.local import LocalBackend, home, processes, watch
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.processes import Identity, Table
from ropewalk.backends.port import Answer, ClusterRef, LaunchRequest, NodeHandle, NodeLaunch, NodeShape, Sighting
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.cloud_accounts import HostedSettings
from ropewalk.schemas.clusters import NodeRole
from tests.support import spawners, stand_in
from tests.support.waiting import PATIENCE, eventually, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="plays with /proc")

PROGRAM = Path(stand_in.__file__)
INSTALLATION = f"inst-{uuid.uuid4().hex}"
MODE = "plain"
"""How :func:`make` starts nodes."""
CLUSTER = ClusterRef(INSTALLATION, "team", "c1", "cluster")


def handle(name: str) -> NodeHandle:
    return NodeHandle(name, "c1", NodeRole.SCHEDULER)


def request(*names: str, environ: dict[str, str] | None = None, **options: Any) -> LaunchRequest:
    shape = NodeShape(1, 2**28)
    nodes = [NodeLaunch(n, NodeRole.SCHEDULER, shape, {"options": options}, environ or {}) for n in names]
    return LaunchRequest(CLUSTER, nodes)


def make(root: Path, *, grace: float = 5.0) -> LocalBackend:
    spawner = spawners.spawner(MODE)
    return LocalBackend(root, INSTALLATION, HostedSettings(), program=PROGRAM, stop_grace=grace, spawner=spawner)


@pytest.fixture(params=spawners.MODES, autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test starts its nodes in both ways."""
    monkeypatch.setattr(sys.modules[__name__], "MODE", request.param)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "local"


@pytest.fixture
async def backend(root: Path) -> AsyncIterator[LocalBackend]:
    backend = make(root, grace=0.3)
    yield backend
    left = await backend.inventory()
    await backend.stop(left)
    for node in left:
        await gone(backend, node.name)
    await backend.close()


def home_of(backend: LocalBackend, name: str) -> NodeHome:
    return backend._home(handle(name))


async def look(backend: LocalBackend, name: str) -> Sighting:
    return (await backend.observe([handle(name)])).sightings[name]


async def gone(backend: LocalBackend, name: str) -> Sighting:
    async def seen() -> Sighting | None:
        sighting = await look(backend, name)
        return sighting if sighting.answer is Answer.GONE else None

    return await eventually(seen)


async def up(backend: LocalBackend, name: str) -> int:
    """Wait until the stand-in has done its preparations; return its pid."""
    log = home_of(backend, name).log
    await eventually(lambda: log.exists() and b"started" in log.read_bytes())
    identity = home_of(backend, name).identity()
    assert identity is not None
    return identity.pid


def child_of(backend: LocalBackend, name: str) -> int:
    return int((home_of(backend, name).scratch / "child").read_text())


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def runs(pid: int) -> bool:
    return processes.identity_of(pid) is not None


def server(root: Path, script: str) -> subprocess.Popen[bytes]:
    """Run *script* as another server: a process of its own, with a backend on *root*."""
    code = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from ropewalk.backends.local import backend, home, launcher
        from tests.faults import test_local_nodes as t
        backend._LAUNCH_PATIENCE = t.PATIENCE
        t.INSTALLATION, t.MODE = {INSTALLATION!r}, {MODE!r}
        t.CLUSTER = t.ClusterRef(t.INSTALLATION, "team", "c1", "cluster")
        backend = t.make(Path({str(root)!r}))
    """) + textwrap.dedent(script)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    _servers.append(process)
    return process


_servers: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def no_server_left() -> Iterator[None]:
    """End what a failed test would leave to those after it."""
    yield
    while _servers:
        with _servers.pop() as process:
            process.kill()


DIE = "os.kill(os.getpid(), signal.SIGKILL)"
STARTED = 2 * PATIENCE
"""Seconds for a server: it may import all that nodes need, too."""


class TestServerKilled:
    @pytest.mark.parametrize(
        ("moment", "runs_afterwards"),
        [
            ("home.NodeHome.write_about = lambda *a", False),
            ("home.NodeHome.write_config = lambda *a", False),
            ("launcher.Spawner.spawn = lambda *a", False),
            ("home.NodeHome.write_identity = lambda *a", True),
        ],
    )
    async def test_in_the_middle_of_a_launch_leaves_one_node_once_it_is_asked_again(
        self, backend: LocalBackend, root: Path, moment: str, runs_afterwards: bool
    ) -> None:
        killed = server(root, f"{moment}: {DIE}\nasyncio.run(backend.launch(t.request('s')))")
        killed.communicate(timeout=STARTED)
        assert killed.returncode == -signal.SIGKILL

        async def settled() -> bool:  # the child may be between fork and exec, when it carries no tag yet
            return (await look(backend, "s")).answer is not Answer.UNKNOWN

        await eventually(settled)
        assert ((await look(backend, "s")).answer is Answer.RUNNING) is runs_afterwards
        assert [node.name for node in await backend.inventory()] == (["s"] if runs_afterwards else [])
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        pid = await up(backend, "s")
        assert [p.identity.pid for p in Table().processes() if p.tag == home_of(backend, "s").tag] == [pid]
        assert home_of(backend, "s").log.read_text() == "started\n"

    async def test_between_start_and_record_can_be_stopped_by_the_next(self, backend: LocalBackend, root: Path) -> None:
        killed = server(
            root, f"home.NodeHome.write_identity = lambda *a: {DIE}\nasyncio.run(backend.launch(t.request('s')))"
        )
        killed.communicate(timeout=STARTED)
        await backend.stop([handle("s")])
        await gone(backend, "s")
        assert await backend.inventory() == []

    async def test_nodes_outlive_it_and_their_death_is_told_to_the_next(
        self, backend: LocalBackend, root: Path
    ) -> None:
        killed = server(root, f"asyncio.run(backend.launch(t.request('s')))\n{DIE}")
        killed.communicate(timeout=STARTED)
        assert killed.returncode == -signal.SIGKILL
        pid = await up(backend, "s")
        assert (await look(backend, "s")).answer is Answer.RUNNING
        os.kill(pid, signal.SIGKILL)
        while (await look(backend, "s")).answer is not Answer.GONE:
            await asyncio.wait_for(backend.changed(), PATIENCE)
        assert (await look(backend, "s")).reason

    async def test_the_exit_status_of_an_adopted_node_is_known_where_the_kernel_tells_it(
        self, backend: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "_STATUS_SECONDS", 0.5)  # twenty times: init may be as busy as all
        killed = server(root, f"asyncio.run(backend.launch(t.request('s')))\n{DIE}")
        killed.communicate(timeout=STARTED)
        pid = await up(backend, "s")
        assert (await look(backend, "s")).answer is Answer.RUNNING
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(backend.changed(), PATIENCE)
        sighting = await look(backend, "s")
        assert sighting.answer is Answer.GONE
        # Linux 6.15 and later, if the parent that adopted it takes note of its end; nobody can know otherwise.
        assert sighting.exit_code in (-9, None)
        if kernel() >= (6, 15) and not zombie(pid):
            assert sighting.exit_code == -9

    async def test_while_it_stops_a_node_is_finished_by_the_next_at_once(
        self, backend: LocalBackend, root: Path
    ) -> None:
        await backend.launch(request("s", deaf=True))
        await up(backend, "s")
        patient = make(root, grace=3600)
        await patient.stop([handle("s")])
        await patient.close()
        an_hour_ago = time.time() - 3600
        os.utime(home_of(backend, "s").stop_marker, (an_hour_ago, an_hour_ago))
        next_server = make(root, grace=3600)
        await next_server.stop([handle("s")])
        await gone(next_server, "s")
        await next_server.close()

    async def test_a_node_that_nobody_came_to_ask_in_time_is_asked_all_the_same(self, root: Path) -> None:
        backend = make(root, grace=3600)
        await backend.launch(request("s"))
        await up(backend, "s")
        home_of(backend, "s").forbid()  # and then the server was busy, or killed, for an hour
        an_hour_ago = time.time() - 3600
        os.utime(home_of(backend, "s").stop_marker, (an_hour_ago, an_hour_ago))
        await backend.stop([handle("s")])
        assert (await gone(backend, "s")).exit_code == -15
        await backend.close()


class TestLaunch:
    async def test_by_two_processes_at_once_starts_a_node_once(self, backend: LocalBackend, root: Path) -> None:
        script = """
            names = [f's{i}' for i in range(10)]
            print([r.cloud_id for r in asyncio.run(backend.launch(t.request(*names)))])
        """
        servers = [server(root, script) for _ in range(2)]
        answers = [process.communicate(timeout=STARTED)[0] for process in servers]
        assert answers[0] == answers[1] != b""
        for number in range(10):
            await up(backend, f"s{number}")
            assert home_of(backend, f"s{number}").log.read_text() == "started\n"

    def test_is_recorded_whole_by_several_at_once(self, root: Path) -> None:
        here = NodeHome.of(root, INSTALLATION, handle("s"))
        here.make()
        identity = Identity(1, "2", "3")
        with ThreadPoolExecutor(8) as pool:
            for written in [pool.submit(here.write_identity, identity) for _ in range(500)]:
                written.result()
        assert here.identity() == identity
        assert [path.name for path in here.path.iterdir()] == ["process.json"]

    async def test_gives_a_clean_environment_own_folders_and_no_descriptors(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("ROPEWALK_ENCRYPTION_KEY", "DASK_ROPEWALK__TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
            monkeypatch.setenv(name, "canary")
        with (tmp_path / "secret").open("w") as secret:
            os.set_inheritable(secret.fileno(), True)
            await backend.launch(request("s", environ={"MINE": "1", "OMP_NUM_THREADS": "2", "ROPEWALK_NODE": "no"}))
            await up(backend, "s")
        here = home_of(backend, "s")
        environ = json.loads((here.scratch / "environ").read_text())
        assert "canary" not in environ.values()
        assert environ["MINE"] == "1"
        assert (environ["OMP_NUM_THREADS"], environ["MKL_NUM_THREADS"]) == ("2", "1")
        assert environ["TMPDIR"] == str(here.tmp)
        assert environ["ROPEWALK_NODE"] == str(here.tag)
        opened = [name for name in json.loads((here.scratch / "fds").read_text()) if "/proc/" not in name]
        assert {name.partition(":")[0] for name in opened} == {
            "/dev/null",
            str(here.log),
            str(here.path / "lock"),
            "socket",
        }

    async def test_limits_what_the_kernel_lets_a_node_do(self, backend: LocalBackend) -> None:
        await backend.launch(request("s"))
        process = psutil.Process(await up(backend, "s"))
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert oom_score(process.pid) == 500
        assert os.getsid(process.pid) == process.pid
        assert home_of(backend, "s").config.stat().st_mode & 0o777 == 0o600

    async def test_keeps_the_schedulers_port_from_others_until_it_listens(self, backend: LocalBackend) -> None:
        (result,) = await backend.launch(request("s"))
        assert result.address
        port = int(result.address.rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            other.bind(("127.0.0.1", port))
        with socket.socket() as dask:  # which sets SO_REUSEADDR
            dask.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            dask.bind(("127.0.0.1", port))
            dask.listen()

    async def test_of_a_node_whose_directory_was_removed_finds_the_one_that_runs(self, backend: LocalBackend) -> None:
        (first,) = await backend.launch(request("s"))
        await up(backend, "s")
        home_of(backend, "s").path.rename(home_of(backend, "s").path.parent.parent.parent / "removed")
        assert (await look(backend, "s")).answer is Answer.RUNNING
        assert [node.name for node in await backend.inventory()] == ["s"]
        (again,) = await backend.launch(request("s"))
        assert again.cloud_id == first.cloud_id

    async def test_with_a_program_that_is_missing_ends_with_a_log(self, root: Path) -> None:
        backend = LocalBackend(root, INSTALLATION, HostedSettings(), program=root / "missing.py")
        await backend.launch(request("s"))
        assert (await gone(backend, "s")).exit_code == 2
        assert "missing.py" in (await backend.logs(handle("s"))).text
        await backend.close()

    @pytest.mark.parametrize("name", ["../up", "a/b", "", ".", ".hidden", "x" * 121, "a\0b"])
    async def test_refuses_names_that_leave_the_directory(self, backend: LocalBackend, name: str) -> None:
        with pytest.raises(FixItError) as caught:
            await backend.launch(request(name))
        assert caught.value.field == "name"

    async def test_refuses_a_host_that_is_not_of_this_machine(self, root: Path) -> None:
        backend = LocalBackend(root, INSTALLATION, HostedSettings(listen_host="192.0.2.1"), program=PROGRAM)
        (result,) = await backend.launch(request("s"))
        assert isinstance(result.error, FixItError)
        assert result.error.field == "listen_host"
        assert not (await backend.check()).ok
        await backend.close()

    async def test_of_many_nodes_at_once_and_their_end(self, backend: LocalBackend) -> None:
        names = [f"s{number}" for number in range(40)]
        results = await backend.launch(request(*names))
        assert [result.error for result in results] == [None] * 40
        assert len({result.address for result in results}) == 40
        await backend.stop([handle(name) for name in names])
        for name in names:
            await gone(backend, name)
        assert await backend.inventory() == []


class TestEnd:
    async def test_by_itself_is_told_with_its_status(self, backend: LocalBackend, root: Path) -> None:
        await backend.launch(request("s", exit=80))
        assert (await gone(backend, "s")).exit_code == 80
        assert (await look(make(root), "s")).exit_code == 80

    async def test_by_a_signal_is_told_with_the_signal(self, backend: LocalBackend) -> None:
        await backend.launch(request("s"))
        os.kill(await up(backend, "s"), signal.SIGKILL)
        sighting = await gone(backend, "s")
        assert sighting.exit_code == -9
        assert "SIGKILL" in (sighting.reason or "")

    async def test_removes_keys_and_data_at_once_and_keeps_the_log(self, backend: LocalBackend) -> None:
        await backend.launch(request("s"))
        pid = await up(backend, "s")
        here = home_of(backend, "s")
        assert here.config.exists()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not here.config.exists() and not here.scratch.exists() and not here.tmp.exists())
        assert here.log.read_text() == "started\n"

    async def test_of_a_stopped_process_is_forced(self, backend: LocalBackend) -> None:
        await backend.launch(request("s"))
        pid = await up(backend, "s")
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        await backend.stop([handle("s")])
        assert (await gone(backend, "s")).exit_code == -9

    @pytest.mark.parametrize("clear", [False, True], ids=["tagged", "without environment"])
    async def test_is_forced_on_a_deaf_node_and_what_it_started(self, backend: LocalBackend, clear: bool) -> None:
        await backend.launch(request("s", deaf=True, child=True, clear=clear))
        pid = await up(backend, "s")
        child = child_of(backend, "s")
        await backend.stop([handle("s")])
        await gone(backend, "s")
        assert not runs(pid)
        assert not runs(child)

    async def test_takes_what_a_killed_node_started_with_it(self, backend: LocalBackend) -> None:
        await backend.launch(request("s", child=True))
        pid = await up(backend, "s")
        child = child_of(backend, "s")
        os.kill(pid, signal.SIGKILL)
        await gone(backend, "s")
        assert not runs(child)

    async def test_is_not_said_of_a_process_that_is_alive_but_let_go_of_its_lock(
        self, backend: LocalBackend, root: Path
    ) -> None:
        await backend.launch(request("s"))
        await up(backend, "s")
        (home_of(backend, "s").path / "lock").unlink()
        assert (await look(make(root), "s")).answer is Answer.RUNNING


class TestRecycledPid:
    @pytest.fixture
    def bystander(self) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("wrong", ["start", "boot"])
    async def test_is_never_killed_and_its_node_is_gone(
        self, backend: LocalBackend, bystander: subprocess.Popen[bytes], wrong: str
    ) -> None:
        real = processes.identity_of(bystander.pid)
        assert real is not None
        here = home_of(backend, "s")
        here.make()
        here.write_about(None)
        here.write_identity(
            Identity(real.pid, "1" if wrong == "start" else real.start, "b" if wrong == "boot" else real.boot)
        )
        await backend.stop([handle("s")])
        await gone(backend, "s")
        assert bystander.poll() is None
        assert runs(bystander.pid)

    def test_gets_no_signal(self, bystander: subprocess.Popen[bytes]) -> None:
        processes.kill([Identity(bystander.pid, "1", processes.boot_id())])
        assert runs(bystander.pid)

    async def test_of_a_session_leader_does_not_make_its_session_ours(
        self, backend: LocalBackend, bystander: subprocess.Popen[bytes]
    ) -> None:
        stale = Identity(bystander.pid, "1", processes.boot_id())
        assert Table().members(home_of(backend, "s").tag, stale) == []


class TestFileSystem:
    async def test_full_disk_at_a_launch_is_tried_again_and_starts_nothing(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A real full disk needs root and a mount; what the code sees of it is this errno, wherever it writes.
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for method in ("make", "write_about", "write_config"):
            with monkeypatch.context() as patch:
                patch.setattr(home.NodeHome, method, full)
                (result,) = await backend.launch(request("s"))
            assert isinstance(result.error, TryAgainError)
            assert "No space left" in result.error.message
            assert str(home_of(backend, "s").path) in result.error.message
        assert not home_of(backend, "s").config.exists()
        (result,) = await backend.launch(request("s"))
        assert result.error is None

    async def test_full_disk_after_the_start_does_not_lose_the_node(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(home.NodeHome, "write_identity", full)
            (result,) = await backend.launch(request("s"))
        assert isinstance(result.error, TryAgainError)
        await up_by_tag(backend, "s")
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert home_of(backend, "s").config.exists()
        await up(backend, "s")
        assert home_of(backend, "s").log.read_text() == "started\n"

    async def test_full_disk_does_not_keep_a_node_from_being_stopped(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = make(root, grace=PATIENCE)  # it is to end because it was asked
        await backend.launch(request("s"))
        pid = await up(backend, "s")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for method in ("forbid", "write_ended"):
            monkeypatch.setattr(home.NodeHome, method, full)
        with pytest.raises(TryAgainError):
            await backend.stop([handle("s")])
        await gone(backend, "s")
        assert not runs(pid)
        monkeypatch.undo()
        # Not at once: without a record of its end, whoever cleans up after it holds its lock for a moment.
        assert (await gone(backend, "s")).exit_code == -15
        await backend.close()

    async def test_directory_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        backend = make(tmp_path / "file" / "local")
        (result,) = await backend.launch(request("s"))
        assert isinstance(result.error, FixItError)
        assert str(tmp_path / "file") in result.error.message
        assert result.error.field == "directory"
        with pytest.raises(FixItError):
            _ = [resource async for resource in backend.prepare()]
        await backend.close()

    async def test_read_only_directory_fails_the_check_and_names_it(
        self, backend: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Root may write everywhere, so that the mode of a directory would prove nothing here.
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", refuse)
            report = await backend.check()
        (failed,) = [item for item in report.items if item.status == "failed"]
        assert failed.name == "directory"
        assert str(root) in failed.message

    async def test_that_cannot_be_read_is_unknown_and_never_gone(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await backend.launch(request("s"))

        def broken(*_: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(home.NodeHome, "identity", broken)
            sighting = await look(backend, "s")
            with pytest.raises(TryAgainError):
                await backend.inventory()
        assert sighting.answer is Answer.UNKNOWN
        assert "Input/output error" in (sighting.reason or "")

    async def test_damaged_records_do_not_hide_a_node(self, backend: LocalBackend) -> None:
        (first,) = await backend.launch(request("s"))
        await up(backend, "s")
        (home_of(backend, "s").path / "process.json").write_text("{")
        (home_of(backend, "s").path / "about.json").write_bytes(b"\xff[")
        sighting = await look(backend, "s")
        assert (sighting.answer, sighting.cloud_id) == (Answer.RUNNING, first.cloud_id)


async def up_by_tag(backend: LocalBackend, name: str) -> None:
    tag = home_of(backend, name).tag
    await eventually(lambda: Table().leader(tag) is not None)


class TestRetention:
    async def test_removes_logs_of_ended_nodes_only(self, backend: LocalBackend) -> None:
        await backend.launch(request("s", exit=0))
        await backend.launch(request("s2"))
        await backend.stop([handle("s3")])
        await gone(backend, "s")
        await eventually(lambda: not backend._stopping)  # it would hold the lock of what is to be removed
        long_ago = time.time() - 31 * 24 * 3600
        for name, file in (("s", "ended.json"), ("s3", "stop")):
            os.utime(home_of(backend, name).path / file, (long_ago, long_ago))
        await backend.inventory()
        assert [home_of(backend, name).exists() for name in ("s", "s2", "s3")] == [False, True, False]

    async def test_teardown_refuses_while_nodes_run(self, backend: LocalBackend) -> None:
        resources = [resource async for resource in backend.prepare()]
        await backend.launch(request("s"))
        with pytest.raises(FixItError, match="still run"):
            _ = [resource async for resource in backend.teardown(resources)]
        assert home_of(backend, "s").exists()


class TestWithoutPidfd:
    async def test_the_end_of_a_node_is_told(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = make(root, grace=0.3)  # first: a warm parent is not had without it, and all tests share one
        monkeypatch.delattr(os, "pidfd_open")
        await backend.launch(request("s", "s2", deaf=True))
        os.kill(await up(backend, "s"), signal.SIGKILL)
        while (await look(backend, "s")).answer is not Answer.GONE:
            await asyncio.wait_for(backend.changed(), PATIENCE)
        await up(backend, "s2")
        await backend.stop([handle("s2")])
        await gone(backend, "s2")
        await backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_whose_first_thread_has_ended_lives_until_its_last_one_does() -> None:
    code = (
        "import ctypes, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "ctypes.CDLL(None).pthread_exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        identity = processes.identity_of(process.pid)
        assert identity is not None
        assert processes.alive(identity)
        assert process.poll() is None
        processes.kill([identity])
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_nothing_is_left_of_these_tests() -> None:
    wait_until(lambda: not Table().tags(INSTALLATION))
    with suppress(psutil.Error):
        assert [
            p for p in psutil.process_iter() if str(PROGRAM) in p.cmdline() and INSTALLATION in str(p.environ())
        ] == []
