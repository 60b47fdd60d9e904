"""What killed programs of an account left in the machine's shared folders: semaphores, shared memory, files."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import psutil

SHARED = (Path("/dev/shm"), Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - looked at, nothing is made there


def remove(uids: Collection[int], folders: Sequence[Path] = SHARED) -> list[Path]:
    """Remove what belongs to those of *uids* that have no process.

    An account's user id is nobody else's, so its files are provably an account's. Newer ones are left alone: a node
    may have been started since the look at the processes.
    """
    looked = time.time()
    idle = set(uids) - _busy() if uids else set()
    removed = []
    for entry in (entry for folder in folders if idle for entry in _entries(folder)):
        with contextlib.suppress(OSError):
            state = entry.lstat()
            if state.st_uid in idle and state.st_ctime < looked:
                if stat.S_ISDIR(state.st_mode):
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
                removed.append(entry)
    return removed


def _busy() -> set[int]:
    busy = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            # Real, effective, saved and file system id: whichever is the account's.
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if not lines["State"].strip().startswith(("Z", "X")):  # the dead use nothing
                busy |= {int(uid) for uid in lines["Uid"].split()}
    return busy


def _entries(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []
