"""Faults of the file system, told apart by who has to act on them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ropewalk.errors import BackendError, FixItError, TryAgainError

_PERMANENT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
"""What the machine has too little of at the moment: memory, processes or descriptors."""

RETRY_DELAY = 10.0
"""Seconds. A full disk is not freed faster than that, and asking is cheap."""


def explain(exc: OSError, doing: str, path: Path) -> BackendError:
    """Say what *exc* means for whoever wanted *doing* at *path*."""
    text = f"{doing} failed at {path}: {os.strerror(exc.errno) if exc.errno else exc}."
    if exc.errno in _PERMANENT:
        return FixItError(
            text, field="directory", advice=f"Let the server's user create and write files below {path.parent}."
        )
    if exc.errno in _FULL:
        return TryAgainError(text, delay=RETRY_DELAY, advice="Free space on that disk; it is tried again by itself.")
    if exc.errno in SCARCE:
        return TryAgainError(
            text, delay=RETRY_DELAY, advice="The machine is short of memory, processes or file descriptors."
        )
    return TryAgainError(text, delay=RETRY_DELAY, advice="It is tried again by itself; if it stays, look at that disk.")


@contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a BackendError that names *path*."""
    try:
        yield
    except OSError as exc:
        raise explain(exc, doing, path) from exc
