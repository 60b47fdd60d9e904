"""A whole server that may change users: a task of a cluster finds everything closed but its own."""

from __future__ import annotations

import os
from pathlib import Path

import dask.config
import psutil
import pytest
from distributed import Client

import ropewalk
from tests.support.isolated_server import server, token
from tests.support.server_process import ServerProcess
from tests.support.waiting import wait_until

__all__ = ["server"]
"""A fixture."""

pytestmark = pytest.mark.timeout(400)  # machines may be busy


def processes_below(data_dir: Path) -> list[int]:
    """Return the nodes that have their working directory there."""
    seen = psutil.process_iter(["cwd"])
    return [process.pid for process in seen if (process.info["cwd"] or "").startswith(f"{data_dir}/")]


@pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")
def test_a_task_reads_nothing_of_the_server(server: ServerProcess) -> None:
    def spy(paths: list[str]) -> tuple[int, dict[str, str]]:
        found = {}
        for path in paths:
            try:
                Path(path).open().close()
            except OSError as exc:
                found[path] = type(exc).__name__
            else:
                found[path] = "opened"
        return os.getuid(), found

    settings = {"ropewalk.server": server.url, "ropewalk.token": token(server), "ropewalk.versions": "ignore"}
    secret = [str(path) for path in server.data_dir.iterdir() if path.is_file()]
    secret += [f"/proc/{server.process.pid}/environ", f"/proc/{server.process.pid}/mem", "/root/.ssh"]
    assert str(server.data_dir / "encryption.key") in secret
    assert str(server.data_dir / "ropewalk.db") in secret
    with (
        dask.config.set(settings),
        ropewalk.Cluster(n_workers=1, worker_memory="1 GiB", scheduler_memory="1 GiB") as cluster,
        Client(cluster) as client,
    ):
        uid, found = client.submit(spy, secret).result()
    assert uid >= 2_100_000_000
    assert set(found.values()) == {"PermissionError"}, found
    wait_until(lambda: not processes_below(server.data_dir))
    wait_until(lambda: "hosted.user" in server.output)
    assert "user of their own" in server.output
