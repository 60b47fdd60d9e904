"""Starting node processes: forked from a warm parent where that is possible, else as plain subprocesses.

The supervisor is one thread per spawner: it starts the parent (which dies with that thread, hence with the server),
starts another when that one died or the packages changed, and gives up for a while where forking would not be safe.
While there is no warm parent, nodes are plain subprocesses. A launch waits for one that imports, for
:data:`IMPORT_PATIENCE` at the most: that is sooner done than the same imports in each node.

Nodes with a user of their own are forked, too, by a parent whose ``HOME`` is nobody's: what libraries read there when
they are imported would be the server's. A parent is either for those or for the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
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
from ropewalk.backends.local.parents import Parents
from ropewalk.backends.local.processes import Identity

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a parent that died is replaced; doubled when the next dies soon, too."""
LASTING = 60.0
"""Seconds that a parent has to live for its death not to count against the next."""

IMPORT_PATIENCE = 10.0
"""Seconds since its start that launches wait for a parent. It needs 1 to 3, nine plain processes at least as many."""

NOBODYS_HOME = "/nonexistent"
"""As Debian's policy calls the home of users that have none (section 9.2.3)."""

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
        interpreter: The Python of the nodes; those with another are not forked.
    """

    def __init__(
        self, *, warm: bool = True, environ: Mapping[str, str] | None = None, interpreter: str = sys.executable
    ) -> None:
        self._environ = dict(base_environ() if environ is None else environ)
        self._interpreter = interpreter
        self._warm = warm and supported()
        self._isolated = False
        self._importing_since: float | None = None
        self._parent: WarmParent | None = None
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._closed = False
        self._retired = False
        self._environments = Parents(self._for_environment)
        self._changed = threading.Condition(self._guard)
        self._bell: socket.socket | None = None

    def start(self, *, isolated: bool = False) -> None:
        """Begin to have a warm parent; harmless if that has begun.

        Args:
            isolated: It is for nodes with a user of their own, and those only. The last call counts.
        """
        with self._guard:
            changed, self._isolated = isolated != self._isolated, isolated
            parent = self._parent
            if self._warm and not self._closed and self._thread is None:
                self._importing_since = time.monotonic()
                ring, self._bell = socket.socketpair()
                self._thread = threading.Thread(
                    target=self._supervise, args=(ring,), name="ropewalk-warm-parent", daemon=True
                )
                self._thread.start()
        if changed and parent is not None:
            self._drop(parent)
        self._environments.expire()

    def of(self, interpreter: str | None) -> Spawner:
        """Return what starts nodes with *interpreter*, of a virtual environment: it begins to have a parent of its own.

        None, or the interpreter of this one: this one. An environment must not change once nodes run in it.

        Where nodes have users of their own, environments have no parents: theirs would be root, and import what users
        chose. Nodes are started by a program then, after their rights were given up.
        """
        if interpreter is None or interpreter == self._interpreter or not self._warm or self._isolated:
            return self
        found = self._environments.of(interpreter)
        found.start(isolated=self._isolated)
        return found

    def _for_environment(self, interpreter: str) -> Spawner:
        return Spawner(environ=self._environ, interpreter=interpreter)

    @property
    def imports(self) -> bool:
        """Whether waiting for a warm parent is worth while."""
        since = self._importing_since
        return since is not None and time.monotonic() < since + IMPORT_PATIENCE

    @property
    def parent(self) -> WarmParent | None:
        """The warm parent, if there is one at this moment."""
        with self._guard:
            return self._parent

    def wait_imported(self) -> None:
        """Wait for a parent that imports, as long as that is worth while."""
        with self._changed:
            since = self._importing_since
            if since is not None:
                left = since + IMPORT_PATIENCE - time.monotonic()
                self._changed.wait_for(lambda: self._importing_since is None or self._closed, max(0.0, left))

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
        parent = self._usable(command)
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

    def retire(self) -> None:
        """Start nothing any more; the warm parent stays until its nodes have ended, to tell how."""
        self._retired = True
        self._end()

    def close(self) -> None:
        """End the warm parent, and those of environments; nodes go on."""
        self._environments.close()
        thread = self._end()
        if thread is not None:
            thread.join()

    def _end(self) -> threading.Thread | None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            bell = self._bell
        if bell is not None:
            bell.close()
        return self._thread

    def _usable(self, command: Command) -> WarmParent | None:
        parent = self.parent
        if parent is None or not self._fits(command):
            return None
        if packages() != parent.packages:
            log.info("The packages on disk have changed; the warm parent is replaced")
            self._drop(parent)
            return None
        return parent

    def _fits(self, command: Command) -> bool:
        """Whether the parent is what *command* would become if it were started as a process of its own."""
        isolated = command.confinement.uid is not None
        own = dict(command.environ)
        if isolated and own.get("HOME") == str(command.cwd):
            own["HOME"] = self._environ["HOME"]  # as empty as nobody's
        same = isolated == self._isolated and command.interpreter == self._interpreter
        return same and _fixed(own) == _fixed(self._environ)

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
                    self._have(None)
                self._pause(delay)
                delay = FIRST_RETRY if time.monotonic() - began > LASTING else min(2 * delay, LAST_RETRY)

    def _live_through(self, ring: socket.socket) -> None:
        """Start a parent and stay until it has died, is to be replaced, or is not needed any more."""
        with self._guard:
            isolated, self._importing_since = self._isolated, time.monotonic()
        parent = WarmParent({**self._environ, "HOME": NOBODYS_HOME} if isolated else self._environ, self._interpreter)
        lives = False
        try:
            why = parent.wait_ready(ring)
            if why is not None:
                if not self._closed:
                    log.warning("Nodes are started without a warm parent, more slowly: %s", why)
                return
            self._have(parent if isolated == self._isolated else None)
            lives = self._until_over(parent, ring)
        finally:
            self._have(None)
            if lives and (self._retired or not self._closed):
                parent.retire()
                if self._retired:
                    parent.process.wait()  # it dies with this thread
            else:
                parent.close()

    def _have(self, parent: WarmParent | None) -> None:
        """Let launches use *parent*, or no longer wait for one."""
        with self._changed:
            self._parent, self._importing_since = parent, None
            self._changed.notify_all()

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
