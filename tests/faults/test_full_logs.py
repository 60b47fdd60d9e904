"""Logs that grow without end, and disks that are full: nodes and server go on, and the end of a log is kept."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.backends.local import LocalBackend, Spawner, loglimit
from ropewalk.backends.port import Answer, ClusterRef, LaunchRequest, LogChunk, NodeHandle, NodeLaunch, NodeShape
from ropewalk.schemas.cloud_accounts import HostedSettings
from ropewalk.schemas.clusters import NodeRole
from tests.support.installation import Installation
from tests.support.inventory import installed
from tests.support.server_process import server_process
from tests.support.waiting import PATIENCE, eventually, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="holes in files are made with Linux's fallocate")

NODE = NodeHandle("n1", "c1", NodeRole.SCHEDULER)
INSTALLATION = f"inst-{uuid.uuid4().hex}"
LIMIT = 2 * 2**20
CHATTY = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
print("ready", flush=True)
number = 0
while signal.sigwait({signal.SIGUSR1, signal.SIGTERM}) == signal.SIGUSR1:
    for number in range(number + 1, number + 60_001):
        print(f"{number:>49}")
    sys.stdout.flush()
print("last words", flush=True)
"""
"""Writes 3 MB for each SIGUSR1, and its last words at SIGTERM."""


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalBackend]:
    """A backend that runs one chatty node."""
    monkeypatch.setattr(loglimit, "CHECK_SECONDS", 0.05)
    program = tmp_path / "chatty.py"
    program.write_text(CHATTY)
    settings = HostedSettings(log_limit_mib=LIMIT // 2**20)
    made = LocalBackend(
        tmp_path / "local",
        INSTALLATION,
        settings,
        program=program,
        stop_grace=PATIENCE,  # for its last words
        spawner=Spawner(warm=False),
    )
    node = NodeLaunch(NODE.name, NODE.role, NodeShape(1, 2**28), {}, {})
    (result,) = await made.launch(LaunchRequest(ClusterRef(INSTALLATION, "team", "c1", "c"), [node]))
    assert result.error is None
    log = made._home(NODE).log
    await eventually(lambda: log.read_text() == "ready\n")
    yield made
    await stop(made)
    await made.close()


async def stop(backend: LocalBackend) -> None:
    await backend.stop([NODE])

    async def gone() -> bool:
        return (await backend.observe([NODE])).sightings[NODE.name].answer is Answer.GONE

    await eventually(gone)


async def chat(backend: LocalBackend, times: int) -> Path:
    """Let the node write 3 MB so many times; return its log."""
    home = backend._home(NODE)
    identity = home.identity()
    assert identity is not None
    for _ in range(times):
        size = home.log.stat().st_size
        os.kill(identity.pid, signal.SIGUSR1)
        await eventually(lambda size=size: home.log.stat().st_size == size + 3_000_000)  # type: ignore[misc] # bound now
    return home.log


async def read_all(backend: LocalBackend, cursor: str | None = None) -> list[LogChunk]:
    chunks = [await backend.logs(NODE, cursor, 100_000)]
    while chunks[-1].text and not chunks[-1].complete:
        chunks.append(await backend.logs(NODE, chunks[-1].cursor, 100_000))
    return chunks


def on_disk(log: Path) -> int:
    return 512 * log.stat().st_blocks


async def test_a_log_keeps_its_end_and_says_what_is_missing(backend: LocalBackend) -> None:
    log = await chat(backend, 3)
    await eventually(lambda: on_disk(log) <= LIMIT)
    text = "".join(chunk.text for chunk in await read_all(backend))
    first, _cut, *lines = text.splitlines()
    assert "bytes of this log are missing here" in first
    missing = int(first.split()[0].removeprefix("[").replace(",", ""))
    assert missing + len(text) - len(first) - 1 == len("ready\n") + 9_000_000
    assert "log_limit_mib" in first
    numbers = [int(line) for line in lines]
    assert numbers == list(range(numbers[0], 180_001))
    assert len(lines) >= LIMIT // 4 // 50


async def test_who_reads_on_misses_nothing_that_is_still_there(backend: LocalBackend) -> None:
    await chat(backend, 1)
    early = (await backend.logs(NODE, None, 1000)).cursor
    end = (await read_all(backend))[-1].cursor
    log = await chat(backend, 2)
    await eventually(lambda: on_disk(log) <= LIMIT)
    assert "missing here" in (await backend.logs(NODE, early, 1000)).text
    late = (await read_all(backend, end))[-1].cursor
    await stop(backend)
    (words, *_) = await read_all(backend, late)
    assert words.text == "last words\n"
    assert words.complete
    assert on_disk(log) <= LIMIT


async def test_a_log_within_its_limit_is_whole(backend: LocalBackend) -> None:
    await stop(backend)
    (chunk,) = await read_all(backend)
    assert (chunk.text, chunk.complete) == ("ready\nlast words\n", True)


async def test_where_files_can_have_no_holes_that_is_said_once_and_logs_stay_whole(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    class Unable:
        @staticmethod
        def fallocate64(*_arguments: int) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            tries.append(1)
            return -1

    monkeypatch.setattr(loglimit, "_LIBC", Unable)
    monkeypatch.setattr(loglimit, "_warned", set())
    log = await chat(backend, 1)
    await eventually(lambda: len(tries) >= 2)
    assert caplog.text.count("not kept within their limit") == 1
    assert on_disk(log) >= 3_000_000


def test_nodes_that_can_write_no_more_work_on_and_end_in_order(installation: Installation) -> None:
    """A limit of the size of files stands for a disk that is full; both are told to programs by a failing write."""
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.create(server, "c", n_workers=1)
        installation.wait_for(server, "ready", 1)
        place = installed(installation.data_dir.parent, installation.data_dir)
        nodes = place.node_processes()
        assert len(nodes) >= 2
        for node in nodes:
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        before = place.main_processes()
        installation.ask(server, "POST", "accounts/ada/clusters/c/scale", {"n_workers": 2})
        cluster = installation.wait_for(server, "ready", 2)
        assert before < place.main_processes()
        logs = installation.data_dir / "local" / "clusters" / cluster["id"]
        assert "worker-2" not in (logs / f"{cluster['id']}-scheduler" / "log").read_text(), "it could write"
        installation.ask(server, "DELETE", "accounts/ada/clusters/c")
        installation.wait_for(server, "stopped")
        wait_until(lambda: not place.node_processes())
        server.stop()
