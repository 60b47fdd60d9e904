"""Processes by pid *and* start time, so that a recycled pid is never taken for a node, let alone killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol, Self

import psutil

from ropewalk.backends.local.confinement import FREE, Confinement
from ropewalk.schemas.clusters import NodeRole

LINUX = sys.platform == "linux"
TAG_VARIABLE = "ROPEWALK_NODE"
"""Environment variable by which a node, and whatever it starts, is recognised without any file."""

_OOM_SCORE = 500
"""Of -1000 to 1000: under memory pressure the kernel ends nodes before the server and before other programs."""

# From linux/pidfd.h: struct pidfd_info (64 bytes: mask, cgroup, eleven ids, wait status) and the ioctl that fills it.
_PIDFD_INFO = "<QQ11Ii"
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, never mistaken for another that has its pid later.

    ``start`` is field 22 of ``/proc/<pid>/stat`` (clock ticks since boot, immune to changes of the clock), elsewhere
    psutil's creation time; ``boot`` is the kernel's id of this boot, empty where there is none.
    """

    pid: int
    start: str
    boot: str

    @property
    def cloud_id(self) -> str:
        return f"{self.pid}@{self.start}"


@dataclass(frozen=True, slots=True)
class Tag:
    """What a node is, as the value of the environment variable ``ROPEWALK_NODE``."""

    installation: str
    cluster: str
    role: NodeRole
    name: str

    def __str__(self) -> str:
        return f"{self.installation}/{self.cluster}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the tag that *text* is, or None."""
        parts = text.split("/")
        if len(parts) != 4 or parts[2] not in tuple(NodeRole):
            return None
        return cls(parts[0], parts[1], NodeRole(parts[2]), parts[3])


@dataclass(frozen=True, slots=True)
class Process:
    """A living process that carries a node's tag or belongs to a session."""

    identity: Identity
    session: int
    tag: Tag | None


class Child(subprocess.Popen[bytes]):
    """A node started by this process. It may outlive it, so there is nothing to warn about at the end."""

    orphaned = False

    def __del__(self) -> None:
        """Leave the process alone; Popen's own would warn, and reap at a time of its choosing."""


class Reaped(Protocol):
    """Whoever can tell how a process ended, and by that frees its pid."""

    orphaned: bool
    """Whether the one who could tell is gone."""

    def poll(self) -> int | None:
        """Return the exit status or minus the signal; None: it runs, or nobody knows."""
        ...


_children: dict[Identity, Reaped] = {}
"""Nodes whose parent, or whose parent's parent, this process is. That is so of the process, not of a backend, so a
second backend object in the same process can tell their exit status too."""

_statuses: dict[Identity, int] = {}
"""Exit status, or minus the signal, of adopted nodes, as far as the kernel told."""


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the kernel's id of this boot; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _look_linux(pid: int) -> tuple[Identity, int] | None:
    try:
        # The command in parentheses may itself contain parentheses and spaces: count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, session, threads, start = fields[0], int(fields[3]), int(fields[17]), fields[19].decode()
    # The first thread of a process that ends may be a zombie while others still run: nobody can be told its status yet.
    over = state == b"X" or (state == b"Z" and threads <= 1)
    return None if over else (Identity(pid, start, boot_id()), session)


def _look_psutil(pid: int) -> tuple[Identity, int] | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, repr(process.create_time()), ""), os.getsid(pid)
    except (psutil.Error, ProcessLookupError, PermissionError):
        return None


_look = _look_linux if LINUX else _look_psutil


def identity_of(pid: int) -> Identity | None:
    """Return the identity of a running process; a zombie does not run."""
    seen = _look(pid)
    return seen[0] if seen else None


def alive(identity: Identity) -> bool:
    """Whether exactly this process runs."""
    return identity_of(identity.pid) == identity


def _tag_of(pid: int) -> Tag | None:
    try:
        if LINUX:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            start = f"{TAG_VARIABLE}=".encode()
            for entry in environ.split(b"\0"):
                if entry.startswith(start):
                    return Tag.parse(os.fsdecode(entry[len(start) :]))
            return None
        return Tag.parse(psutil.Process(pid).environ().get(TAG_VARIABLE, ""))
    except (OSError, psutil.Error):
        return None  # gone meanwhile, or another user's, which no node of ours is


@dataclass(slots=True)
class Table:
    """One look at all processes of the machine, taken when it is first needed; costs some 50 us per process."""

    _seen: list[Process] | None = field(default=None, repr=False)

    def processes(self) -> Sequence[Process]:
        """Return every process that runs, except this one."""
        if self._seen is None:
            seen = ((pid, _look(pid)) for pid in psutil.pids() if pid != os.getpid())
            # Assigned when complete: several threads may use one table.
            self._seen = [Process(look[0], look[1], _tag_of(pid)) for pid, look in seen if look is not None]
        return self._seen

    def members(self, tag: Tag, leader: Identity | None) -> list[Identity]:
        """Return what belongs to a node: what carries its tag, or is in the session that its process leads.

        The session counts only as long as its leader lives: afterwards its number may be another program's.
        """
        living = leader is not None and any(process.identity == leader for process in self.processes())
        session = leader.pid if leader is not None and living else None
        return [process.identity for process in self.processes() if process.tag == tag or process.session == session]

    def leader(self, tag: Tag) -> Identity | None:
        """Return the process that was started as the node *tag*: it leads its session, as later ones may, too."""
        leaders = [
            process.identity
            for process in self.processes()
            if process.tag == tag and process.session == process.identity.pid
        ]
        return min(leaders, key=lambda identity: float(identity.start), default=None)

    def tags(self, installation: str) -> set[Tag]:
        """Return the nodes of *installation* that have a process."""
        tags = (process.tag for process in self.processes())
        return {tag for tag in tags if tag is not None and tag.installation == installation}


def send(identity: Identity, number: signal.Signals) -> None:
    """Send a signal to exactly this process; if it is gone there is nothing to do."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if alive(identity):
                os.kill(identity.pid, number)
            return
        descriptor = os.pidfd_open(identity.pid)
        try:
            # The descriptor keeps meaning the same process, so a check after opening it has no gap.
            if alive(identity):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def kill(identities: Iterable[Identity]) -> None:
    """End processes by force; works on stopped ones too."""
    for identity in identities:
        send(identity, signal.SIGKILL)


def spawn(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    log: IO[bytes],
    keep: Sequence[int],
    stdin: IO[bytes] | None = None,
    confinement: Confinement = FREE,
) -> Identity:
    """Start a process in a session of its own, with no descriptor of ours but *stdin*, *log* and *keep*.

    Raises:
        OSError: it could not be started.
    """
    try:
        child = Child(
            command,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep),
            umask=0o077,
            # Only where there is something to do: without it the child shares our memory until it runs its program.
            preexec_fn=None if confinement == FREE else confinement.apply,  # made to run after a fork
        )
    except subprocess.SubprocessError as exc:
        raise PermissionError(errno.EPERM, "the node's user could not be changed") from exc
    return register(child.pid, child)


def register(pid: int, child: Reaped) -> Identity:
    """Take note of a process that was just started, and return its identity.

    It has not been reaped yet, so its pid cannot have been recycled, even if it has ended already.
    """
    identity = _identity_of_child(pid)
    _children[identity] = child
    _restrain(pid)
    return identity


@contextlib.contextmanager
def watched(pid: int) -> Iterator[int]:
    """Yield a descriptor that becomes readable when the child *pid* has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity_of_child(pid: int) -> Identity:
    if LINUX:
        start = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
        return Identity(pid, start, boot_id())
    return Identity(pid, repr(psutil.Process(pid).create_time()), "")


def _restrain(pid: int) -> None:
    """Forbid core dumps, which hold keys; die before the server. From outside: code after fork is not safe."""
    if not LINUX:
        return
    import resource  # noqa: PLC0415 - not on every platform

    with contextlib.suppress(OSError, ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_OOM_SCORE))


def exit_code(identity: Identity) -> int | None:
    """Return the exit status, or minus the signal, of a node that ended; None: nobody knows."""
    child = _children.get(identity)
    status = None if child is None else child.poll()
    return _statuses.get(identity) if status is None else status


def note_exit(identity: Identity, pidfd: int) -> bool:
    """Ask the kernel how an adopted node ended, which only its parent is told otherwise.

    Returns:
        Whether asking again is in vain. The kernel knows as soon as the node's parent, by now init, has taken note.
    """
    child = _children.get(identity)
    if child is not None:
        child.poll()
        if not child.orphaned:
            return True
    try:
        answer = fcntl.ioctl(pidfd, _PIDFD_GET_INFO, struct.pack(_PIDFD_INFO, _PIDFD_INFO_EXIT, *[0] * 13))
    except OSError:
        return True  # Linux before 6.15
    mask, *_, status = struct.unpack(_PIDFD_INFO, answer)
    if not mask & _PIDFD_INFO_EXIT:
        return False
    _statuses[identity] = os.waitstatus_to_exitcode(status)
    return True


def forget(identity: Identity) -> None:
    """Free what is kept of a node whose end is on record."""
    _statuses.pop(identity, None)
    child = _children.get(identity)
    if child is not None and (child.poll() is not None or child.orphaned):
        del _children[identity]


def describe_exit(code: int | None, *, asked: bool) -> str:
    """Say how a process ended, as a sentence."""
    if asked:
        return "It was asked to stop."
    if code is None:
        return "It ended while no server watched, so its exit status is unknown; its log may say why."
    if code >= 0:
        return f"It ended with exit status {code}; its log may say why."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    advice = " The machine may have run out of memory." if -code == signal.SIGKILL else " Its log may say why."
    return f"It was ended by signal {-code} ({name}).{advice}"
