"""What is learned of the memory that forks write to."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ropewalk.backends.local.touched import MOST_PAGES, PAGE, first_child, touched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no warm parents elsewhere")

FORK = """
import ctypes, json, mmap, os, sys
from ropewalk.backends.local import touched as t
shared = mmap.mmap(-1, 40 * t.PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared.write(b"x" * len(shared))
begin = ctypes.addressof(ctypes.c_char.from_buffer(shared))
told, tell = os.pipe()
end, over = os.pipe()
pid = os.fork()
if not pid:
    os.close(over)
    {child}
    os.write(tell, b"!")
    os.read(end, 1)
    os._exit(0)
os.read(told, 1)
found = t.touched(pid)
ours = [((a - begin) // t.PAGE, n // t.PAGE) for a, n in found if 0 <= a - begin < len(shared)]
print(json.dumps([ours, t.size(found), t.first_child(os.getpid()) == pid]))
"""


def observed(child: str) -> list[object]:
    """Return which of forty pages a fork that does *child* has written to, and the bytes of all its pages."""
    code = FORK.replace("{child}", child)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return list(json.loads(done.stdout))


def test_pages_that_a_fork_wrote_to_are_found_and_no_others() -> None:
    pages, size, is_first = observed("shared[0] = 1; shared[5 * t.PAGE] = 1; shared[6 * t.PAGE] = 1; shared[-1] = 1")
    assert pages == [[0, 1], [5, 2], [39, 1]]
    assert isinstance(size, int)
    assert size >= 4 * PAGE
    assert is_first is True


def test_pages_that_are_copied_ahead_are_the_forks_own_before_it_writes() -> None:
    assert observed("t.copy([(begin + 3 * t.PAGE, 2 * t.PAGE)])")[0] == [[3, 2]]


def test_pages_that_do_not_exist_are_no_fault() -> None:
    assert observed("t.copy([(0, t.PAGE), (begin, t.PAGE)])")[0] == []


def test_a_fork_that_wrote_to_too_much_teaches_nothing() -> None:
    many = f"big = bytearray({MOST_PAGES + 1} * t.PAGE)"
    code = FORK.replace("told, tell", f"{many}\ntold, tell", 1)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("{child}", "big[::t.PAGE] = b'x' * len(big[::t.PAGE])")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)[:2] == [[], 0]


def test_a_process_that_is_gone_teaches_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert touched(ended.pid) == []
    assert first_child(ended.pid) is None
    assert first_child(os.getpid()) != ended.pid
