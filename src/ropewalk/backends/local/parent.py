"""The server's side of a warm parent (see ``warm.py``): start it, let it fork, ask how nodes ended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ropewalk.backends.local.becoming import MESSAGE_BYTES
from ropewalk.backends.local.confinement import FREE, Confinement

PROGRAM = Path(__file__).with_name("warm.py")
NODE_PROGRAM = Path(__file__).parents[2] / "node" / "main.py"
"""What nodes run; by path, so that they import nothing of Ropewalk."""

PRELOAD = (
    *("distributed", "distributed.dashboard.scheduler", "distributed.nanny", "distributed.http.scheduler.api"),
    *("distributed.http.scheduler.prometheus", "distributed.http.worker.prometheus", "distributed.http.scheduler.info"),
    *(
        "distributed.http.health",
        "distributed.http.proxy",
        "distributed.http.statics",
        "distributed.http.scheduler.json",
    ),
    *("distributed.http.scheduler.missing_bokeh", "distributed.shuffle", "distributed.versions", "tornado.netutil"),
    *("bokeh.server.server", "bokeh.models", "bokeh.plotting", "jinja2", "prometheus_client", "cryptography.x509"),
    *("lz4", "blosc", "numpy", "pandas", "pyarrow", "pyarrow.parquet", "pyarrow.dataset", "scipy", "fsspec"),
    *("dask.array", "dask.bag", "dask.dataframe", "dask.delayed", "dask.widgets", "asyncio", "ssl", "xml.etree"),
    *("tornado.platform.asyncio", "multiprocessing.synchronize", "multiprocessing.popen_forkserver"),
)
"""What nodes import at their start, and what most tasks do soon after."""

READY_SECONDS = 120.0
"""For the imports: 3 s, but on a cold disk or a busy machine many times that."""
ANSWER_SECONDS = 15.0
"""For one answer. A fork takes 10 ms, and on a machine whose processors ten others want took more than 5 s; a parent
that needs so long is frozen, and is ended."""


class UnsureError(Exception):
    """The parent did not answer: the node may have been forked or not. Its lock tells."""


class NotForkedError(Exception):
    """The parent could not fork the node, and nothing of it runs."""


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start: as which program, in which surroundings, and with which descriptors of ours."""

    program: Path
    arguments: Sequence[str]
    environ: Mapping[str, str]
    cwd: Path
    log: IO[bytes]
    keep: Sequence[int]
    children: bool = False
    """Whether it starts processes by multiprocessing, so that making that cheap is worth small processes beside it."""
    interpreter: str = sys.executable
    stdin: IO[bytes] | None = None
    confinement: Confinement = FREE

    @property
    def argv(self) -> list[str]:
        return [self.interpreter, "-P", str(self.program), *self.arguments]


def packages() -> tuple[tuple[str, int], ...]:
    """Return what changes whenever a package of this environment is added, removed or replaced.

    Installers write each package's ``.dist-info`` anew, which the time of its folder tells.
    """
    found = []
    for path in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        with contextlib.suppress(OSError):
            found.append((path, Path(path).stat().st_mtime_ns))
    return tuple(found)


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """Yield a descriptor of a file with no name that has *content* in it."""
    descriptor = os.memfd_create("ropewalk", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class WarmParent:
    """A process that forks nodes. Methods block, and may be called by several threads.

    Args:
        environ: The environment that all nodes share; libraries read it when they are imported.
        interpreter: The Python that it and its forks are.
        log: Where the parent writes what goes wrong with it.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        interpreter: str = sys.executable,
        log: IO[bytes] | int = subprocess.DEVNULL,
    ) -> None:
        self.packages = packages()
        self._lock = threading.RLock()
        self._nodes: set[int] = set()
        self._retired = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own program and modules
                    [interpreter, "-P", str(PROGRAM), str(theirs.fileno()), str(NODE_PROGRAM), *PRELOAD],
                    env={**environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, interrupted: socket.socket) -> str | None:
        """Wait until it can fork; return why it never will, or None.

        Args:
            interrupted: Readable: stop waiting.
        """
        readable, _, _ = select.select([self._socket, interrupted], [], [], READY_SECONDS)
        if self._socket not in readable:
            return "it was not ready in time"
        message = self._socket.recv(MESSAGE_BYTES)
        if not message:
            return "it ended while it imported packages"
        answer = json.loads(message)
        return None if answer["ready"] else str(answer["why"])

    def fork(self, command: Command) -> int:
        """Fork *command* and return its pid; it is not reaped, so the pid stays its own until :meth:`status`.

        Raises:
            NotForkedError: nothing was started.
            UnsureError: nobody knows.
        """
        request = {
            "op": "fork",
            "argv": command.argv,
            "program": str(command.program),
            "arguments": list(command.arguments),
            "cwd": str(command.cwd),
            "children": command.children,
            "stdin": command.stdin is not None,
            "uid": command.confinement.uid,
            "cgroups": command.confinement.cgroups,
        }
        stdin = [] if command.stdin is None else [command.stdin.fileno()]
        with _in_memory(json.dumps(dict(command.environ)).encode()) as environ, self._lock:
            answer = self._ask(request, [environ, command.log.fileno(), *stdin, *command.keep])
            if "error" in answer:
                raise NotForkedError(answer["error"])
            pid = int(answer["pid"])
            self._nodes.add(pid)
            return pid

    def status(self, pid: int) -> int | None:
        """Return how a node ended; None while it runs. Its pid is free afterwards.

        Raises:
            UnsureError: the parent has ended, so nobody tells any more.
        """
        with self._lock:
            try:
                answer = self._ask({"op": "wait", "pid": pid}, [])
            except NotForkedError as exc:
                raise UnsureError(str(exc)) from None
            status = answer["status"]
            if status is not None:
                self._nodes.discard(pid)
                self._leave_if_done()
            return None if status is None else int(status)

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
        except OSError as exc:
            if exc.errno != errno.EMSGSIZE:  # a request that is too long is not its fault
                self.close()
            raise NotForkedError(str(exc)) from None
        try:
            message = self._socket.recv(MESSAGE_BYTES)
        except OSError as exc:
            self.close()
            raise UnsureError(f"the warm parent did not answer: {exc}") from None
        if not message:
            self.close()
            raise UnsureError("the warm parent has ended")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def retire(self) -> None:
        """Fork nothing any more; it stays until its nodes have ended, to tell how."""
        with self._lock:
            self._retired = True
            self._leave_if_done()
            if self._nodes:
                with contextlib.suppress(NotForkedError, UnsureError):  # it has died, with its spares
                    self._ask({"op": "rest"}, [])

    def _leave_if_done(self) -> None:
        if self._retired and not self._nodes:
            self.close()

    def close(self) -> None:
        """End it by force, frozen or not; its nodes go on."""
        self.process.kill()  # first: whoever waits for an answer learns that there will be none
        self.process.wait()
        with self._lock:
            self._socket.close()


@dataclass(slots=True)
class Forked:
    """A node whose parent is a warm parent."""

    parent: WarmParent
    pid: int
    returncode: int | None = None
    orphaned: bool = False
    """Its parent is gone; only the kernel may tell how it ended."""

    def poll(self) -> int | None:
        """Return how it ended, or None: it runs, or nobody knows."""
        if self.returncode is None and not self.orphaned:
            try:
                self.returncode = self.parent.status(self.pid)
            except UnsureError:
                self.orphaned = True
        return self.returncode


def supported() -> bool:
    """Whether this platform has what warm parents need; the parent itself finds out the rest."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")
