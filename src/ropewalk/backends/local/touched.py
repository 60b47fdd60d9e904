"""Memory that nodes write to while they start, learned from nodes that did, and copied ahead. It needs no Ropewalk.

A fork shares all memory until it writes to a page, which the kernel then copies: a trap of some microseconds, and with
Python, which counts references inside of its objects, a node takes 4,000 to 6,000 of them. That was a third of the
processor time of a start. A spare node has that done before it is needed.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PAGE = mmap.PAGESIZE
MOST_PAGES = 2**13
"""Of one process: half as much again as a scheduler needs. A node that wrote to more does something else already."""

_MADV_POPULATE_WRITE = 23
"""Since Linux 5.14 (madvise(2)); before, the kernel refuses it, and nothing is done ahead."""
_PRESENT, _FILE_OR_SHARED, _MAPPED_ONCE = 1 << 63, 1 << 61, 1 << 56
"""Bits of an entry in /proc/PID/pagemap (admin-guide/mm/pagemap.rst of the kernel)."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

Ranges = Sequence[tuple[int, int]]
"""Address and number of bytes of each range of memory."""


def touched(pid: int) -> Ranges:
    """Return where a fork of this process has written to what it shared with it; nothing if it cannot be told."""
    found: list[tuple[int, int]] = []
    with suppress(OSError), Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as entries:
        for begin, end in _writable():
            entries.seek(begin // PAGE * 8)
            pages = entries.read((end - begin) // PAGE * 8)
            found += [(begin + first * PAGE, count * PAGE) for first, count in _runs(pages)]
    return found if size(found) <= MOST_PAGES * PAGE else ()


def size(ranges: Ranges) -> int:
    """Return how many bytes they are together."""
    return sum(length for _, length in ranges)


def copy(ranges: Ranges) -> None:
    """Have the kernel copy these pages now; this process will write to them."""
    for address, length in ranges:
        if _LIBC.madvise(address, length, _MADV_POPULATE_WRITE):
            return


def first_child(pid: int) -> int | None:
    """Return the process that *pid* forked first among those that live."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return None


def _writable() -> Iterator[tuple[int, int]]:
    """Yield begin and end of this process's own writable memory, but for its stack."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        extent, rights, *_, name = (*line.split(maxsplit=5), "")[:6]
        if rights == "rw-p" and not name.startswith("[stack"):
            begin, end = (int(number, 16) for number in extent.split("-"))
            yield begin, end


def _runs(entries: bytes) -> Iterable[tuple[int, int]]:
    """Yield the first page and the number of each row of pages that are a process's alone."""
    first = None
    number = -1
    for number, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
        own = entry & _PRESENT and entry & _MAPPED_ONCE and not entry & _FILE_OR_SHARED
        if own and first is None:
            first = number
        elif not own and first is not None:
            yield first, number - first
            first = None
    if first is not None:
        yield first, number + 1 - first


def available() -> int:
    """Return how many bytes of memory the machine could give without swapping; 0 if it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
