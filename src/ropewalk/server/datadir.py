"""The data directory: made private, used by one server at a time, and where local tools find the running one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy.engine import make_url

from ropewalk.errors import ConflictError, SettingsError
from ropewalk.server import keys
from ropewalk.server.db.engine import async_url
from ropewalk.server.settings import Settings

LOCK_FILE = "server.lock"
STATE_FILE = "server.json"


def make_data_dir(settings: Settings) -> None:
    """Make the data directory, and the one of an SQLite database, for this user only.

    Raises:
        SettingsError: They cannot be made or written.
    """
    _make(settings.data_dir, "data_dir")
    database = sqlite_path(settings)
    if database is not None:
        _make(database.parent, "database_url")
        if not database.exists():
            with suppress(FileExistsError):
                # SQLite would make it readable for all; its journal files copy the mode.
                os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _make(path: Path, field: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise _unusable(path, field, exc.strerror or "it cannot be made") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise _unusable(path, field, "it cannot be written by this user, or is on a read-only file system")


def _unusable(path: Path, field: str, why: str) -> SettingsError:
    return SettingsError(
        f"The directory {path} cannot be used: {why}.",
        advice="Choose another with --data-dir or ROPEWALK_DATA_DIR, or give this user the right to write there.",
        field=field,
    )


def sqlite_path(settings: Settings) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL."""
    url = make_url(async_url(settings.database_url))
    if not url.drivername.startswith("sqlite"):
        return None
    if not url.database or url.database == ":memory:":
        raise SettingsError(
            "A database in memory would forget which clusters run.",
            advice="Give the path of a file: sqlite:////path/to/ropewalk.db.",
            field="database_url",
        )
    return Path(url.database).absolute()


@contextmanager
def only_server(settings: Settings) -> Iterator[None]:
    """Be the only server on this data directory and SQLite database for the length of the block.

    Raises:
        ConflictError: Another one runs; names its process.
    """
    places = [settings.data_dir / LOCK_FILE]
    database = sqlite_path(settings)
    if database is not None and database.parent != settings.data_dir:
        places.append(database.with_name(database.name + ".lock"))
    with ExitStack() as stack:
        for place in places:
            stack.callback(os.close, _lock(place))
        yield


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _unusable(path.parent, "data_dir", exc.strerror or "its lock file cannot be opened") from None
    try:
        # A record lock and not flock(): nodes that were forked from this process, and outlive it, do not inherit it.
        # The system lets go of it when the process ends, however it ends.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ConflictError(
            f"Another Ropewalk server, process {pid}, uses {path.parent} already.",
            advice=f"Stop it (kill {pid}), or choose another directory with --data-dir.",
            field="data_dir",
            details={"pid": pid},
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


@contextmanager
def announced(settings: Settings, now: datetime) -> Iterator[None]:
    """Let local tools find the server by ``server.json`` for the length of the block."""
    path = settings.data_dir / STATE_FILE
    state = {"pid": os.getpid(), "url": settings.public_url, "started_at": now.isoformat()}
    keys.replace(path, json.dumps(state) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
