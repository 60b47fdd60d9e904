"""Pods of the test suite's node agent: one local process each."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.kube_network import Network

_MOUNT = """
set -e
mount --bind "$1" /etc/hosts
mount -t tmpfs tmpfs /run
shift
while [ "$1" != -- ]; do
    mkdir -p "$2"
    mount --bind "$1" "$2"
    shift 2
done
shift
exec "$@"
"""
"""Arguments: the hosts file, pairs of a directory and where it is mounted, ``--``, the command."""


class Runner:
    """Gives pods places; without a *network* they are not run."""

    def __init__(self, home: Path, network: Network | None) -> None:
        self.home = home
        self.hosts = home / "hosts"
        self.network = network

    def pod(self, item: dict[str, Any]) -> Pod:
        return Pod(item, self.home / item["metadata"]["uid"], self.hosts, self.network)


class Pod:
    def __init__(self, item: dict[str, Any], home: Path, hosts: Path, network: Network | None) -> None:
        meta = item["metadata"]
        self.name, self.namespace, self.uid = meta["name"], meta["namespace"], meta["uid"]
        self.spec, self.meta = item["spec"], meta
        self.container = self.spec["containers"][0]
        self.address = "192.0.2.1"
        """Of nothing, until it is run."""
        self.space: str | None = None
        self.home, self.hosts, self.network = home, hosts, network
        self.log = home / "log"
        self.read = asyncio.Event()
        """Set once somebody has read the log to its end."""
        self.kept = False
        """Whether it stays until then."""
        self.ending = False
        self.reason: str | None = None
        self.cause: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._killed = False

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    async def prepare(self, secret: Callable[[str, str], Awaitable[dict[str, str]]]) -> None:
        assert self.network is not None, "this agent only marks pods"
        self.space, self.address = await self.network.plug(self.uid)
        self.home.mkdir()
        for volume in self.spec.get("volumes") or []:
            folder = self.home / volume["name"]
            folder.mkdir()
            if "secret" in volume:
                for key, value in (await secret(self.namespace, volume["secret"]["secretName"])).items():
                    (folder / key).write_bytes(base64.b64decode(value))
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            **{env["name"]: await self._value(env, secret) for env in self.container.get("env") or []},
        }

    async def _value(self, env: dict[str, Any], secret: Callable[[str, str], Awaitable[dict[str, str]]]) -> str:
        source = env.get("valueFrom") or {}
        if "secretKeyRef" in source:
            found = await secret(self.namespace, source["secretKeyRef"]["name"])
            return base64.b64decode(found[source["secretKeyRef"]["key"]]).decode()
        fields = {"metadata.name": self.name, "status.podIP": self.address}
        return fields[source["fieldRef"]["fieldPath"]] if "fieldRef" in source else str(env["value"])

    async def start(self) -> None:
        mounts = [
            text
            for mount in self.container.get("volumeMounts") or []
            for text in (str(self.home / mount["name"]), mount["mountPath"])
        ]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL"),  # it ends with the agent, however that ends
                *("ip", "netns", "exec", str(self.space)),
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "sh", str(self.hosts)),
                *(*mounts, "--", *self.container["command"]),
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                env=self.environ,
                start_new_session=True,
            )
        if self._killed:  # meanwhile
            self.kill()

    async def process_ended(self) -> None:
        if self._process is not None:
            await self._process.wait()
            self._signal(signal.SIGKILL)  # a container ends with its first process

    def exit_code(self) -> int:
        code = self._process.returncode if self._process is not None else 0
        return 128 - code if code is not None and code < 0 else int(code or 0)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self._killed = True
        self._signal(signal.SIGKILL)

    async def stop(self, grace: float) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            self.kill()

    async def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        if self.network is not None and self.space is not None:
            await self.network.unplug(self.space)

    def visible(self) -> dict[str, Any]:
        process = psutil.Process(self._process.pid) if self._process is not None else None
        return {"command": process.cmdline() if process else [], "environ": self.environ, "spec": self.spec}

    def status(self, phase: str, *, cause: str | None = None, **state: dict[str, Any]) -> dict[str, Any]:
        running = "running" in state
        flag = "True" if running else "False"
        found: dict[str, Any] = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [{"type": kind, "status": flag} for kind in ("Ready", "ContainersReady")],
            "containerStatuses": [
                {
                    "name": self.container["name"],
                    "image": self.container["image"],
                    "imageID": "",
                    "ready": running,
                    "started": running,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        return {**found, "reason": cause, "message": "The test suite wants it so."} if cause else found
