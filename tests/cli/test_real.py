"""The command line as a program, against a server as a program: what a user does on the first day."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import PATIENCE

PASSWORD = "correct horse battery"
BIN = Path(sys.executable).parent
TAG = "TEST_OF_ROPEWALK"


class Machine:
    """A server with its data, and a user's configuration; all processes carry a tag."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROPEWALK_", "DASK_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environ = {**kept, "DASK_CONFIG": str(home / "dask"), TAG: str(home)}
        self.url = ""
        self.server = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [BIN / "ropewalk", "server", "start", "--port", "0", "--data-dir", self.data],
            env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            found = re.search(r"Ropewalk is ready at (\S+)", line)
            if found:
                self.url = found[1]
                # Nobody reads the rest, and a full pipe would stop the server.
                self._drain = threading.Thread(target=process.stdout.read)
                self._drain.start()
                return process
        raise AssertionError("".join(seen))

    def run(self, *arguments: str, stdin: str = "", status: int = 0) -> str:
        done = subprocess.run(
            [BIN / "ropewalk", *arguments],
            env=self.environ, input=stdin, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "ropewalk", *arguments],
            env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                tagged = process.environ().get(TAG) == str(self.home)
                if tagged or any(str(self.home) in part for part in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        self.server.terminate()
        self.server.wait(PATIENCE)
        for process in self.processes():
            process.kill()
        self._drain.join(30)
        assert self.server.stdout is not None
        self.server.stdout.close()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    try:
        made.run(
            "server", "setup", "--username", "ada", "--password-stdin", "--data-dir", str(made.data), stdin=PASSWORD
        )
        made.run("login", "--server", made.url, "--user", "ada", "--password-stdin", stdin=PASSWORD)
        yield made
    finally:
        made.close()


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def state(machine: Machine, name: str) -> str:
    found = json.loads(machine.run("cluster", "list", "--all", "--json"))
    return next((str(cluster["state"]) for cluster in found if cluster["name"] == name), "none")


def test_the_first_day_of_a_user(machine: Machine) -> None:
    made = json.loads(
        machine.run("cluster", "create", "first", "-n", "1", "--worker-memory", "512 MiB", "--wait", "--json")
    )
    assert made["state"] == "ready"
    machine.run("cluster", "scale", "first", "2")
    eventually(lambda: json.loads(machine.run("cluster", "show", "first", "--json"))["workers_ready"] == 2)

    assert "first" in machine.run("cluster", "list")
    nodes = [node["name"] for node in json.loads(machine.run("cluster", "show", "first", "--json"))["nodes"]]
    scheduler = next(name for name in nodes if "scheduler" in name)
    assert "Scheduler" in machine.run("cluster", "logs", "first", "--node", scheduler)
    following = machine.start("cluster", "events", "ada/first", "--follow", "--json")
    logs = machine.start("cluster", "logs", "first", "--follow")

    assert "--yes" in machine.run("cluster", "stop", "first", status=2)
    assert "has stopped" in machine.run("cluster", "stop", "first", "--wait", "--yes")
    out, err = following.communicate(timeout=60)
    codes = [json.loads(line)["code"] for line in out.splitlines()]
    assert (following.returncode, err) == (0, "")
    assert codes[0] == "cluster.created"
    assert codes[-1] == "cluster.stopped"
    assert {"cluster.ready", "cluster.scaled", "node.stopped"} <= set(codes)
    out, err = logs.communicate(timeout=60)
    assert (logs.returncode, err) == (0, "")
    assert scheduler in out
    assert json.loads(machine.run("cluster", "cost", "first", "--json"))["per_hour"] == 0


def test_ctrl_c_never_leaves_a_half_made_cluster(machine: Machine) -> None:
    creating = machine.start("cluster", "create", "halfway", "-n", "1", "--worker-memory", "512 MiB", "--wait")
    eventually(lambda: state(machine, "halfway") in ("pending", "starting", "ready"))
    creating.send_signal(signal.SIGINT)
    out, err = creating.communicate(timeout=60)
    if "stopping the cluster" not in err:  # it was quicker than we were, whatever the signal did to its last moments
        assert state(machine, "halfway") == "ready", out + err
        machine.run("cluster", "stop", "halfway", "--yes")
    else:
        assert creating.returncode == 130, err
        assert "Traceback" not in err
    eventually(lambda: state(machine, "halfway") in ("stopped", "failed"))
    assert [process.pid for process in machine.processes() if "main.py" in " ".join(process.cmdline())] == []


def test_a_lost_password_is_set_anew_on_the_servers_machine_while_the_server_runs(machine: Machine) -> None:
    reset = ("server", "reset-password", "--password-stdin", "--data-dir", str(machine.data))
    said = machine.run(*reset, "--username", "ada", stdin=f"{PASSWORD} two\n")
    assert "The password of ada was reset" in said
    log_in = ("login", "--server", machine.url, "--user", "ada", "--password-stdin")
    machine.run(*log_in, stdin=PASSWORD, status=3)
    machine.run(*log_in, stdin=f"{PASSWORD} two")
    assert "was reset on the server's machine" in machine.run("audit", "--code", "user.updated", "--level", "warning")
    machine.run(*reset, "--username", "ada", stdin=f"{PASSWORD}\n")
    assert "Operators: ada" in machine.run(*reset, "--username", "nobody", stdin=f"{PASSWORD}\n", status=4)
    assert "at least 10" in machine.run(*reset, "--username", "ada", stdin="short\n", status=2)


def test_names_and_tokens_of_others_are_not_found(machine: Machine) -> None:
    machine.run("user", "create", "bob", "--password-stdin", stdin=f"{PASSWORD}\n")
    machine.run("account", "create", "weather", "--core-limit", "4")
    environ = {**machine.environ, "DASK_CONFIG": str(machine.home / "bob")}
    login = ["login", "--server", machine.url, "--user", "bob", "--password-stdin"]
    subprocess.run([BIN / "ropewalk", *login], env=environ, input=PASSWORD, text=True, check=True, capture_output=True)
    done = subprocess.run(
        [BIN / "ropewalk", "cluster", "list", "--account", "weather"],
        env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert "Yours: bob" in done.stderr


def test_limits_are_told_with_numbers(machine: Machine) -> None:
    told = machine.run("cluster", "create", "weather/huge", "-n", "50", status=5)
    assert "4" in told
    assert state(machine, "huge") == "none"


def test_the_reader_of_a_pipe_may_leave(machine: Machine) -> None:
    command = f"'{BIN}/ropewalk' audit --json | head -c 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=machine.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_the_audit_trail_names_who_did_it(machine: Machine) -> None:
    found = json.loads(machine.run("audit", "--json"))
    assert "ada" in {event["actor"] for event in found}
    assert "ada" in machine.run("audit")


def test_diagnostics_hide_the_token(machine: Machine) -> None:
    token = re.search(r"token: (\S+)", (machine.home / "dask" / "ropewalk.yaml").read_text())
    assert token is not None
    shown = machine.run("diagnostics") + machine.run("diagnostics", "--json") + machine.run("config", "list")
    assert token[1] not in shown
    assert machine.url in shown
