"""What is kept of nodes that have ended, since Kubernetes forgets a pod with its log when it is deleted.

A folder per cluster, two files per node: its record, and the end of its log. A record is also what keeps a name from
being launched again. Servers that share the folder share the memory.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ropewalk.backends import logtext
from ropewalk.backends.port import LogChunk

KEPT_LOG = 2**20
"""Bytes that are kept of a node's log: its end."""
KEPT_SECONDS = 30 * 24 * 3600.0
"""30 days, as in the reference product."""


@dataclass(frozen=True, slots=True)
class Record:
    """How a node ended."""

    cloud_id: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    log_start: int = 0
    """Bytes of its log that came before what is kept."""
    never_ran: bool = False
    """It was stopped before it was launched, and must not come up any more."""


class Archive:
    """Keeps records in *root*; without one, in a temporary folder that goes with this object."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._temporary: Path | None = None

    def close(self) -> None:
        """Remove what is temporary."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def record(self, cluster: str, name: str) -> Record | None:
        """Return how a node ended; None: nothing is known of that."""
        try:
            found: dict[str, Any] = json.loads(self._path(cluster, name, "json").read_text("utf-8"))
            return Record(**found)
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, cluster: str, name: str, record: Record, log: bytes | None = None) -> None:
        """Write down how a node ended, its log first: a record without a log is complete, too."""
        if log is not None:
            self._write(self._path(cluster, name, "log"), log)
        self._write(self._path(cluster, name, "json"), json.dumps(asdict(record)).encode())

    def has_log(self, cluster: str, name: str) -> bool:
        """Return whether a node's log is kept."""
        return self._path(cluster, name, "log").exists()

    def log(self, cluster: str, name: str, cursor: str | None, limit: int) -> LogChunk:
        """Return a piece of a log that is kept."""
        record = self.record(cluster, name)
        start = record.log_start if record is not None else 0
        offset = max(start, logtext.offset_of(cursor))
        try:
            with self._path(cluster, name, "log").open("rb") as file:
                file.seek(offset - start)
                raw = file.read(logtext.room(limit))
        except FileNotFoundError:
            raw = b""
        return logtext.cut(raw, offset, limit, gone=True)

    def remove_expired(self, now: float | None = None) -> None:
        """Remove what is older than it is kept."""
        root = self._root or self._temporary
        before = (now or time.time()) - KEPT_SECONDS
        for folder in list(root.iterdir()) if root is not None and root.exists() else []:
            with contextlib.suppress(OSError):  # another server removes the same
                for file in list(folder.iterdir()):
                    if file.stat().st_mtime < before:
                        file.unlink(missing_ok=True)
                folder.rmdir()  # refused while something is in it

    def _path(self, cluster: str, name: str, kind: str) -> Path:
        if self._root is None and self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="ropewalk-kubernetes-"))
        root = self._root or self._temporary
        assert root is not None  # noqa: S101 - one of the two was just made
        for part in (cluster, name):
            if "/" in part or part.startswith("."):
                raise ValueError(f"not a name: {part[:40]!r}")
        return root / cluster / f"{name}.{kind}"

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
