"""A real server with the local backend, in processes of its own, and a configuration that points to it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dask.config
import httpx
import psutil
import pytest

from ropewalk.client import calls, config
from ropewalk.client.http import Api
from ropewalk.schemas.identity import SetupRequest, TokenCreate
from tests.support.client import dask_config_restored
from tests.support.ports import kept_port
from tests.support.waiting import PATIENCE, wait_until

START_SECONDS = 2 * PATIENCE
"""For the server on a busy machine; alone it needs one."""

SMALL = {"worker_memory": "1 GiB", "scheduler_memory": "1 GiB"}
"""Sizes that fit many at once on a test machine."""


class LiveServer:
    """``ropewalk server start`` on the local backend; everything it starts can be found and is ended with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "server.log"
        self._kept = ExitStack()
        self.port = self._kept.enter_context(kept_port())
        """Its own over restarts, too."""
        self.url = ""
        self.token = ""
        self.settings: dict[str, str] = {}
        """Settings of its next start, by environment variable."""
        self._tag = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [str(Path(sys.executable).parent / "ropewalk"), "server", "start"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("ROPEWALK_", "DASK_"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port), "--data-dir", str(self.data), "--log-format", "json"],
                env={**environ, **self.settings, "HOME": str(self.directory), "TEST_OF_ROPEWALK": self._tag},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.url = wait_until(self._ready_url, within=START_SECONDS)

    def _ready_url(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        url = f"http://127.0.0.1:{self.port}"
        try:
            return url if httpx.get(f"{url}/readyz").is_success else ""
        except httpx.TransportError:
            return ""

    def set_up(self) -> None:
        """Make the operator, ada, and a token."""
        code = (self.data / "setup-code").read_text().strip()
        request = SetupRequest.model_validate({"code": code, "username": "ada", "password": secrets.token_hex(12)})
        with Api(self.url) as api:
            self.token = api(calls.setup(request)).token

    def api(self) -> Api:
        return Api(self.url, self.token)

    def new_token(self, *, days: float | None = 1) -> str:
        with self.api() as api:
            return api(calls.create_token(TokenCreate(name=secrets.token_hex(4), expires_in_days=days))).token

    def stop(self) -> None:
        """End the server; its clusters go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def nodes(self) -> list[psutil.Process]:
        """Every process that came of this server but the server itself."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("TEST_OF_ROPEWALK") == self._tag
                ours = ours or any(str(self.data) in part for part in process.cmdline())
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if ours and (self._process is None or process.pid != self._process.pid):
                found.append(process)
        return found

    def live(self) -> list[str]:
        """Names of the clusters that live."""
        with self.api() as api:
            return [cluster.name for cluster in api(calls.list_clusters(state="live"))]

    def stop_clusters(self) -> None:
        """End what a failed test left."""
        with self.api() as api:
            for cluster in api(calls.list_clusters(state="live")):
                api(calls.stop_cluster(cluster.account, cluster.id))
        wait_until(lambda: not self.live())

    def kill_everything(self) -> None:
        # Shown by pytest if the test failed.
        sys.stdout.write("".join(self.log.read_text().splitlines(keepends=True)[-100:]))
        try:
            self.stop()
        finally:
            self._kill_all()

    def _kill_all(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for process in self.nodes():
            process.kill()  # psutil compares the start time: never a stranger with a recycled pid
        self._kept.close()

    def environ(self) -> dict[str, str]:
        """The environment of a program that uses this server."""
        return {**os.environ, "DASK_ROPEWALK__SERVER": self.url, "DASK_ROPEWALK__TOKEN": self.token}


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests of a worker."""
    server = LiveServer(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        server.set_up()
        yield server
    finally:
        server.kill_everything()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server that the test may stop."""
    server = LiveServer(tmp_path)
    try:
        server.start()
        server.set_up()
        with configured(server):
            yield server
    finally:
        server.kill_everything()


def configured(server: LiveServer) -> dask.config.set:
    """Point the configuration to *server*, with small sizes."""
    return dask.config.set(
        {
            "ropewalk": {
                **config.defaults()["ropewalk"],
                "server": server.url,
                "token": server.token,
                "cluster": {**config.defaults()["ropewalk"]["cluster"], **SMALL},
            }
        }
    )


@pytest.fixture(autouse=True)
def _dask_config_restored() -> Iterator[None]:
    with dask_config_restored():
        yield


@pytest.fixture
def server(live_server: LiveServer) -> Iterator[LiveServer]:
    """The shared server, configured; the test fails if it leaves a cluster alive."""
    size = live_server.log.stat().st_size
    with configured(live_server):
        yield live_server
    with live_server.log.open() as log:
        log.seek(size)
        sys.stdout.write(log.read()[-20_000:])  # shown by pytest if the test failed
    deadline = time.monotonic() + PATIENCE
    while (left := live_server.live()) and time.monotonic() < deadline:
        time.sleep(0.1)
    live_server.stop_clusters()
    assert not left, f"clusters were left alive: {left}"
