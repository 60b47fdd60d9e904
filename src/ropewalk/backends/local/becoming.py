"""How a fork of a warm parent becomes what a process that was just started would be. It needs no Ropewalk.

A fork is made ahead of its need, and waits at one end of a ``SOCK_SEQPACKET`` pair for its *purpose*: a request as
``warm.py`` describes it, with descriptors of a file with the environment and of the log, and more as the receiver
knows. Until then it dies with the process that forked it; afterwards it outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import random
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NoReturn

from ropewalk.backends.local.confinement import Confinement

MESSAGE_BYTES = 2**18
MAX_DESCRIPTORS = 16
ENVIRONMENT_BYTES = 2**21
"""More than the kernel takes as the environment of one process at its default limits (execve(2))."""

_PR_SET_PDEATHSIG = 1
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
# struct prctl_mm_map of linux/prctl.h: eleven addresses, that of the auxiliary vector, its size, a descriptor.
_MM_MAP = "<11QQIi"
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.sbrk.restype = ctypes.c_void_p

_shown: list[mmap.mmap] = []
"""Keeps the memory that the kernel reads the command line and the environment from."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a fork is to be."""

    message: bytes
    request: Mapping[str, Any]
    environ: int
    """A descriptor of a file with the environment as JSON. Several processes read it, so each reads at a position."""
    log: int
    more: tuple[int, ...]

    def variables(self) -> dict[str, str]:
        return dict(json.loads(os.pread(self.environ, ENVIRONMENT_BYTES, 0)))

    def pass_on(self, channel: socket.socket) -> None:
        """Tell a fork of this process, in a group of which only the leader has more descriptors."""
        socket.send_fds(channel, [self.message], [self.environ, self.log])


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a way for messages with descriptors."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def fork(work: Callable[[], object], keep: Iterable[int | socket.socket]) -> int:
    """Fork a process that does *work*, has no descriptors but the standard ones and *keep*, and dies with this one."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        close_all_but(each if isinstance(each, int) else each.fileno() for each in keep)
        _die_with(parent)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - this process must not go on as a second parent
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def receive(channel: socket.socket) -> Purpose:
    """Wait for the purpose of this process; from then on it outlives its parent. Without one it ends."""
    message, received, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, MAX_DESCRIPTORS)
    if not message:
        os._exit(0)
    outlive()
    environ, log, *more = received
    return Purpose(message, json.loads(message), environ, log, tuple(more))


def become(purpose: Purpose, argv: Sequence[str], keep: Iterable[int], stdin: int | None = None) -> None:
    """Be what a process would be that was just started as *argv* for *purpose*, with the descriptors of *keep*."""
    request = purpose.request
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    environ = purpose.variables()
    if stdin is not None:
        os.dup2(stdin, 0)
    for number in (1, 2):
        os.dup2(purpose.log, number)
    close_all_but(keep)
    Confinement(request["uid"], tuple(request["cgroups"])).apply(execs=False)
    os.environ.clear()
    os.environ.update(environ)
    show(argv, environ)
    os.chdir(request["cwd"])
    renew()
    gc.enable()


def show(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Make /proc tell *argv* and *environ* for this process, by which nodes are recognised.

    Raises:
        OSError: the kernel does not allow it (it was built without CONFIG_CHECKPOINT_RESTORE).
    """
    arguments = b"".join(os.fsencode(word) + b"\0" for word in argv)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environ.items())
    # Private memory: the kernel shows no other.
    memory = mmap.mmap(-1, len(arguments) + len(variables) + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(arguments + variables)
    here = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    stat = {number: int(fields[number - 3]) for number in (26, 27, 28, 45, 46, 47)}  # numbered as in proc(5)
    middle = here + len(arguments)
    packed = struct.pack(
        _MM_MAP,
        *(stat[26], stat[27], stat[45], stat[46], stat[47], _LIBC.sbrk(0), stat[28]),
        *(here, middle, middle, middle + len(variables)),
        *(0, 0, -1),
    )
    if _LIBC.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.create_string_buffer(packed, len(packed)), len(packed), 0):
        raise OSError(ctypes.get_errno(), "the kernel does not let a process change what /proc tells of it")
    _shown[:] = [memory]


def descriptors() -> list[int]:
    """Return the open descriptors of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers are wanted, not paths
        with contextlib.suppress(OSError):
            os.fstat(int(name))  # not the one that listed them
            found.append(int(name))
    return found


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor but the three standard ones and *keep*."""
    kept = {0, 1, 2, *keep}
    for number in descriptors():
        if number not in kept:
            os.close(number)


def renew() -> None:
    """Make new whatever must not be shared with the other forks."""
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    current_process().authkey = os.urandom(32)
    tempfile.tempdir = None


def die_with_thread() -> None:
    """Let the kernel end this process by force, frozen or not, when the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def outlive() -> None:
    """Go on when the process that forked this one ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def _die_with(parent: int) -> None:
    die_with_thread()
    if os.getppid() != parent:  # it ended before that was said
        os._exit(0)


def end(status: int) -> NoReturn:
    """Leave without an interpreter's whole end, which would copy much of the shared memory only to free it."""
    with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
