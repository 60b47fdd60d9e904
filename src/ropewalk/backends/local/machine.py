"""What this machine has, and whether clusters can run on it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from dask.utils import format_bytes

from ropewalk.backends.local import ports
from ropewalk.backends.local.guard import Guard
from ropewalk.backends.local.isolation import Isolation
from ropewalk.errors import BackendError, TryAgainError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_LITTLE_DISK = 2 * 2**30
"""Bytes. Workers spill to disk; below 2 GiB a single 4 GiB worker that spills half of its memory fills it."""
_LITTLE_MEMORY = 2 * 2**30
"""Bytes. A scheduler and one worker have some 0.4 GiB before they hold any data."""
_FEW_DESCRIPTORS = 4096
"""A scheduler uses about 3 for each worker and client, the server 1 for each node."""


def total_memory() -> int:
    """Return the bytes of memory that this machine, or the container that it is, has."""
    total = int(psutil.virtual_memory().total)
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return total


def check(root: Path, listen_host: str, guard: Guard) -> CheckReport:
    """Look at everything that clusters need. Blocks; changes nothing but a file that it removes again."""
    return CheckReport(checked_at=datetime.now(UTC), items=list(_items(root, listen_host, guard)))


def _items(root: Path, listen_host: str, guard: Guard) -> Iterator[CheckItem]:
    yield _directory(root)
    yield _disk(root)
    yield _listen(listen_host)
    memory = total_memory()
    yield _rated("memory", memory >= _LITTLE_MEMORY, f"{format_bytes(memory)} of memory for all nodes together.")
    yield _rated("cores", ok=True, message=f"{os.cpu_count() or 1} CPU cores, shared by all nodes.")
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield _rated(
        "file descriptors",
        descriptors >= _FEW_DESCRIPTORS,
        f"At most {descriptors} open files per process; large clusters need about {_FEW_DESCRIPTORS}.",
        "Raise it with `ulimit -n` where the server is started.",
    )
    yield _trust(guard.isolation)
    yield _limits(guard.cgroups.controllers)


def _rated(name: str, ok: bool, message: str, advice: str | None = None) -> CheckItem:
    status = CheckStatus.OK if ok else CheckStatus.WARNING
    return CheckItem(name=name, status=status, message=message, advice=None if ok else advice)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _directory(root: Path) -> CheckItem:
    probe = _existing(root) / f".ropewalk-check-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as exc:
        return CheckItem(
            name="directory",
            status=CheckStatus.FAILED,
            message=f"{root} cannot be written ({exc.strerror}), so no node can start.",
            advice="Let the server's user write there, or choose another data directory (ROPEWALK_DATA_DIR).",
        )
    return CheckItem(name="directory", status=CheckStatus.OK, message=f"{root} can be written.")


def _disk(root: Path) -> CheckItem:
    try:
        free = shutil.disk_usage(_existing(root)).free
    except OSError as exc:
        return CheckItem(name="disk", status=CheckStatus.UNKNOWN, message=f"Free space is unknown: {exc.strerror}.")
    return _rated(
        "disk",
        free >= _LITTLE_DISK,
        f"{format_bytes(free)} free at {root}, for logs and for what workers spill.",
        "Free some space, or choose another data directory (ROPEWALK_DATA_DIR).",
    )


def _listen(host: str) -> CheckItem:
    try:
        ports.reserve(host, None).close()
    except BackendError as exc:
        return CheckItem(name="listen_host", status=CheckStatus.FAILED, message=exc.message, advice=exc.advice)
    return CheckItem(name="listen_host", status=CheckStatus.OK, message=f"Schedulers can listen on {host}.")


def _trust(isolation: Isolation) -> CheckItem:
    """Where nodes run as the server's user, whoever may start a cluster may do what that user may."""
    try:
        verdict = isolation.verdict()
    except TryAgainError as exc:
        return CheckItem(name="user", status=CheckStatus.UNKNOWN, message=exc.message, advice=exc.advice)
    if verdict.isolated:
        message = "Each account's nodes run as a user of their own, who cannot read the server's files or another's."
        return CheckItem(name="user", status=CheckStatus.OK, message=message)
    who = "root of this machine" if os.geteuid() == 0 else "the server's user"
    return CheckItem(
        name="user",
        status=CheckStatus.WARNING if os.geteuid() == 0 else CheckStatus.OK,
        message=f"Every user's code on hosted clusters runs as {who}, because {verdict.reason}: "
        "let only people you trust use them.",
        advice=verdict.advice,
    )


def _limits(controllers: Sequence[str]) -> CheckItem:
    names = {"memory": "memory", "pids": "processes", "cpu": "processor time"}
    missing = [name for controller, name in names.items() if controller not in controllers]
    if not missing:
        return _rated("limits", ok=True, message="The kernel limits each node's memory, processes and processor time.")
    return CheckItem(
        name="limits",
        status=CheckStatus.OK,
        message=f"The kernel does not limit nodes' {', '.join(missing)}; Dask itself limits workers' memory.",
        advice="Give the server control groups of its own: Delegate=yes and DelegateSubgroup=server in its unit.",
    )
