"""Starting one node, so that a crash at any instruction leaves either nothing or a node that is found."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ropewalk.backends.local import cgroups, ports, processes, sight
from ropewalk.backends.local.confinement import Confinement
from ropewalk.backends.local.filesystem import explained
from ropewalk.backends.local.guard import Guard
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.parent import Command
from ropewalk.backends.local.processes import TAG_VARIABLE, Identity, Table
from ropewalk.backends.local.spawner import Spawner, base_environ
from ropewalk.backends.port import LaunchResult, NodeLaunch
from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.clusters import NodeRole

_PIPE_BYTES = 65_536
"""What a pipe of Linux holds unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How nodes are started here."""

    program: Path
    listen_host: str
    contact_host: str | None
    spawner: Spawner
    guard: Guard
    interpreter: str


@dataclass(frozen=True, slots=True)
class Start:
    """One node to start: its directory, what it is to be, whose it is, and the scheduler that workers look for."""

    home: NodeHome
    node: NodeLaunch
    account: str
    scheduler: str | None
    interpreter: str | None = None
    """The Python of a virtual environment that it runs in; None: as all."""


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


def _launch_locked(plan: Plan, start: Start, table: Table, lock: int) -> LaunchResult | None:
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
            cgroups.remove(home.cgroups())
        raise
    return None if identity is None else _record(home, identity)


def _launched(home: NodeHome, identity: Identity) -> LaunchResult:
    return LaunchResult(home.tag.name, cloud_id=identity.cloud_id, address=home.address())


def _forbidden(home: NodeHome) -> FixItError:
    return FixItError(
        f"The node {home.tag.name} was asked to stop before it was launched.",
        advice="Launch another under a new name.",
    )


def _spawn(plan: Plan, start: Start, lock: int) -> Identity | None:
    """Start the process. None: the warm parent died over it, and it may run or not; its lock tells."""
    home = start.home
    with _port(plan, start) as (listen, contact, keep):
        with explained("Writing a node's configuration", home.path):
            confinement = plan.guard.confine(home, start.account, start.node.shape)
            home.make_folders(confinement.uid)
            home.write_about(contact, confinement, start.node.shape.memory)
        with (
            _handed_over(home, _config(start, listen, contact), confinement) as (argument, stdin),
            explained("Starting a node", plan.program),
            _log(home) as log,
        ):
            command = Command(
                plan.program,
                [argument],
                environ=_environ(start, confinement.uid),
                cwd=home.scratch,
                log=log,
                keep=(lock, *keep),
                children=_has_nanny(start.node),
                interpreter=start.interpreter or plan.interpreter,
                stdin=stdin,
                confinement=confinement,
            )
            return plan.spawner.of(start.interpreter).spawn(command)


@contextmanager
def _handed_over(
    home: NodeHome, config: Mapping[str, Any], confinement: Confinement
) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield the argument that says where the node's configuration is, and its standard input.

    A node of another user may not read our files. A pipe can be read once, so nothing of it is left for later.
    """
    with explained("Writing a node's configuration", home.path):
        if confinement.uid is None:
            home.write_config(config)
            pipe = None
        else:
            pipe = _pipe_with(json.dumps(config).encode())
    if pipe is None:
        yield str(home.config), None
    else:
        with open(pipe, "rb") as stdin:  # noqa: PTH123 - a descriptor
            yield "-", stdin


def _pipe_with(content: bytes) -> int:
    """Return the reading end of a pipe that has *content* in it and no writer."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        # It has to take everything at once: nobody reads yet.
        if len(content) > _PIPE_BYTES:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(content))
        os.write(writer, content)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return reader


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


def _has_nanny(node: NodeLaunch) -> bool:
    worker_class = str(node.config.get("worker_class") or "distributed.Nanny")
    return node.role is NodeRole.WORKER and worker_class.endswith(".Nanny")


def _environ(start: Start, uid: int | None) -> Mapping[str, str]:
    return {
        **base_environ(),
        **_user(start.home, uid),
        "TMPDIR": str(start.home.tmp),
        **start.node.environ,
        TAG_VARIABLE: str(start.home.tag),
    }


def _user(home: NodeHome, uid: int | None) -> Mapping[str, str]:
    """An id has no entry in the list of users, so programs ask these."""
    if uid is None:
        return {}
    return {"HOME": str(home.scratch), "USER": f"ropewalk-{uid}", "LOGNAME": f"ropewalk-{uid}"}


@contextmanager
def _log(home: NodeHome) -> Iterator[Any]:
    descriptor = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "ab") as file:  # noqa: PTH123 - a descriptor, for its mode
        yield file
