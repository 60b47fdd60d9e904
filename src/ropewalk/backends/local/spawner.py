"""Starting node processes: forked from a warm parent where that is possible, else as plain subprocesses.

The supervisor is one thread per spawner: it starts the parent (which dies with that thread, hence with the server),
starts another when that one died or the packages changed, and gives up for a while where forking would not be safe.
While there is no warm parent, nodes are plain subprocesses; no launch ever waits for one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ropewalk.backends.local import processes
from ropewalk.backends.local.parent import (
    Command,
    Forked,
    NotForkedError,
    UnsureError,
    WarmParent,
    packages,
    supported,
)
from ropewalk.backends.local.processes import Identity

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a parent that died is replaced; doubled when the next dies soon, too."""
LASTING = 60.0
"""Seconds that a parent has to live for its death not to count against the next."""

_READ_AT_START = (
    *("PYTHON", "LD_", "MALLOC_", "GLIBC_", "JE_", "OMP_", "MKL_", "OPENBLAS_", "GOTO_", "KMP_", "BLIS_", "VECLIB_"),
    *(
        "NUMEXPR_",
        "NUMBA_",
        "ARROW_",
        "NPY_",
        "NUMPY_",
        "PANDAS_",
        "BOKEH_",
        "DASK_",
        "SSL_",
        "OPENSSL_",
        "PROMETHEUS_",
    ),
    *("LANG", "LC_", "HOME", "TZ", "PATH"),
)
"""Variables that the interpreter or a library reads once, at its start: a fork comes too late for them."""

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
"""All that a node gets of the server's environment; everything else may be a secret of the server's."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""As Dask's Nanny does (`distributed.nanny.pre-spawn-environ`): tasks are the parallelism."""

log = logging.getLogger(__name__)


def base_environ() -> Mapping[str, str]:
    """Return what all nodes have in their environment."""
    own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        "LANG": "C.UTF-8",
        "HOME": str(Path.home()),
        **own,
        **_ONE_THREAD,
        "MALLOC_TRIM_THRESHOLD_": "65536",  # as Dask's Nanny does, see above
        "PYTHONUNBUFFERED": "1",  # what a node wrote before it died is in its log
    }


class Spawner:
    """Starts processes. Methods block, and may be called by several threads.

    Args:
        warm: Whether to keep a warm parent.
        environ: What all nodes have in their environment, by default :func:`base_environ`. A node that differs in
            what libraries read when they are imported is not forked.
    """

    def __init__(self, *, warm: bool = True, environ: Mapping[str, str] | None = None) -> None:
        self._environ = dict(base_environ() if environ is None else environ)
        self._warm = warm and supported()
        self._parent: WarmParent | None = None
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._closed = False
        self._changed = threading.Condition(self._guard)
        self._bell: socket.socket | None = None

    def start(self) -> None:
        """Begin to have a warm parent; harmless if that has begun."""
        with self._guard:
            if self._warm and not self._closed and self._thread is None:
                ring, self._bell = socket.socketpair()
                self._thread = threading.Thread(
                    target=self._supervise, args=(ring,), name="ropewalk-warm-parent", daemon=True
                )
                self._thread.start()

    @property
    def parent(self) -> WarmParent | None:
        """The warm parent, if there is one at this moment."""
        with self._guard:
            return self._parent

    def wait_warm(self, seconds: float) -> WarmParent | None:
        """Wait until there is a warm parent, at most *seconds*; return it."""
        with self._changed:
            self._changed.wait_for(lambda: self._parent is not None or self._closed, seconds)
            return self._parent

    def spawn(self, command: Command) -> Identity | None:
        """Start *command* in a session of its own, with no descriptor of ours but those it names.

        Returns:
            The process. None: it may run or not; whoever holds its lock tells.

        Raises:
            OSError: it could not be started.
        """
        parent = self._usable(command) if command.forkable else None
        if parent is not None:
            try:
                pid = parent.fork(command)
                return processes.register(pid, Forked(parent, pid))
            except NotForkedError as exc:
                log.warning("A node is started without the warm parent: %s", exc)
            except UnsureError as exc:
                log.warning("A warm parent failed: %s", exc)
                self._drop(parent)
                return None
        return processes.spawn(
            command.argv,
            environ=command.environ,
            cwd=command.cwd,
            log=command.log,
            keep=command.keep,
            stdin=command.stdin,
            confinement=command.confinement,
        )

    def close(self) -> None:
        """End the warm parent; nodes go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, bell = self._thread, self._bell
        if thread is not None and bell is not None:
            bell.close()
            thread.join()

    def _usable(self, command: Command) -> WarmParent | None:
        parent = self.parent
        if parent is None or _fixed(command.environ) != _fixed(self._environ):
            return None
        if packages() != parent.packages:
            log.info("The packages on disk have changed; the warm parent is replaced")
            self._drop(parent)
            return None
        return parent

    def _drop(self, parent: WarmParent) -> None:
        """Let go of *parent*, and wake the supervisor to start another."""
        with self._guard:
            if self._parent is not parent:
                return  # another thread was first
            self._parent = None
            bell = self._bell
        with contextlib.suppress(OSError):
            if bell is not None:
                bell.send(b"x")

    def _supervise(self, ring: socket.socket) -> None:
        delay = FIRST_RETRY
        with ring:
            while not self._closed:
                began = time.monotonic()
                try:
                    self._live_through(ring)
                except OSError as exc:
                    log.warning("The warm parent could not be started: %s", exc)
                self._pause(delay)
                delay = FIRST_RETRY if time.monotonic() - began > LASTING else min(2 * delay, LAST_RETRY)

    def _live_through(self, ring: socket.socket) -> None:
        """Start a parent and stay until it has died, is to be replaced, or is not needed any more."""
        parent = WarmParent(self._environ)
        lives = False
        try:
            why = parent.wait_ready(ring)
            if why is not None:
                if not self._closed:
                    log.warning("Nodes are started without a warm parent, more slowly: %s", why)
                return
            with self._changed:
                self._parent = parent
                self._changed.notify_all()
            lives = self._until_over(parent, ring)
        finally:
            with self._guard:
                self._parent = None
            if lives and not self._closed:
                parent.retire()
            else:
                parent.close()

    def _until_over(self, parent: WarmParent, ring: socket.socket) -> bool:
        """Return whether the parent still lives."""
        # Not its socket, which has answers to requests: its process.
        with processes.watched(parent.pid) as ended:
            while self._parent is parent and not self._closed:
                readable, _, _ = select.select([ended, ring.fileno()], [], [])
                if ended in readable:
                    log.warning("The warm parent has died; another is started")
                    return False
                ring.recv(64)
        return True

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)


def _fixed(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_READ_AT_START)}
