"""Control groups: limits of memory, processor and processes for each node, and a list of its processes without a gap.

Each node has a group ``ropewalk/<installation>/<node>``, in the unified hierarchy (v2) or in one hierarchy per
controller (v1). Everything here is optional: where groups cannot be made, nodes run without, and that is said once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropewalk.backends.local import processes
from ropewalk.backends.local.processes import LINUX, Identity

HEADROOM = 256 * 2**20
"""Bytes above a node's memory. Dask's Nanny, which is part of the node, holds some 120 MiB beside its worker, and
ends the worker itself at 95 % of the memory that it promises: the kernel is the second line."""

_CONTROLLERS = ("memory", "pids", "cpu")
_FULL_WEIGHT = 100
"""Of 1 to 10,000 (v2): a node of one core. v1's 1,024 shares are the same."""
_PERIOD = 100_000
"""Microseconds: the kernel's own default for quotas."""
_ABANDONED_SECONDS = 60.0
"""Age of an empty group that no launch is about to fill any more."""
_REMOVE_TRIES = 20
_REMOVE_PAUSE = 0.01
"""A group may be busy for some milliseconds after its last process ended."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node may use: bytes, cores, processes and threads together."""

    memory: int
    cpu: float
    processes: int
    quota: bool = False
    """Never more than its cores, even while others idle; otherwise its share when they do not."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One place where groups can be made: a directory, and which controllers it has."""

    base: Path
    controllers: tuple[str, ...]
    unified: bool


class Cgroups:
    """The groups of one installation's nodes.

    Args:
        installation: Part of the groups' path.
        proc: Of this process; for tests.
    """

    def __init__(self, installation: str, proc: Path = Path("/proc/self")) -> None:
        self._installation = installation
        self._proc = proc
        self._lock = threading.Lock()
        self._found: Sequence[Hierarchy] | None = None
        self._warned = False

    @property
    def controllers(self) -> Sequence[str]:
        """What can be limited here."""
        return [name for hierarchy in self._hierarchies() for name in hierarchy.controllers]

    def make(self, node: str, limits: Limits) -> tuple[str, ...]:
        """Make the groups of a node and return their directories; none where that is impossible."""
        made = []
        for hierarchy in self._hierarchies():
            path = hierarchy.base / "ropewalk" / self._installation / node
            try:
                _make(hierarchy, path)
                _limit(hierarchy, path, limits)
            except OSError as exc:
                self._warn(exc)
            if path.is_dir():
                made.append(str(path))
        return tuple(made)

    def remove_abandoned(self, now: float | None = None) -> list[Path]:
        """Remove groups whose nodes are gone without anybody having cleaned up after them."""
        before = (now or time.time()) - _ABANDONED_SECONDS
        removed = []
        for hierarchy in self._hierarchies():
            parent = hierarchy.base / "ropewalk" / self._installation
            for path in _folders(parent):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before and not _pids(path):
                        path.rmdir()
                        removed.append(path)
            _remove_empty(parent)
        return removed

    def _hierarchies(self) -> Sequence[Hierarchy]:
        with self._lock:
            if self._found is None:
                self._found = _detect(self._proc) if LINUX else ()
            return self._found

    def _warn(self, exc: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("Nodes run without some limits: their control groups cannot be made: %s", exc)


def members(paths: Iterable[str]) -> list[Identity]:
    """Return the processes in the groups, also those that hide from every other way to find them."""
    found: dict[int, Identity] = {}
    for path in map(Path, paths):
        seen = {pid: processes.identity_of(pid) for pid in _pids(path)}
        # Looked at again: one that ended in between may have left its pid to a stranger.
        still = set(_pids(path))
        found |= {pid: identity for pid, identity in seen.items() if identity is not None and pid in still}
    return list(found.values())


def kill(paths: Sequence[str]) -> None:
    """End everything in the groups by force; nothing in them can start more meanwhile."""
    for path in map(Path, paths):
        with contextlib.suppress(OSError):
            _write(path / "pids.max", 0)
        with contextlib.suppress(OSError):
            _write(path / "cgroup.kill", 1)  # v2 since Linux 5.14: at once, whatever it does
    processes.kill(members(paths))


def remove(paths: Sequence[str]) -> None:
    """Remove the empty groups of a node that is gone; what is still busy is left to ``remove_abandoned``."""
    for path in map(Path, paths):
        for _ in range(_REMOVE_TRIES):
            try:
                path.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(_REMOVE_PAUSE)
            else:
                break
        _remove_empty(path.parent)


def out_of_memory(paths: Iterable[str]) -> bool:
    """Whether the kernel ended a process of the groups because they used more memory than their limit."""
    for path in map(Path, paths):
        for file in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                counts = dict(line.split() for line in (path / file).read_text().splitlines())
                if int(counts.get("oom_kill", 0)):
                    return True
    return False


def _make(hierarchy: Hierarchy, path: Path) -> None:
    for _ in range(_REMOVE_TRIES):
        with contextlib.suppress(FileNotFoundError):  # another node's end took the parent away: make it again
            for parent in (hierarchy.base / "ropewalk", path.parent):
                parent.mkdir(mode=0o755, exist_ok=True)
                if hierarchy.unified:
                    _delegate(parent, hierarchy.controllers)
                if "cpu" in hierarchy.controllers:
                    _weigh(parent, unified=hierarchy.unified)
            path.mkdir(mode=0o755, exist_ok=True)
            return
    raise FileNotFoundError(2, "its parent vanishes", str(path))


def _weigh(parent: Path, *, unified: bool) -> None:
    """Let all nodes together weigh as much as a busy program on each core does, and not as one program."""
    cores = os.cpu_count() or 1
    with contextlib.suppress(OSError):
        if unified:
            _write(parent / "cpu.weight", min(10_000, cores * _FULL_WEIGHT))
        else:
            _write(parent / "cpu.shares", min(262_144, cores * 1024))


def _limit(hierarchy: Hierarchy, path: Path, limits: Limits) -> None:
    """Set all limits that the hierarchy has; raises the first error, after trying the others too."""
    fault: OSError | None = None
    for controller in hierarchy.controllers:
        try:
            _LIMIT[controller](path, limits, hierarchy.unified)
        except OSError as exc:
            fault = fault or exc
    if fault is not None:
        raise fault


def _limit_memory(path: Path, limits: Limits, unified: bool) -> None:
    most = limits.memory + HEADROOM
    if unified:
        _write(path / "memory.max", most)
        with contextlib.suppress(OSError):  # a kernel without swap has no such file
            _write(path / "memory.swap.max", 0)
        return
    _write(path / "memory.limit_in_bytes", most)
    with contextlib.suppress(OSError):
        _write(path / "memory.memsw.limit_in_bytes", most)


def _limit_pids(path: Path, limits: Limits, unified: bool) -> None:  # noqa: ARG001 - the same in both
    _write(path / "pids.max", limits.processes)


def _limit_cpu(path: Path, limits: Limits, unified: bool) -> None:
    quota = max(1000, round(limits.cpu * _PERIOD))  # the kernel takes no less than a millisecond
    if unified:
        _write(path / "cpu.weight", min(10_000, max(1, round(limits.cpu * _FULL_WEIGHT))))
        if limits.quota:
            _write(path / "cpu.max", f"{quota} {_PERIOD}")
        return
    _write(path / "cpu.shares", min(262_144, max(2, round(limits.cpu * 1024))))
    if limits.quota:
        _write(path / "cpu.cfs_period_us", _PERIOD)
        _write(path / "cpu.cfs_quota_us", quota)


_LIMIT = {"memory": _limit_memory, "pids": _limit_pids, "cpu": _limit_cpu}


def _detect(proc: Path) -> Sequence[Hierarchy]:
    """Find where this process may make groups, by making one."""
    try:
        mounts = [_mount(line) for line in (proc / "mountinfo").read_text().splitlines() if " - cgroup" in line]
        own = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError:
        return ()
    found = []
    for root, point, names in mounts:
        wanted = tuple(name for name in _CONTROLLERS if name in names)
        if not wanted and names:
            continue
        mine = next((path for _, of, path in own if set(of.split(",")) & set(wanted) or (not names and not of)), "/")
        below = point / mine.removeprefix(root.rstrip("/")).lstrip("/")
        hierarchy = _version_2(point, below) if not names else _version_1(point, below, wanted)
        if hierarchy is not None:
            found.append(hierarchy)
    return tuple(found)


def _mount(line: str) -> tuple[str, Path, tuple[str, ...]]:
    """Return root, mount point and controllers of a line of mountinfo; v2 has no controllers there."""
    fields, _, tail = line.partition(" - ")
    parts = fields.split()
    kind, _, options = tail.split(" ", 2)
    return parts[3], Path(parts[4]), () if kind == "cgroup2" else tuple(options.split(","))


def _version_1(point: Path, own: Path, controllers: tuple[str, ...]) -> Hierarchy | None:
    base = own if own.is_dir() else point
    return Hierarchy(base, controllers, unified=False) if os.access(base, os.W_OK | os.X_OK) else None


def _version_2(point: Path, own: Path) -> Hierarchy | None:
    """Groups with processes cannot share out controllers, so nodes' groups are never made in the server's own.

    They go beside it where a service manager gave us the group above (``Delegate=`` with ``DelegateSubgroup=``), else
    below the root of the hierarchy.
    """
    for base in dict.fromkeys((own.parent if own.parent.suffix == ".service" else point, point)):
        try:
            available = (base / "cgroup.controllers").read_text().split()
            wanted = tuple(name for name in _CONTROLLERS if name in available)
            if wanted and os.access(base, os.W_OK | os.X_OK):
                _delegate(base, wanted)
                return Hierarchy(base, wanted, unified=True)
        except OSError:
            continue
    return None


def _delegate(path: Path, controllers: Iterable[str]) -> None:
    control = path / "cgroup.subtree_control"
    missing = set(controllers) - set(control.read_text().split())
    if missing:
        _write(control, " ".join(f"+{name}" for name in sorted(missing)))


def _pids(path: Path) -> list[int]:
    try:
        return [int(line) for line in (path / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []  # removed


def _folders(path: Path) -> list[Path]:
    try:
        return [child for child in path.iterdir() if child.is_dir()]
    except OSError:
        return []


def _remove_empty(installation: Path) -> None:
    for path in (installation, installation.parent):
        with contextlib.suppress(OSError):
            path.rmdir()  # refused, as it should be, unless empty


def _write(file: Path, value: int | str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)  # never makes a file where none is
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)
