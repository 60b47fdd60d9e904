"""The directory of one node: what is in it, and the lock that says whether the node lives.

::

    <root>/clusters/<cluster id>/<node name>/
        lock          held by the node (and whatever inherited it) as long as it lives
        stop          present: asked to stop, must never come up
        about.json    what the node is, its user and control groups, and a scheduler's address; written before the
                      process exists
        process.json  pid, start time and boot of its process
        ended.json    exit status and reason, once it is gone; then nothing of it is left but this and the log
        log           what it wrote to stdout and stderr
        config.json   its configuration with its private key (0600), removed at its end; a node with a user of its
                      own is told by a pipe instead
        scratch/      its working directory, removed at its end
        tmp/          its TMPDIR, removed at its end
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.backends.local.confinement import FREE, Confinement
from ropewalk.backends.local.processes import Identity, Tag
from ropewalk.backends.port import NodeHandle
from ropewalk.errors import FixItError
from ropewalk.node.exits import EXIT_FILE
from ropewalk.schemas.clusters import NodeRole

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
"""What may become a directory name: no separator, no leading dot."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a node ended."""

    exit_code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class NodeHome:
    """One node's directory. All methods block and may raise OSError."""

    path: Path
    tag: Tag

    @classmethod
    def of(cls, root: Path, installation: str, handle: NodeHandle) -> NodeHome:
        """Return where *handle* lives below *root*.

        Raises:
            FixItError: a name that cannot be a directory.
        """
        for field, text in (("cluster", handle.cluster), ("name", handle.name)):
            if not _SAFE.fullmatch(text):
                raise FixItError(
                    f"{text[:60]!r} cannot be the name of a directory.",
                    field=field,
                    advice="Use letters, digits, '.', '_' and '-', at most 120.",
                )
        tag = Tag(installation, handle.cluster, handle.role, handle.name)
        return cls(root / "clusters" / handle.cluster / handle.name, tag)

    @classmethod
    def found(cls, path: Path, installation: str) -> NodeHome | None:
        """Return the node of this installation whose directory *path* is, if it is one."""
        about = _load(path / "about.json")
        if about is None or about.get("installation") != installation:
            return None
        try:
            role = NodeRole(about["role"])
        except (KeyError, ValueError):
            return None
        return cls(path, Tag(installation, path.parent.name, role, path.name))

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def stop_marker(self) -> Path:
        return self.path / "stop"

    def make(self) -> None:
        """Create the directory, closed to other users."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Whether anything was ever recorded of this node."""
        return self.path.is_dir()

    def lock(self) -> int | None:
        """Take the lock and return its descriptor; None: someone holds it. Close the descriptor to let go."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock in the block, if it is free: yields whether it was."""
        descriptor = self.lock()
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def forbid(self) -> None:
        """Record that this node was asked to stop; the first time counts."""
        self.make()
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.stop_marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def forbidden_since(self) -> float | None:
        """Return when the node was first asked to stop (seconds since the epoch), or None."""
        try:
            return self.stop_marker.stat().st_mtime
        except FileNotFoundError:
            return None

    def about(self) -> Mapping[str, Any]:
        """Return what was recorded before the process existed."""
        return _load(self.path / "about.json") or {}

    def address(self) -> str | None:
        """Return the contact address of a scheduler, if this is one and it is known."""
        address = self.about().get("address")
        return address if isinstance(address, str) else None

    def write_about(self, address: str | None, confinement: Confinement = FREE, memory: int | None = None) -> None:
        tag = self.tag
        about = {
            "installation": tag.installation,
            "role": str(tag.role),
            "address": address,
            "uid": confinement.uid,
            "cgroups": confinement.cgroups,
            "memory": memory,
        }
        self._store("about.json", about)

    def cgroups(self) -> list[str]:
        """Return the directories of the node's control groups."""
        recorded = self.about().get("cgroups")
        return [str(path) for path in recorded] if isinstance(recorded, list) else []

    def memory(self) -> int | None:
        """Return the bytes of memory that the node was promised."""
        memory = self.about().get("memory")
        return memory if isinstance(memory, int) else None

    def make_folders(self, uid: int | None) -> None:
        """Make the node's own two folders; of all that is around them a node of another user sees nothing."""
        for folder in (self.scratch, self.tmp):
            folder.mkdir(mode=0o700, exist_ok=True)
        if uid is None:
            return
        for way in (self.path.parent, self.path):
            os.chown(way, -1, uid)
            way.chmod(0o710)
        for folder in (self.scratch, self.tmp):
            os.chown(folder, uid, uid)

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._store("config.json", config)

    def identity(self) -> Identity | None:
        """Return the recorded process, alive or not."""
        record = _load(self.path / "process.json")
        try:
            return None if record is None else Identity(int(record["pid"]), str(record["start"]), str(record["boot"]))
        except (KeyError, TypeError, ValueError):
            return None

    def write_identity(self, identity: Identity) -> None:
        self._store("process.json", {"pid": identity.pid, "start": identity.start, "boot": identity.boot})

    def ended(self) -> Ended | None:
        """Return how the node ended; None: it did not, or nobody has seen it yet."""
        record = _load(self.path / "ended.json")
        if record is None:
            return None
        code = record.get("exit_code")
        return Ended(code if isinstance(code, int) else None, str(record.get("reason", "")))

    def noted_exit(self) -> int | None:
        """Return the exit status that the node itself wrote down; None: it did not, so it did not end in order.

        The file is the node's: it is neither followed nor waited for, and says something of its own cluster only.
        """
        try:
            descriptor = os.open(self.scratch / EXIT_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            text = os.read(descriptor, 4)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return int(text) if text.isdigit() and int(text) < 256 else None

    def write_ended(self, ended: Ended) -> None:
        self._store("ended.json", {"exit_code": ended.exit_code, "reason": ended.reason})

    def remove_secrets(self) -> None:
        """Remove all but the log and the records: keys and data must not outlive the node."""
        self.config.unlink(missing_ok=True)
        for leftover in self.path.glob("*.new"):
            leftover.unlink(missing_ok=True)
        for folder in (self.scratch, self.tmp):
            shutil.rmtree(folder, ignore_errors=True)

    def _store(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file as a whole or not at all, readable to its owner only."""
        # A name of its own: two servers may record the same node at the same time.
        new = self.path / f"{name}.{uuid.uuid4().hex}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, for its mode
                json.dump(content, file)
            new.replace(self.path / name)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def _load(path: Path) -> dict[str, Any] | None:
    """Read a record; what is missing or damaged counts as not written."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None
