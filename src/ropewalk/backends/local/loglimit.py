"""Keeping a node's log within its limit while the node goes on writing to it.

The beginning of a log that has grown too long is given back to the disk as a hole (fallocate(2)): the end stays where
it is, so the node writes on, and every position that a reader was given stays true.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ropewalk.backends.local.processes import LINUX

CHECK_SECONDS = 5.0
"""Time between two looks at the sizes; a log is over its limit by what its node writes meanwhile."""
KEPT = 2
"""A log that is over its limit keeps the last 1/KEPT of it, so that a hole is made once in a while only."""
_BLOCK = 2**20
"""Bytes. Holes begin and end at multiples of it, which every file system's blocks divide."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})

logger = logging.getLogger(__name__)
_warned: set[int] = set()


def hold(logs: Iterable[Path], limit: int) -> list[Path]:
    """Make each of *logs* keep at most *limit* bytes on disk; returns those that lost their beginning."""
    return [log for log in logs if _hold(log, limit)]


def _hold(log: Path, limit: int) -> bool:
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # not there yet, or not any more
    try:
        state = os.fstat(descriptor)
        if 512 * state.st_blocks <= limit:  # st_blocks counts units of 512 bytes, whatever the file system's are
            return False
        end = (state.st_size - limit // KEPT) // _BLOCK * _BLOCK
        return end > 0 and _give_back(descriptor, end, state.st_dev)
    finally:
        os.close(descriptor)


def _give_back(descriptor: int, end: int, device: int) -> bool:
    """Make a hole of the first *end* bytes."""
    if LINUX and _LIBC.fallocate64(descriptor, _KEEP_SIZE | _PUNCH_HOLE, 0, end) == 0:
        return True
    code = ctypes.get_errno() if LINUX else errno.ENOSYS
    if code in _CANNOT and device not in _warned:
        _warned.add(device)
        logger.warning(
            "Logs of nodes are not kept within their limit: their file system cannot (%s)", os.strerror(code)
        )
    return False


_LIBC = ctypes.CDLL(None, use_errno=True)
if LINUX:
    _LIBC.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def begin(descriptor: int, offset: int) -> int:
    """Return where the log can be read from, at *offset* or, where that was given back, at what is left after it."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError:
        return offset  # at its end; or the file system knows no holes
