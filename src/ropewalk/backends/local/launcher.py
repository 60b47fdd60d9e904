"""Starting one node, so that a crash at any instruction leaves either nothing or a node that is found."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.backends.local import ports, processes, sight
from ropewalk.backends.local.filesystem import explained
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.processes import TAG_VARIABLE, Identity, Table
from ropewalk.backends.port import LaunchResult, NodeLaunch
from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.clusters import NodeRole

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
"""All that a node gets of the server's environment; everything else may be a secret of the server's."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""As Dask's Nanny does (`distributed.nanny.pre-spawn-environ`): tasks are the parallelism."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How nodes are started here."""

    program: Path
    listen_host: str
    contact_host: str | None


@dataclass(frozen=True, slots=True)
class Start:
    """One node to start: its directory, what it is to be, and the scheduler that workers look for."""

    home: NodeHome
    node: NodeLaunch
    scheduler: str | None


def launch(plan: Plan, start: Start, table: Table) -> LaunchResult | None:
    """Start the node, unless it was started or stopped before. Blocks for some 10 ms.

    Returns:
        What became of it. None: somebody else is at it at this moment, ask again.
    """
    home = start.home
    try:
        with explained("Making a node's directory", home.path):
            home.make()
            descriptor = home.lock()
        if descriptor is None:
            return _being_held(home, table)
        try:
            return _launch_locked(plan, start, table, descriptor)
        finally:
            os.close(descriptor)
    except BackendError as exc:
        return LaunchResult(home.tag.name, error=exc)


def _being_held(home: NodeHome, table: Table) -> LaunchResult | None:
    with explained("Reading a node's record", home.path):
        identity = home.identity() or sight.adopt(home, table)
        return None if identity is None else _launched(home, identity)


def _launch_locked(plan: Plan, start: Start, table: Table, lock: int) -> LaunchResult:
    home = start.home
    with explained("Reading a node's record", home.path):
        identity = home.identity() or sight.adopt(home, table)
        if identity is not None:
            return _launched(home, identity)
        if home.forbidden_since() is not None:
            return LaunchResult(home.tag.name, error=_forbidden(home))
    try:
        identity = _spawn(plan, start, lock)
    except BackendError:
        with suppress(OSError):
            home.remove_secrets()
        raise
    return _record(home, identity)


def _launched(home: NodeHome, identity: Identity) -> LaunchResult:
    return LaunchResult(home.tag.name, cloud_id=identity.cloud_id, address=home.address())


def _forbidden(home: NodeHome) -> FixItError:
    return FixItError(
        f"The node {home.tag.name} was asked to stop before it was launched.",
        advice="Launch another under a new name.",
    )


def _spawn(plan: Plan, start: Start, lock: int) -> Identity:
    home = start.home
    with _port(plan, start) as (listen, contact, keep):
        with explained("Writing a node's configuration", home.path):
            home.scratch.mkdir(mode=0o700, exist_ok=True)
            home.tmp.mkdir(mode=0o700, exist_ok=True)
            home.write_about(contact)
            home.write_config(_config(start, listen, contact))
        with explained("Starting a node", plan.program), _log(home) as log:
            return processes.spawn(
                [sys.executable, "-P", str(plan.program), str(home.config)],
                environ=_environ(start),
                cwd=home.scratch,
                log=log,
                keep=(lock, *keep),
            )


def _record(home: NodeHome, identity: Identity) -> LaunchResult:
    """Write down what runs now. Should that fail, the node goes on, and is found by its tag when asked for again."""
    with explained("Recording a node's process", home.path):
        home.write_identity(identity)
        if home.forbidden_since() is not None:
            processes.kill([identity])
            return LaunchResult(home.tag.name, error=_forbidden(home))
    return _launched(home, identity)


@contextmanager
def _port(plan: Plan, start: Start) -> Iterator[tuple[str, str | None, tuple[int, ...]]]:
    """Yield listen and contact address, and the descriptors that hold the port."""
    if start.node.role is not NodeRole.SCHEDULER:
        yield ports.join(plan.listen_host, 0), None, ()
        return
    # A launch that was cut short has told its workers a port already: take the same again.
    earlier = start.home.address()
    bound = ports.reserve(plan.listen_host, ports.port_of(earlier) if earlier else None)
    try:
        port = bound.getsockname()[1]
        contact = ports.join(plan.contact_host or ports.reachable(plan.listen_host), port)
        if not ports.INHERIT:
            bound.close()
        yield ports.join(plan.listen_host, port), contact, (bound.fileno(),) if ports.INHERIT else ()
    finally:
        bound.close()


def _config(start: Start, listen: str, contact: str | None) -> Mapping[str, Any]:
    return {
        **start.node.config,
        "listen": listen,
        "contact": contact,
        "scheduler": start.scheduler,
        "directory": str(start.home.scratch),
    }


def _environ(start: Start) -> Mapping[str, str]:
    own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        "LANG": "C.UTF-8",
        "HOME": str(Path.home()),
        **own,
        **_ONE_THREAD,
        "TMPDIR": str(start.home.tmp),
        "PYTHONUNBUFFERED": "1",  # what a node wrote before it died is in its log
        **start.node.environ,
        TAG_VARIABLE: str(start.home.tag),
    }


@contextmanager
def _log(home: NodeHome) -> Iterator[Any]:
    descriptor = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "ab") as file:  # noqa: PTH123 - a descriptor, for its mode
        yield file
