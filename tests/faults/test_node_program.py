"""The node program as a process: what it does when it is asked to stop, and how it says why it ended."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from distributed.core import rpc

from ropewalk.node import exits, main
from ropewalk.server.clusters.certificates import issue
from tests.support.ports import kept_port
from tests.support.waiting import PATIENCE, eventually, wait_until


class Nodes:
    """Starts nodes of one cluster; all end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.port = stack.enter_context(kept_port())
        self._stack = stack
        self._certificates = issue("c-test", datetime.now(UTC))

    def start(self, name: str, role: str, **config: Any) -> subprocess.Popen[bytes]:
        folder = self.folder / name
        folder.mkdir()
        port = self.port if role == "scheduler" else 0
        values = {
            "v": 1,
            "node": name,
            "role": role,
            "listen": f"tls://127.0.0.1:{port}",
            "scheduler": f"tls://127.0.0.1:{self.port}",
            "tls": self._certificates.for_role(role),
            "nthreads": 1,
            "memory_limit": 2**29,
            "directory": str(folder),
            **config,
        }
        path = folder / "config.json"
        path.write_text(json.dumps(values))
        with (folder / "log").open("wb") as output:
            process = subprocess.Popen([sys.executable, main.__file__, str(path)], stdout=output, stderr=output)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def control(self) -> dict[str, Any]:
        """What a control plane of this cluster connects with."""
        arguments: dict[str, Any] = main.security(self._certificates.for_role("control")).get_connection_args("client")
        return arguments

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(tmp_path, stack)


def _handles(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal; proc(5): SigCgt is a bit mask."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_worker_that_waits_for_its_scheduler_stops_in_order(nodes: Nodes) -> None:
    worker = nodes.start("w", "worker")
    wait_until(lambda: _handles(worker, signal.SIGTERM))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == exits.EXIT_OK, nodes.log("w")


def test_a_worker_says_that_it_found_no_scheduler(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    worker = nodes.start("w", "worker", worker_class="distributed.Worker", start_seconds=2)
    assert worker.wait(60) == exits.EXIT_NO_SCHEDULER, nodes.log("w")
    assert f"No scheduler at tls://127.0.0.1:{nodes.port}" in nodes.log("w")


def test_a_scheduler_whose_port_is_taken_says_so(nodes: Nodes) -> None:
    first = nodes.start("one", "scheduler")
    wait_until(lambda: "Scheduler at" in nodes.log("one") and _handles(first, signal.SIGTERM))
    second = nodes.start("two", "scheduler")
    assert second.wait(PATIENCE) == exits.EXIT_CANNOT_LISTEN
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE) == exits.EXIT_OK


@pytest.mark.parametrize(
    ("role", "config", "words"),
    [
        ("worker", {"worker_class": "no.such.Class"}, "worker_class 'no.such.Class' cannot be imported"),
        (
            "worker",
            {"worker_class": "distributed.Worker", "options": {"colour": 1}},
            "worker_options do not fit Worker",
        ),
        ("scheduler", {"options": {"colour": 1}}, "scheduler_options do not fit"),
    ],
)
def test_wrong_options_are_named_and_have_their_own_status(
    nodes: Nodes, role: str, config: dict[str, Any], words: str
) -> None:
    node = nodes.start("n", role, **config)
    assert node.wait(60) == exits.EXIT_CONFIG, nodes.log("n")
    assert words in nodes.log("n")


async def test_a_cluster_at_addresses_of_ipv6_ends_by_itself_and_its_workers_with_it(nodes: Nodes) -> None:
    contact = f"tls://[::1]:{nodes.port}"
    scheduler = nodes.start("s", "scheduler", listen=f"tls://[::]:{nodes.port}", contact=contact)
    worker = nodes.start("w", "worker", listen="tls://[::1]:0", scheduler=contact)
    await eventually(lambda: "Register worker" in nodes.log("s") and "Registered to" in nodes.log("w"))
    async with rpc(contact, connection_args=nodes.control()) as channel:
        await channel.ropewalk_configure(limits={"cluster_timeout": 0})
    assert await asyncio.to_thread(scheduler.wait, 60) == exits.EXIT_LIFETIME, nodes.log("s")
    assert await asyncio.to_thread(worker.wait, 60) == exits.EXIT_OK, nodes.log("w")
