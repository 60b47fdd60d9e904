"""What users' code on this machine can do to the server, to other accounts, and to the machine: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from ropewalk.backends.local import LocalBackend, cgroups, leftovers, processes
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.port import Answer, ClusterRef, LaunchRequest, NodeHandle, NodeLaunch, NodeShape, Sighting
from ropewalk.errors import FixItError
from ropewalk.schemas.cloud_accounts import CheckStatus, HostedSettings, Isolate
from ropewalk.schemas.clusters import NodeRole
from tests.support import intruder, isolated, spawners
from tests.support.waiting import eventually

PROGRAM = Path(intruder.__file__)
PROCESS_LIMIT = 64
MEMORY = 64 * 2**20

ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os._exit(0)
os.wait()
"""
"""Start a process with no environment, in a session of its own, without descriptors, and whose parent has ended."""

HOG = "hog = []\nwhile True: hog.append(bytearray(os.urandom(1) * 2**22))"


def existing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if Path(path).exists()]


class Machine:
    """A data directory with a server's files, and the accounts' nodes."""

    def __init__(self, mode: str = "plain", **settings: Any) -> None:
        self.mode = mode
        self.data = isolated.data_dir()
        self.installation = f"inst-{uuid.uuid4().hex}"
        for name in ("encryption.key", "ropewalk.db", "ropewalk.toml"):
            (self.data / name).write_text("secret")  # 0644: until now the directory kept others out
        self.settings = HostedSettings(
            **{"isolation": Isolate.REQUIRED, "uid_base": isolated.UID_BASE, "process_limit": PROCESS_LIMIT, **settings}
        )
        self.backend = self.server()

    def server(self) -> LocalBackend:
        return LocalBackend(
            self.data / "local",
            self.installation,
            self.settings,
            program=PROGRAM,
            stop_grace=0.2,
            interpreter=isolated.interpreter(),
            spawner=spawners.spawner(self.mode),
        )

    async def launch(
        self, account: str, code: str = "", *, secret: str | None = None, key: str = "", memory: int = MEMORY
    ) -> NodeHandle:
        """Start a node of *account*, whose cluster and node have its name, that runs *code*."""
        ref = ClusterRef(self.installation, account, f"cluster-{account}", account)
        config = {"options": {"code": f"import os\n{textwrap.dedent(code)}"}, "tls": {"key": key}}
        environ = {"SECRET_OF": secret or account}
        node = NodeLaunch(f"node-{account}", NodeRole.SCHEDULER, NodeShape(1, memory), config, environ)
        (result,) = await self.backend.launch(LaunchRequest(ref, [node]))
        if result.error is not None:
            raise result.error
        return NodeHandle(node.name, ref.id, node.role)

    async def result(self, node: NodeHandle) -> Any:
        """Wait until the node's code has run; return what it found."""

        async def written() -> str | None:
            lines = (await self.backend.logs(node)).text.splitlines()
            assert not any(line.startswith("Traceback") for line in lines), lines
            return next((line for line in lines if line.startswith("result ")), None)

        return json.loads((await eventually(written)).removeprefix("result "))

    def home(self, node: NodeHandle) -> NodeHome:
        return self.backend._home(node)

    def pid(self, node: NodeHandle) -> int:
        identity = self.home(node).identity()
        assert identity is not None
        return identity.pid

    async def stop(self, node: NodeHandle) -> Sighting:
        await self.backend.stop([node])
        return await self.gone(node)

    async def gone(self, node: NodeHandle) -> Sighting:
        async def seen() -> Sighting | None:
            sighting = (await self.backend.observe([node])).sightings[node.name]
            return sighting if sighting.answer is Answer.GONE else None

        return await eventually(seen)

    async def close(self) -> None:
        for node in await self.backend.inventory():
            await self.stop(node)
        await self.backend.close()


@pytest.fixture(scope="module", autouse=True)
def no_warm_parent_left() -> Iterator[None]:
    yield
    spawners.close_all()


@pytest.fixture(params=["plain", "isolated"])
async def machine(request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    """With nodes that are processes of their own, and with nodes that are forked from a warm parent that is root."""
    isolated.interpreter()
    machine = Machine(request.param)
    yield machine
    await machine.close()


@pytest.fixture
def limited(machine: Machine) -> Machine:
    """The same, where the kernel can limit memory and processes."""
    if not {"memory", "pids"} <= set(machine.backend._guard.cgroups.controllers):
        pytest.skip("the memory and pids controllers cannot be used here")
    return machine


class TestReading:
    async def test_neither_the_servers_files_nor_another_accounts_can_be_read_or_changed(
        self, machine: Machine
    ) -> None:
        victim = await machine.launch("victim", "open('precious', 'w').write('data')")
        await machine.result(victim)
        home, pid = machine.home(victim), machine.pid(victim)
        own = machine.data / "local" / "clusters" / "cluster-thief" / "node-thief"
        files = [
            *(machine.data / name for name in ("encryption.key", "ropewalk.db", "ropewalk.toml", "local/uids.json")),
            *(home.path / name for name in ("about.json", "process.json", "log", "lock", "scratch/precious")),
            *(own / name for name in ("about.json", "process.json", "log", "lock")),
            *(Path(f"/proc/{pid}/{name}") for name in ("environ", "mem", "fd/1", "cwd/precious")),
            *(Path(f"/proc/{os.getpid()}/{name}") for name in ("environ", "mem")),
        ]
        folders = [machine.data, machine.data / "local", machine.data / "local" / "clusters", own.parent, own]
        folders += [home.path, home.scratch, home.tmp, Path(f"/proc/{pid}/fd")]
        thief = await machine.launch(
            "thief",
            f"""
            import time
            while not os.path.exists({str(own / "process.json")!r}):
                time.sleep(0.01)
            result = {{}}
            for path in {[str(path) for path in files]!r}:
                result["read " + path] = attempt(lambda: open(path).read())
                result["write " + path] = attempt(lambda: open(path, "r+"))
                result["remove " + path] = attempt(lambda: os.unlink(path))
            result["own folder"] = attempt(lambda: [open("mine", "w").write("x"), open("mine").read(), os.listdir()])
            for path in {[str(path) for path in folders]!r}:
                result["list " + path] = attempt(lambda: os.listdir(path))
                result["write into " + path] = attempt(lambda: open(path + "/mine", "w"))
            for number in (0, 9):
                result["signal %d" % number] = attempt(lambda: os.kill({pid}, number))
                result["signal server %d" % number] = attempt(lambda: os.kill({os.getpid()}, number))
            """,
        )
        found = await machine.result(thief)
        assert len(found) == 3 * len(files) + 2 * len(folders) + 4 + 1
        assert found.pop("own folder") == "done"  # what is refused is not refused for another reason
        assert {what: how for what, how in found.items() if how != "PermissionError"} == {}
        assert machine.pid(victim) == pid
        assert (home.scratch / "precious").read_text() == "data"

    async def test_its_own_configuration_cannot_be_read_a_second_time(self, machine: Machine) -> None:
        node = await machine.launch("a", "result = [attempt(lambda: os.read(0, 1)), os.read(0, 1).decode()]")
        assert await machine.result(node) == ["done", ""]
        assert not machine.home(node).config.exists()

    async def test_a_configuration_larger_than_a_pipe_arrives_whole(self, machine: Machine) -> None:
        node = await machine.launch("a", f"text = {'x' * 200_000!r}\nresult = len(text)")
        assert await machine.result(node) == 200_000

    async def test_what_only_the_directory_protected_is_closed_before_others_may_pass(self, machine: Machine) -> None:
        await machine.launch("a")
        assert stat.S_IMODE(machine.data.stat().st_mode) == 0o701
        closed = [path for path in machine.data.iterdir() if path.is_file() and path.stat().st_mode & 0o007]
        assert closed == []


class TestRights:
    async def test_a_node_has_no_rights_but_its_users_and_no_way_to_get_any(self, machine: Machine) -> None:
        node = await machine.launch(
            "a",
            """
            status = dict(line.split(":", 1) for line in open("/proc/self/status"))
            result = {
                "ids": [*os.getresuid(), *os.getresgid()],
                "groups": os.getgroups(),
                "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
                "no new privileges": int(status["NoNewPrivs"]),
                "become root": [attempt(lambda: os.setuid(0)), attempt(lambda: os.setgroups([0]))],
                "change root": attempt(lambda: os.chroot("/tmp")),
                "umask": os.umask(0),
            }
            """,
        )
        uid = isolated.UID_BASE
        assert await machine.result(node) == {
            "ids": [uid] * 6,
            "groups": [],
            "capabilities": [0] * 5,
            "no new privileges": 1,
            "become root": ["PermissionError"] * 2,
            "change root": "PermissionError",
            "umask": 0o077,
        }

    async def test_a_node_has_a_clean_environment_its_own_folders_and_descriptors_only(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROPEWALK_ENCRYPTION_KEY", "canary")
        node = await machine.launch(
            "a",
            """
            import tempfile
            def target(fd):
                try:
                    return os.readlink(f"/proc/self/fd/{fd}")
                except OSError:
                    return None
            result = {
                "environ": dict(os.environ),
                "cwd": os.getcwd(),
                "temporary": tempfile.mkdtemp(),
                "descriptors": sorted({target(fd) for fd in os.listdir("/proc/self/fd")} - {None}),
            }
            open("file", "w").close()
            open(os.path.expanduser("~/other"), "w").close()
            """,
        )
        found, home = await machine.result(node), machine.home(node)
        assert "canary" not in str(found)
        assert found["environ"]["HOME"] == found["cwd"] == str(home.scratch)
        assert found["environ"]["USER"] == found["environ"]["LOGNAME"] == f"ropewalk-{isolated.UID_BASE}"
        assert found["environ"]["SECRET_OF"] == "a"
        assert Path(found["temporary"]).parent == home.tmp
        kinds = {name.split(":")[0] for name in found["descriptors"]}
        assert kinds == {"pipe", "socket", str(home.path / "lock"), str(home.log)}
        await machine.stop(node)
        assert not home.scratch.exists()
        assert not home.tmp.exists()

    async def test_users_differ_between_accounts_and_stay_the_same_for_each(self, machine: Machine) -> None:
        async def uid(account: str) -> int:
            node = await machine.launch(account)
            await machine.result(node)
            return psutil.Process(machine.pid(node)).uids().real

        first, second = await uid("a"), await uid("b")
        assert first != second
        await machine.stop(NodeHandle("node-a", "cluster-a", NodeRole.SCHEDULER))
        machine.backend = machine.server()
        assert machine.backend._guard.isolation.uid("a") == first
        assert machine.backend._guard.isolation.uid("c") not in (first, second)

    async def test_code_that_runs_before_the_program_has_no_more_rights(self, machine: Machine) -> None:
        """The node's environment is its users': nothing may be executed with it before the rights are given up."""
        folder = isolated.public_folder()
        (folder / "sitecustomize.py").write_text("import os; print('uid', os.getuid(), flush=True)")
        ref = ClusterRef(machine.installation, "a", "cluster-a", "a")
        environ = {"PYTHONPATH": str(folder)}
        node = NodeLaunch("node-a", NodeRole.SCHEDULER, NodeShape(1, MEMORY), {"options": {}}, environ)
        await machine.backend.launch(LaunchRequest(ref, [node]))
        handle = NodeHandle("node-a", "cluster-a", NodeRole.SCHEDULER)
        await machine.result(handle)
        assert (await machine.backend.logs(handle)).text.startswith(f"uid {isolated.UID_BASE}\n")


class TestForkedNodes:
    """What nodes of several users share that are forked from one process: nothing that is anybody's."""

    @pytest.fixture
    async def warm(self) -> AsyncIterator[Machine]:
        isolated.interpreter()
        machine = Machine("isolated")
        yield machine
        await machine.close()

    async def test_come_from_the_parent_whose_home_is_nobodys(
        self, warm: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = await warm.launch("a", "import dask.config; result = [str(p) for p in dask.config.paths]")
        parent = spawners.spawner("isolated").parent
        assert parent is not None
        assert psutil.Process(warm.pid(node)).ppid() == parent.pid
        assert psutil.Process(parent.pid).environ()["HOME"] == "/nonexistent"
        assert [path for path in await warm.result(node) if path.startswith(str(Path.home()))] == []

    async def test_do_not_find_another_accounts_secrets_in_their_memory(self, warm: Machine) -> None:
        mark = uuid.uuid4().hex
        await warm.result(await warm.launch("victim", secret=f"{mark}{'1' * 32}", key=f"{mark}{'2' * 32}"))
        thief = await warm.launch(
            "thief",
            f"""
            import re
            wanted, found = re.compile(b"{mark}([123]){{32}}"), set()
            with open("/proc/self/mem", "rb", 0) as memory:
                for line in open("/proc/self/maps"):
                    span, rights = line.split()[:2]
                    first, last = (int(end, 16) for end in span.split("-"))
                    if rights[0] == "r" and "[v" not in line:
                        memory.seek(first)
                        found |= set(wanted.findall(memory.read(last - first)))
            result = sorted(digit.decode() for digit in found)
            """,
            secret=f"{mark}{'3' * 32}",
            memory=2**30,
        )
        assert await warm.result(thief) == ["3"]  # its own, which shows that it can search

    async def test_of_the_servers_own_user_are_not_forked_from_that_parent(self, warm: Machine) -> None:
        warm.settings = warm.settings.model_copy(update={"isolation": Isolate.OFF})
        warm.backend = warm.server()
        node = await warm.launch("a", "import dask.config; result = [str(p) for p in dask.config.paths]")
        assert str(Path.home() / ".config" / "dask") in await warm.result(node)


class TestLimits:
    async def test_a_node_that_uses_too_much_memory_is_ended_and_the_reason_told(self, limited: Machine) -> None:
        node = await limited.launch("hog", HOG)
        sighting = await limited.gone(node)
        assert sighting.reason is not None
        assert "more than its 64.00 MiB of memory" in sighting.reason

    async def test_the_reason_is_told_by_the_next_server_too(self, limited: Machine) -> None:
        node = await limited.launch("hog", HOG)
        pid = limited.pid(node)
        await eventually(lambda: processes.identity_of(pid) is None)
        limited.backend = limited.server()
        assert "of memory" in str((await limited.gone(node)).reason)

    async def test_a_node_that_was_asked_to_stop_was_not_ended_for_its_memory(self, limited: Machine) -> None:
        assert (await limited.stop(await limited.launch("a"))).reason == "It was asked to stop."

    async def test_a_fork_bomb_is_contained_and_removed(self, limited: Machine) -> None:
        node = await limited.launch(
            "bomb",
            """
            import signal
            forks = 0
            for _ in range(200):
                try:
                    if os.fork() == 0:
                        os.setsid()
                        signal.pause()
                    forks += 1
                except OSError:
                    pass
            result = forks
            """,
        )
        assert 0 < await limited.result(node) < PROCESS_LIMIT
        groups = limited.home(node).cgroups()
        assert len(cgroups.members(groups)) == PROCESS_LIMIT
        await limited.stop(node)
        assert cgroups.members(groups) == []

    async def test_a_process_that_hides_is_ended_with_its_node(self, limited: Machine) -> None:
        node = await limited.launch("a", ESCAPE)
        await limited.result(node)
        groups = limited.home(node).cgroups()
        (hidden,) = {member.pid for member in cgroups.members(groups)} - {limited.pid(node)}
        os.kill(limited.pid(node), signal.SIGKILL)
        await limited.gone(node)
        assert processes.identity_of(hidden) is None

    async def test_nodes_of_a_warm_parent_have_limits_too(self, limited: Machine) -> None:
        await limited.backend.close()
        limited.settings = limited.settings.model_copy(update={"isolation": Isolate.OFF})
        limited.backend = LocalBackend(
            limited.data / "local",
            limited.installation,
            limited.settings,
            program=PROGRAM,
            stop_grace=0.2,
            spawner=spawners.fresh("warm"),
        )
        node = await limited.launch("a", ESCAPE)
        await limited.result(node)
        groups, pid = limited.home(node).cgroups(), limited.pid(node)
        assert psutil.Process(pid).ppid() == getattr(spawners.spawner("warm").parent, "pid", None)
        hidden = {member.pid for member in cgroups.members(groups)} - {pid}
        assert len(hidden) == 1
        await limited.stop(node)
        assert existing(groups) == []
        assert processes.identity_of(hidden.pop()) is None

    async def test_nothing_is_left_of_control_groups(self, limited: Machine) -> None:
        nodes = [await limited.launch(account) for account in ("a", "b")]
        groups = [path for node in nodes for path in limited.home(node).cgroups()]
        assert len(groups) >= 4
        assert existing(groups) == groups
        for node in nodes:
            await limited.stop(node)
        assert existing([*groups, *(str(Path(path).parent) for path in groups)]) == []

    async def test_groups_that_nobody_cleaned_are_removed_later(self, limited: Machine) -> None:
        groups = limited.backend._guard.cgroups
        left = groups.make("killed", cgroups.Limits(MEMORY, 1, 32))
        node = await limited.launch("a")
        assert groups.remove_abandoned() == []  # it may be about to be filled
        removed = groups.remove_abandoned(now=time.time() + 3600)
        assert sorted(map(str, removed)) == sorted(left)
        assert existing(limited.home(node).cgroups())

    async def test_nodes_start_without_limits_where_groups_cannot_be_made(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "no")

        monkeypatch.setattr(cgroups, "_make", refuse)
        for account in ("a", "b"):
            await machine.result(await machine.launch(account))
        expected = 1 if machine.backend._guard.cgroups.controllers else 0
        assert len([record for record in caplog.records if "without some limits" in record.message]) == expected


class TestLeftovers:
    async def test_a_damaged_record_of_users_does_not_keep_nodes_from_being_found(self, machine: Machine) -> None:
        node = await machine.launch("a")
        (machine.data / "local" / "uids.json").write_text("{")
        assert [found.name for found in await machine.backend.inventory()] == [node.name]
        with pytest.raises(FixItError, match="damaged"):
            await machine.launch("b")

    async def test_shared_memory_of_killed_nodes_is_removed_once_the_account_is_idle(self, machine: Machine) -> None:
        name = f"/dev/shm/sem.mp-{uuid.uuid4().hex}"
        node = await machine.launch("a", f"open({name!r}, 'w').close()")
        await machine.result(node)
        await machine.backend.housekeeping()
        assert existing([name])
        os.kill(machine.pid(node), signal.SIGKILL)
        await machine.gone(node)
        await machine.backend.housekeeping()
        assert not existing([name])

    def test_files_of_others_stay(self, tmp_path: Path) -> None:
        (tmp_path / "mine").touch()
        assert leftovers.remove({isolated.UID_BASE + 7}, [tmp_path]) == []
        assert leftovers.remove({os.getuid()}, [tmp_path]) == []  # this test is a process of its user
        assert (tmp_path / "mine").exists()


class TestDecision:
    async def test_an_interpreter_in_a_private_directory_is_found_out_and_said(self, tmp_path: Path) -> None:
        isolated.interpreter()
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        python = private / "python"
        python.symlink_to(sys.executable)
        backend = LocalBackend(
            isolated.data_dir() / "local", "inst", HostedSettings(uid_base=isolated.UID_BASE), interpreter=str(python)
        )
        verdict = await backend.isolation()
        assert not verdict.isolated
        assert "closed to other users" in verdict.reason
        (item,) = [item for item in (await backend.check()).items if item.name == "user"]
        assert item.status is CheckStatus.WARNING
        assert verdict.reason in item.message
        await backend.close()

    async def test_an_interpreter_that_fails_for_other_users_is_found_out_by_trying(self) -> None:
        isolated.interpreter()
        folder = isolated.public_folder()
        python = folder / "python"
        python.write_text("#!/bin/sh\necho 'no distributed here' >&2\nexit 1\n")
        python.chmod(0o755)
        backend = LocalBackend(
            folder / "data" / "local", "inst", HostedSettings(uid_base=isolated.UID_BASE), interpreter=str(python)
        )
        assert "no distributed here" in (await backend.isolation()).reason
        await backend.close()

    async def test_check_says_that_accounts_are_kept_apart(self, machine: Machine) -> None:
        items = {item.name: item for item in (await machine.backend.check()).items}
        assert items["user"].status is CheckStatus.OK
        assert "user of their own" in items["user"].message

    async def test_required_but_impossible_starts_nothing(self, machine: Machine) -> None:
        machine.settings = machine.settings.model_copy(update={"uid_base": 1000})
        machine.backend = machine.server()
        assert machine.backend._guard.isolation.uids.conflict() is not None
        with pytest.raises(FixItError, match="users of their own") as caught:
            await machine.launch("a")
        assert caught.value.field == "isolation"
        assert await machine.backend.inventory() == []

    async def test_switched_off_runs_as_the_server(self, machine: Machine) -> None:
        machine.settings = machine.settings.model_copy(update={"isolation": Isolate.OFF})
        machine.backend = machine.server()
        assert await machine.result(await machine.launch("a", "result = os.getuid()")) == os.getuid()


async def test_a_node_whose_start_was_not_recorded_is_ended_with_all_that_it_started(machine: Machine) -> None:
    """As an isolated node: the record of its groups is there before the process."""
    node = await machine.launch("a", ESCAPE)
    await machine.result(node)
    groups = machine.home(node).cgroups()
    machine.home(node).path.joinpath("process.json").unlink()
    machine.backend = machine.server()
    assert [found.name for found in await machine.backend.inventory()] == [node.name]
    await machine.stop(node)
    assert existing(groups) == []


async def test_many_nodes_of_one_account_start_at_the_same_time(machine: Machine) -> None:
    ref = ClusterRef(machine.installation, "a", "cluster-a", "a")
    nodes = [NodeLaunch(f"n{i}", NodeRole.SCHEDULER, NodeShape(1, MEMORY), {"options": {}}) for i in range(8)]
    batches = [machine.backend.launch(LaunchRequest(ref, [node])) for node in nodes]
    results = [result for batch in await asyncio.gather(*batches) for result in batch]
    assert [result.error for result in results] == [None] * 8
    pids = [machine.pid(NodeHandle(node.name, ref.id, node.role)) for node in nodes]
    assert {psutil.Process(pid).uids().effective for pid in pids} == {isolated.UID_BASE}
