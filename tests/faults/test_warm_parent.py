"""What can go wrong with the process that nodes are forked from, and what must not be shared among its forks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from distributed import Client, Security

from ropewalk.backends.local import LocalBackend, Spawner, parent, parents, processes, spawner
from ropewalk.backends.local.parent import Command, WarmParent
from ropewalk.backends.local.processes import Identity
from ropewalk.backends.local.spawner import base_environ
from ropewalk.backends.port import Answer
from ropewalk.errors import TryAgainError
from ropewalk.schemas.cloud_accounts import HostedSettings
from tests.conformance.harness import INSTALLATION, answer, certificates, handle, request, stop_everything, until
from tests.support.waiting import PATIENCE, eventually, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no warm parents elsewhere")

S, W = handle("s"), handle("w1")


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawner]:
    """A spawner with a parent of its own that has imported little, so that killing it costs little."""
    monkeypatch.setattr(parent, "PRELOAD", ("distributed", "numpy"))
    monkeypatch.setattr(spawner, "FIRST_RETRY", 0.01)
    made = Spawner()
    made.start()
    assert made.wait_warm(60)
    yield made
    made.close()


@pytest.fixture
async def backend(warm: Spawner, tmp_path: Path) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(tmp_path / "local", INSTALLATION, HostedSettings(), spawner=warm)
    yield backend
    await stop_everything(backend)
    await backend.close()


@pytest.fixture
def no_other(warm: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parent's successor, which could be there before a busy test goes on, import for ever."""
    assert warm.parent is not None
    (tmp_path / "importing.py").write_text("import signal; signal.pause()")
    monkeypatch.setattr(parent, "PROGRAM", tmp_path / "importing.py")


def parent_pid(warm: Spawner) -> int:
    found = warm.wait_warm(PATIENCE)
    assert found is not None
    return found.pid


def ppid(pid: int) -> int:
    return psutil.Process(pid).ppid()


def run(warm: Spawner, tmp_path: Path, code: str, *, children: bool = False, **environ: str) -> tuple[Identity, Path]:
    """Spawn a program that consists of *code*; return its process and its output."""
    program, out = tmp_path / "program.py", tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    if not program.exists() or program.read_text() != code:
        program.write_text(code)
    with out.open("wb") as log:
        command = Command(program, ["1", "2"], {**base_environ(), **environ}, tmp_path, log, (), children)
        identity = warm.spawn(command)
    assert identity is not None
    return identity, out


def ended(identity: Identity) -> int | None:
    wait_until(lambda: not processes.alive(identity))
    code = processes.exit_code(identity)
    processes.forget(identity)
    return code


def pid_of(backend: LocalBackend, name: str) -> int:
    identity = backend._home(handle(name)).identity()
    assert identity is not None
    return identity.pid


class TestForkedProgram:
    def test_is_what_a_process_of_its_own_would_be(self, warm: Spawner, tmp_path: Path) -> None:
        code = (
            "import os, sys, signal, threading, json\n"
            "print(json.dumps([__name__, __file__, sys.argv, os.getcwd(), os.getsid(0) == os.getpid(),"
            " threading.active_count(), sorted(os.environ), os.environ['MINE'], os.umask(0),"
            " signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sorted(map(int, os.listdir('/proc/self/fd')))[:-1]]))"
        )
        identity, out = run(warm, tmp_path, code, MINE="x")
        assert ppid(identity.pid) == parent_pid(warm)
        assert ended(identity) == 0
        program = str(tmp_path / "program.py")
        assert json.loads(out.read_text()) == [
            *("__main__", program, [program, "1", "2"], str(tmp_path), True, 1),
            *(sorted([*base_environ(), "MINE"]), "x", 0o077, True, [0, 1, 2]),
        ]

    def test_is_seen_by_others_under_its_own_command_line_and_environment(self, warm: Spawner, tmp_path: Path) -> None:
        identity, _ = run(warm, tmp_path, "import signal; signal.pause()", MINE="x")
        seen = psutil.Process(identity.pid)
        assert seen.cmdline() == [sys.executable, "-P", str(tmp_path / "program.py"), "1", "2"]
        assert seen.environ() == {**base_environ(), "MINE": "x"}
        processes.kill([identity])
        assert ended(identity) == -signal.SIGKILL

    @pytest.mark.parametrize(
        ("code", "status", "said"),
        [("raise SystemExit(5)", 5, ""), ("raise SystemExit('no')", 1, ""), ("1/0", 1, "ZeroDivisionError")],
    )
    def test_ends_with_its_own_status(self, warm: Spawner, tmp_path: Path, code: str, status: int, said: str) -> None:
        identity, out = run(warm, tmp_path, code)
        assert ended(identity) == status
        assert said in out.read_text()

    def test_draws_random_numbers_of_its_own(self, warm: Spawner, tmp_path: Path) -> None:
        code = (
            "import random, numpy, uuid\nfrom multiprocessing import current_process as me\n"
            "print(random.random(), numpy.random.rand(), uuid.uuid4(), me().authkey[:4].hex(), sep='\\n')"
        )
        outs = [run(warm, tmp_path, code) for _ in range(3)]
        for identity, _ in outs:
            ended(identity)
        drawn = [out.read_text().split() for _, out in outs]
        assert [len(set(values)) for values in zip(*drawn, strict=True)] == [3, 3, 3, 3]

    def test_starts_processes_that_draw_numbers_of_their_own_and_end_with_it(
        self, warm: Spawner, tmp_path: Path
    ) -> None:
        code = (
            "import multiprocessing as m, os\n"
            "D = ['__import__(\"random\").random()', '__import__(\"numpy\").random.rand()']\n"
            "from concurrent.futures import ProcessPoolExecutor\n"
            "c = m.get_context('forkserver')\n"
            "for _ in range(2):\n"
            "    with ProcessPoolExecutor(1, c) as p:\n"
            "        print(*(p.submit(eval, x).result() for x in D), flush=True)\n"
        )
        temporary = tmp_path / ("long" * 40)
        temporary.mkdir(mode=0o700)
        identity, out = run(warm, tmp_path, code, children=True, TMPDIR=str(temporary))
        session = identity.pid
        assert ended(identity) == 0, out.read_text()
        values = out.read_text().split()
        assert len(set(values)) == len(values) == 4, values
        wait_until(lambda: not [p for p in processes.Table().processes() if p.session == session])

    def test_that_needs_another_environment_at_its_start_is_not_forked(self, warm: Spawner, tmp_path: Path) -> None:
        identity, _ = run(warm, tmp_path, "import signal; signal.pause()", OMP_NUM_THREADS="2")
        assert ppid(identity.pid) == os.getpid()
        processes.kill([identity])
        ended(identity)

    def test_is_what_the_file_is_now(self, warm: Spawner, tmp_path: Path) -> None:
        assert ended(run(warm, tmp_path, "raise SystemExit(3)")[0]) == 3
        assert ended(run(warm, tmp_path, "raise SystemExit(41)")[0]) == 41

    def test_finds_done_what_every_node_would_do_first(self, warm: Spawner, tmp_path: Path) -> None:
        code = (
            "from tornado import netutil\nfrom distributed import versions\n"
            "print(netutil._client_ssl_defaults.cache_info().currsize)\n"
            "print(versions._version_cached.cache_info().currsize > 5)"
        )
        identity, out = run(warm, tmp_path, code)
        assert ended(identity) == 0
        assert out.read_text().split() == ["1", "True"]

    def test_finds_its_standard_input(self, warm: Spawner, tmp_path: Path) -> None:
        program, out = tmp_path / "program.py", tmp_path / "out"
        program.write_text("import sys; print(sys.stdin.read())")
        (tmp_path / "in").write_text("told")
        with out.open("wb") as log, (tmp_path / "in").open("rb") as stdin:
            identity = warm.spawn(Command(program, ["-"], base_environ(), tmp_path, log, (), stdin=stdin))
        assert identity is not None
        assert ended(identity) == 0
        assert out.read_text() == "told\n"

    def test_of_another_interpreter_is_not_forked(self, warm: Spawner, tmp_path: Path) -> None:
        other = tmp_path / "python"
        other.symlink_to(sys.executable)
        program, out = tmp_path / "program.py", tmp_path / "out"
        program.write_text("import signal; signal.pause()")
        with out.open("wb") as log:
            identity = warm.spawn(Command(program, [], base_environ(), tmp_path, log, (), interpreter=str(other)))
        assert identity is not None
        assert ppid(identity.pid) == os.getpid()
        processes.kill([identity])
        ended(identity)


class TestParent:
    async def test_that_imports_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parent, "PRELOAD", ("distributed", "numpy"))
        monkeypatch.setattr(spawner, "IMPORT_PATIENCE", 60.0)
        cold = Spawner()
        backend = LocalBackend(tmp_path / "local", INSTALLATION, HostedSettings(), spawner=cold)
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert ppid(pid_of(backend, "s")) == parent_pid(cold)
        await stop_everything(backend)
        await backend.close()
        cold.close()

    async def test_that_imports_too_long_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "slow_module.py").write_text("import signal; signal.pause()")
        monkeypatch.setattr(parent, "PRELOAD", ("slow_module",))
        monkeypatch.setattr(spawner, "IMPORT_PATIENCE", 0.1)
        slow = Spawner(environ={**base_environ(), "PYTHONPATH": str(tmp_path)})
        backend = LocalBackend(tmp_path / "local", INSTALLATION, HostedSettings(), spawner=slow)
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert ppid(pid_of(backend, "s")) == os.getpid()
        await stop_everything(backend)
        await backend.close()
        slow.close()

    async def test_is_there_soon_after_the_server_asked_for_a_check(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parent, "PRELOAD", ())
        cold = Spawner()
        backend = LocalBackend(tmp_path / "local", INSTALLATION, HostedSettings(), spawner=cold)
        await backend.check()
        assert cold.wait_warm(60) is not None
        await backend.close()
        cold.close()

    def test_that_is_killed_is_replaced_and_its_nodes_go_on(self, warm: Spawner, tmp_path: Path) -> None:
        identity, _ = run(warm, tmp_path, "import signal; signal.pause()")
        first = parent_pid(warm)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: (found := warm.parent) is not None and found.pid != first)
        assert processes.alive(identity)
        assert not psutil.pid_exists(first)
        processes.kill([identity])
        wait_until(lambda: not processes.alive(identity))

    async def test_that_is_killed_costs_no_launch(self, backend: LocalBackend, warm: Spawner) -> None:
        os.kill(parent_pid(warm), signal.SIGKILL)
        results = await backend.launch(request("s", "w1"))
        assert [result.error for result in results] == [None, None]
        assert [await answer(backend, node) for node in (S, W)] == [Answer.RUNNING] * 2

    async def test_that_is_frozen_is_ended_and_costs_a_delay_only(
        self, backend: LocalBackend, warm: Spawner, no_other: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frozen = parent_pid(warm)
        monkeypatch.setattr(parent, "ANSWER_SECONDS", 0.3)
        os.kill(frozen, signal.SIGSTOP)
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert ppid(pid_of(backend, "s")) == os.getpid()
        assert not psutil.pid_exists(frozen)

    async def test_that_dies_between_fork_and_answer_leaves_one_node(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forked: list[int] = []
        fork = WarmParent.fork

        def lost(self: WarmParent, command: Command) -> int:
            forked.append(fork(self, command))
            self.close()
            raise parent.UnsureError("lost")

        with monkeypatch.context() as patch:
            patch.setattr(WarmParent, "fork", lost)
            (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert forked == [pid_of(backend, "s")]

    async def test_tells_nothing_of_a_node_that_outlived_it_but_that_it_is_gone(
        self, backend: LocalBackend, warm: Spawner
    ) -> None:
        await backend.launch(request("s"))
        assert ppid(pid_of(backend, "s")) == parent_pid(warm)
        os.kill(parent_pid(warm), signal.SIGKILL)
        os.kill(pid_of(backend, "s"), signal.SIGKILL)
        await until(backend, S, Answer.GONE)
        # Linux 6.15 and later tell; nobody can know otherwise.
        assert (await backend.observe([S])).sightings["s"].exit_code in (-9, None)

    def test_is_replaced_when_the_packages_change_and_stays_to_tell_how_its_nodes_end(
        self, warm: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = warm.wait_warm(60)
        assert old is not None
        first, _ = run(warm, tmp_path, "import signal; signal.pause()")
        monkeypatch.setattr(spawner, "packages", lambda: (("site-packages", 1),))
        monkeypatch.setattr(parent, "packages", lambda: (("site-packages", 1),))
        second, _ = run(warm, tmp_path, "import signal; signal.pause()")
        assert ppid(second.pid) == os.getpid()
        new = warm.wait_warm(60)
        assert new is not None
        assert new is not old
        processes.kill([first, second])
        assert [ended(first), ended(second)] == [-9, -9]
        assert old.process.poll() is not None

    @pytest.mark.parametrize(
        ("module", "why"),
        [
            ("import threading, signal; threading.Thread(target=signal.pause, daemon=True).start()", "threads"),
            ("import os; kept = os.open('/etc/hostname', 0)", "left open: /etc/hostname"),
        ],
    )
    def test_that_would_not_be_safe_to_fork_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, why: str
    ) -> None:
        (tmp_path / "unsafe_module.py").write_text(module)
        monkeypatch.setattr(parent, "PRELOAD", ("unsafe_module",))
        refused = WarmParent({**base_environ(), "PYTHONPATH": str(tmp_path)})
        ring, bell = socket.socketpair()
        with ring, bell:
            assert why in (refused.wait_ready(ring) or "")
        refused.close()

    def test_that_cannot_be_had_leaves_plain_subprocesses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(parent, "PROGRAM", tmp_path / "missing.py")
        cold = Spawner()
        cold.start()
        wait_until(lambda: "more slowly" in caplog.text)
        identity, _ = run(cold, tmp_path, "raise SystemExit(4)")
        assert ended(identity) == 4
        cold.close()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_ends_with_the_server_even_if_it_is_frozen(self, number: signal.Signals) -> None:
        code = "from tests.faults import test_warm_parent as t; t.serve()"
        server = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        with server.stdout:
            pid = int(server.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        server.send_signal(number)
        server.wait(PATIENCE)
        wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def serve() -> None:
    """Be a server with a warm parent, until a signal ends it."""
    parent.PRELOAD = ()  # type: ignore[assignment]  # nothing is forked
    made = Spawner()
    made.start()
    os.write(1, b"%d\n" % parent_pid(made))
    signal.pause()


class TestSpares:
    """Nodes that are forked ahead. There are five: one without children, and four with two each."""

    PAUSE = "import signal; signal.pause()"

    @staticmethod
    def spares(warm: Spawner) -> list[psutil.Process]:
        """Return the leaders, once all are there."""

        def there() -> list[psutil.Process] | None:
            found = [p for p in psutil.Process(parent_pid(warm)).children(recursive=True) if waits(p)]
            leaders = [p for p in found if os.getsid(p.pid) == p.pid]
            return leaders if (len(found), len(leaders)) == (13, 5) else None

        leaders = wait_until(there)
        assert leaders is not None
        return leaders

    def test_are_what_the_next_nodes_become_with_all_their_processes(self, warm: Spawner, tmp_path: Path) -> None:
        pids = {process.pid for process in self.spares(warm)}
        nodes = [run(warm, tmp_path, self.PAUSE, children=children, MINE="x")[0] for children in (True, False)]
        assert {node.pid for node in nodes} < pids
        helpers = psutil.Process(nodes[0].pid).children(recursive=True)
        assert len(helpers) == 2
        wait_until(lambda: [helper.environ().get("MINE") for helper in helpers] == ["x", "x"])
        processes.kill(nodes)
        assert [ended(node) for node in nodes] == [-signal.SIGKILL] * 2
        wait_until(lambda: not any(helper.is_running() for helper in helpers))

    def test_are_made_anew(self, warm: Spawner, tmp_path: Path) -> None:
        before = {process.pid for process in self.spares(warm)}
        identity, _ = run(warm, tmp_path, self.PAUSE)
        assert len(before & {process.pid for process in self.spares(warm)}) == 4
        processes.kill([identity])
        ended(identity)

    def test_have_copied_ahead_what_nodes_before_them_wrote_to(self, warm: Spawner, tmp_path: Path) -> None:
        (first,) = self.single(warm)
        before = first.memory_full_info().uss
        code = "import gc, signal; gc.unfreeze(); gc.collect(); print('up', flush=True); signal.pause()"
        identity, out = run(warm, tmp_path, code)
        assert identity.pid == first.pid
        forking = psutil.Process(parent_pid(warm))
        forking.suspend()  # it looks once, soon, at what the node wrote to, which may take its time
        wait_until(lambda: "up" in out.read_text())
        forking.resume()
        (second,) = self.single(warm)
        assert second.memory_full_info().uss > before + 2**20
        processes.kill([identity])
        ended(identity)

    def single(self, warm: Spawner) -> list[psutil.Process]:
        return [process for process in self.spares(warm) if not process.children()]

    @pytest.mark.parametrize("children", [True, False])
    def test_that_were_killed_cost_no_launch(self, warm: Spawner, tmp_path: Path, *, children: bool) -> None:
        killed = self.spares(warm)
        for process in killed:
            process.kill()
        wait_until(lambda: all(process.status() == psutil.STATUS_ZOMBIE for process in killed))
        identity, _ = run(warm, tmp_path, "raise SystemExit(7)", children=children)
        assert identity.pid not in {process.pid for process in killed}
        assert ppid(identity.pid) == parent_pid(warm)
        assert ended(identity) == 7

    async def test_that_is_frozen_costs_a_delay_only(
        self, backend: LocalBackend, warm: Spawner, no_other: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frozen = self.spares(warm)
        for process in frozen:
            process.suspend()
        monkeypatch.setattr(parent, "ANSWER_SECONDS", 0.3)
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert ppid(pid_of(backend, "s")) == os.getpid()
        wait_until(lambda: not any(process.is_running() for process in frozen))

    def test_end_with_their_parent_and_all_of_them(self, warm: Spawner) -> None:
        leaders = self.spares(warm)
        everyone = [*leaders, *(child for leader in leaders for child in leader.children(recursive=True))]
        os.kill(parent_pid(warm), signal.SIGKILL)
        wait_until(lambda: not any(process.is_running() for process in everyone))

    def test_are_given_up_by_a_parent_that_only_stays_to_tell_how_its_nodes_end(
        self, warm: Spawner, tmp_path: Path
    ) -> None:
        found = warm.wait_warm(60)
        assert found is not None
        identity, _ = run(warm, tmp_path, self.PAUSE)
        everyone = [*self.spares(warm)]
        found.retire()
        wait_until(lambda: not any(process.is_running() for process in everyone))
        processes.kill([identity])
        assert ended(identity) == -signal.SIGKILL


def waits(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()[-1:] == ["spare"]
    return False


class TestOffspring:
    """What ``multiprocessing`` starts in a node."""

    def test_is_started_by_multiprocessing_itself_where_the_fork_server_was_killed(
        self, warm: Spawner, tmp_path: Path
    ) -> None:
        code = (
            "import multiprocessing as m, os, psutil, signal\n"
            "server, = psutil.Process().children()\n"
            "server.kill()\nserver.wait()\n"
            "c = m.get_context('forkserver')\n"
            "p = c.Process(target=os._exit, args=(9,))\n"
            "p.start()\np.join()\nprint(p.exitcode)"
        )
        identity, out = run(warm, tmp_path, code, children=True)
        assert ended(identity) == 0, out.read_text()
        assert out.read_text().split()[-1] == "9"

    def test_tells_pid_and_status_and_finds_what_it_was_given(self, warm: Spawner, tmp_path: Path) -> None:
        code = (
            "import multiprocessing as m, os\n"
            "c = m.get_context('forkserver')\n"
            "for number in range(2):\n"
            "    r, w = c.Pipe(duplex=False)\n"
            "    p = c.Process(target=w.send, args=('given',))\n"
            "    p.start()\n    print(r.recv(), p.pid > 1)\n    p.join()\n    print(p.exitcode)\n"
            "p = c.Process(target=__import__('signal').pause)\n"
            "p.start()\np.kill()\np.join()\nprint(p.exitcode)"
        )
        identity, out = run(warm, tmp_path, code, children=True)
        assert ended(identity) == 0, out.read_text()
        assert out.read_text().split("\n") == [*["given True", "0"] * 2, "-9", ""]

    def test_leaves_no_semaphore_behind_when_all_is_killed(self, warm: Spawner, tmp_path: Path) -> None:
        code = (
            "import multiprocessing as m, signal\n"
            "lock = m.get_context('forkserver').Lock()\n"
            "print(lock._semlock.name, flush=True)\nsignal.pause()"
        )
        identity, out = run(warm, tmp_path, code, children=True)
        wait_until(lambda: out.read_text().strip())
        name = Path("/dev/shm", "sem." + out.read_text().strip().removeprefix("/"))
        assert name.exists()
        processes.kill([identity])
        ended(identity)
        wait_until(lambda: not name.exists())


class TestEnvironments:
    @pytest.fixture
    def light(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawner]:
        """A spawner whose parents import next to nothing."""
        monkeypatch.setattr(parent, "PRELOAD", ("wave",))
        monkeypatch.setattr(spawner, "FIRST_RETRY", 0.01)
        made = Spawner()
        yield made
        made.close()

    @staticmethod
    def environment(path: Path) -> str:
        """Make a virtual environment; return its interpreter."""
        venv.create(path, symlinks=True)
        return str(path / "bin" / "python")

    @staticmethod
    def say(made: Spawner, tmp_path: Path, interpreter: str, code: str) -> tuple[Identity, Path]:
        program, out = tmp_path / "program.py", tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        program.write_text(code)
        with out.open("wb") as log:
            identity = made.of(interpreter).spawn(
                Command(program, [], base_environ(), tmp_path, log, (), interpreter=interpreter)
            )
        assert identity is not None
        return identity, out

    def test_each_has_a_parent_of_its_own_that_its_nodes_are_forked_from(self, light: Spawner, tmp_path: Path) -> None:
        light.start()
        pythons = [self.environment(tmp_path / name) for name in ("one", "two")]
        pids = [parent_pid(light.of(python)) for python in pythons]
        assert len({*pids, parent_pid(light)}) == 3
        for python, expected in zip(pythons, pids, strict=True):
            identity, out = self.say(light, tmp_path, python, "import os, sys; print(sys.prefix, os.getppid())")
            assert ended(identity) == 0
            assert out.read_text().split() == [str(Path(python).parents[1]), str(expected)]

    def test_without_one_nodes_have_the_parent_of_all(self, light: Spawner) -> None:
        assert light.of(None) is light
        assert light.of(sys.executable) is light

    def test_the_one_that_was_not_used_for_longest_makes_room_and_still_tells_how_its_nodes_end(
        self, light: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parents, "MOST", 1)
        first, second = (self.environment(tmp_path / name) for name in ("one", "two"))
        old = parent_pid(light.of(first))
        identity, _ = self.say(light, tmp_path, first, "import signal; signal.pause()")
        new = parent_pid(light.of(second))
        assert psutil.pid_exists(old), "its node lives"
        processes.kill([identity])
        assert ended(identity) == -signal.SIGKILL
        wait_until(lambda: not psutil.pid_exists(old))
        assert psutil.pid_exists(new)

    def test_one_that_is_not_used_or_was_removed_has_none_any_more(
        self, light: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        removed, idle = (self.environment(tmp_path / name) for name in ("one", "two"))
        pids = [parent_pid(light.of(python)) for python in (removed, idle)]
        shutil.rmtree(tmp_path / "one")
        light.start()
        wait_until(lambda: not psutil.pid_exists(pids[0]))
        assert psutil.pid_exists(pids[1])
        monkeypatch.setattr(parents, "IDLE", -1.0)
        light.start()
        wait_until(lambda: not psutil.pid_exists(pids[1]))

    def test_all_end_with_the_parent_of_all(self, light: Spawner, tmp_path: Path) -> None:
        pid = parent_pid(light.of(self.environment(tmp_path / "one")))
        light.close()
        wait_until(lambda: not psutil.pid_exists(pid))


@pytest.mark.timeout(400)  # machines may be busy
class TestNanny:
    MEMORY = 2**30
    """Half of the node's, so that it is the Nanny who ends a worker, and never the kernel."""

    @pytest.fixture
    async def client(self, backend: LocalBackend) -> AsyncIterator[Client]:
        plain = request("s", "w1")
        settings = {"worker_class": "distributed.Nanny", "memory_limit": self.MEMORY}
        nodes = [replace(node, config={**node.config, **settings}) for node in plain.nodes]
        scheduler, _ = await backend.launch(replace(plain, nodes=nodes))
        tls = certificates("c1").for_role("client")
        security = Security(
            tls_ca_file=tls["ca"], tls_client_cert=tls["cert"], tls_client_key=tls["key"], require_encryption=True
        )

        async def listens() -> bool:
            with suppress(TryAgainError):
                _, writer = await backend.connect(S, scheduler.address or "")
                writer.transport.abort()
                return True
            return False

        await eventually(listens)
        async with Client(scheduler.address, security=security, asynchronous=True) as client:
            await client.wait_for_workers(1)
            yield client

    async def worker(self, client: Client, *before: int) -> int:
        """Return the pid of the worker, once it is none of *before*."""

        async def there() -> int | None:
            with suppress(OSError):
                for pid in (await client.run(os.getpid, on_error="ignore")).values():
                    return None if pid in before else int(pid)
            return None

        return await eventually(there, within=90)

    async def test_has_its_worker_forked_and_forks_another_when_it_dies_or_is_restarted(
        self, backend: LocalBackend, client: Client
    ) -> None:
        first = await self.worker(client)
        await client.restart()
        second = await self.worker(client, first)
        assert psutil.Process(second).cmdline()[-1] == "from multiprocessing.forkserver import main"
        assert ppid(ppid(second)) == pid_of(backend, "w1")
        os.kill(second, signal.SIGKILL)
        third = await self.worker(client, first, second)
        assert ppid(ppid(third)) == pid_of(backend, "w1")

    async def test_ends_a_worker_that_takes_too_much_memory(self, backend: LocalBackend, client: Client) -> None:
        await client.restart()  # from here on the Nanny watches
        first = await self.worker(client)
        work = f"(bytearray(b'x') * {self.MEMORY}, __import__('time').sleep(600))"
        hog = client.submit(eval, work, pure=False, retries=0)
        await self.worker(client, first)
        hog.release()
        assert "95% memory budget" in (await backend.logs(W)).text
