"""Removing what is left of nodes that ended long ago, and finding what is there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.processes import Table
from ropewalk.backends.port import NodeHandle
from ropewalk.errors import FixItError


def directories(root: Path) -> Iterator[Path]:
    """Yield the directory of every node below *root*."""
    for cluster in _folders(root / "clusters"):
        yield from _folders(cluster)


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def living(root: Path, installation: str) -> list[NodeHandle]:
    """Return the nodes that have a process or whose lock is held, by directory and by tag.

    Raises:
        OSError: the directory cannot be read.
    """
    table = Table()
    found = {tag.name: NodeHandle(tag.name, tag.cluster, tag.role) for tag in table.tags(installation)}
    for path in directories(root):
        home = NodeHome.found(path, installation)
        if home is None or home.tag.name in found or home.ended() is not None:
            continue
        with home.locked() as free:
            if not free:
                found[home.tag.name] = NodeHandle(home.tag.name, home.tag.cluster, home.tag.role)
    return [_identified(root, installation, handle) for handle in found.values()]


def _identified(root: Path, installation: str, handle: NodeHandle) -> NodeHandle:
    try:
        identity = NodeHome.of(root, installation, handle).identity()
    except FixItError:
        return handle  # a tag that we did not write
    return replace(handle, cloud_id=identity.cloud_id if identity else None)


def remove_expired(root: Path, before: float) -> list[Path]:
    """Remove directories of nodes that ended, or were stopped without a launch, before *before* (epoch seconds)."""
    removed = []
    for path in directories(root):
        with contextlib.suppress(OSError):
            if _expired(path, before):
                shutil.rmtree(path)
                removed.append(path)
    for cluster in _folders(root / "clusters"):
        with contextlib.suppress(OSError):
            cluster.rmdir()  # refused, as it should be, unless empty
    return removed


def _expired(path: Path, before: float) -> bool:
    ended = path / "ended.json"
    if ended.exists():
        return ended.stat().st_mtime < before
    never_launched = (path / "stop").exists() and not (path / "process.json").exists()
    return never_launched and (path / "stop").stat().st_mtime < before
