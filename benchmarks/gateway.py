"""dask-gateway's own server, proxy and local backend as the other side of a benchmark, in a virtual environment.

It is installed from PyPI into ``.cache``, once. Two small programs stand in for ``dask-scheduler`` and ``dask-worker``,
which it starts and which distributed has not installed since 2026.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from benchmarks.program import ended_with_us, wait_gone

CACHE = Path(__file__).parents[1] / ".cache" / "dask-gateway"
VERSION = "2026.3.0"
REQUIREMENTS = (
    *(f"dask-gateway=={VERSION}", f"dask-gateway-server=={VERSION}", "sqlalchemy", "cryptography"),
    # What our nodes have, too, in the same versions.
    *(f"{name}=={importlib.metadata.version(name)}" for name in ("dask", "distributed", "bokeh", "numpy", "pandas")),
)
DRIVER = Path(__file__).with_name("gateway_driver.py")
INSTALL_SECONDS, ANSWER_SECONDS = 300.0, 60.0
WRAPPER = """#!{python}
from distributed.cli.dask_{role} import main

if __name__ == "__main__":  # a Nanny's worker imports this file, too
    main()
"""
CONFIG = """
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.address = "127.0.0.1:{private}"
c.Proxy.address = "127.0.0.1:{public}"
c.UnsafeLocalBackend.clusters_directory = {clusters!r}
c.ClusterConfig.scheduler_cmd = {scheduler!r}
c.ClusterConfig.worker_cmd = {worker!r}
c.ClusterConfig.worker_cores = 1
c.ClusterConfig.worker_memory = "1 G"
"""


def environment() -> Path:
    """Return the folder of the virtual environment, made anew when it has not what is required."""
    env, made = CACHE / "env", CACHE / "made.json"
    wanted = json.dumps([sys.version, WRAPPER, *REQUIREMENTS])
    if made.exists() and made.read_text() == wanted:
        return env
    CACHE.mkdir(parents=True, exist_ok=True)
    made.unlink(missing_ok=True)
    venv = [sys.executable, "-m", "venv", "--clear", str(env)]
    pip = [str(env / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
    for command in (venv, pip):
        subprocess.run(command, check=True, timeout=INSTALL_SECONDS)  # noqa: S603 - our own command
    for role in ("scheduler", "worker"):
        wrapper = env / "bin" / f"dask-{role}"
        wrapper.write_text(WRAPPER.format(python=env / "bin" / "python", role=role))
        wrapper.chmod(0o755)
    made.write_text(wanted)
    return env


class Gateway:
    """A running dask-gateway, and a program that uses it."""

    def __init__(self, driver: subprocess.Popen[str], server: psutil.Process) -> None:
        self._driver = driver
        self._server = server
        self._always = set(server.children(recursive=True))

    def once(self, workers: int) -> tuple[float, float]:
        """Return the seconds of one start, until the client has *workers*, and of one end.

        Raises:
            RuntimeError: it did not answer in time.
        """
        assert self._driver.stdin is not None  # noqa: S101 - it was asked for
        assert self._driver.stdout is not None  # noqa: S101 - see above
        self._driver.stdin.write(f"{workers}\n")
        self._driver.stdin.flush()
        answered, _, _ = select.select([self._driver.stdout], [], [], ANSWER_SECONDS)
        line = self._driver.stdout.readline() if answered else ""
        if not line:
            raise RuntimeError("dask-gateway did not start and stop a cluster in time")
        start, close = json.loads(line)
        # It says that a cluster is stopped while its processes still end, which would cost whoever comes next.
        wait_gone([process for process in self._server.children(recursive=True) if process not in self._always])
        return float(start), float(close)


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """Run dask-gateway with its files in *folder*."""
    env = environment()
    public = _configure(env, folder)
    surroundings = {**os.environ, "PATH": f"{env / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}
    with (folder / "gateway.log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603 - our own command
            [str(env / "bin" / "dask-gateway-server"), "-f", str(folder / "config.py")],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=surroundings,
            start_new_session=True,
        )
        with ended_with_us(server), _driver(env, public, log, surroundings) as driver:
            assert driver.stdout is not None  # noqa: S101 - it was asked for
            if select.select([driver.stdout], [], [], ANSWER_SECONDS)[0]:
                driver.stdout.readline()  # the gateway answers, so its proxy is there, too
            yield Gateway(driver, psutil.Process(server.pid))


def _configure(env: Path, folder: Path) -> int:
    private, public = _free_ports(2)
    commands = {role: str(env / "bin" / f"dask-{role}") for role in ("scheduler", "worker")}
    text = CONFIG.format(private=private, public=public, clusters=str(folder / "clusters"), **commands)
    (folder / "config.py").write_text(text)
    return public


@contextmanager
def _driver(env: Path, port: int, log: IO[bytes], surroundings: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    driver = subprocess.Popen(  # noqa: S603 - our own program
        [str(env / "bin" / "python"), "-P", str(DRIVER), f"http://127.0.0.1:{port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=surroundings,
        text=True,
        start_new_session=True,
    )
    with driver, ended_with_us(driver, signal.SIGKILL):
        yield driver


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
