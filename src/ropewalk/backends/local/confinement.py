"""What a node's process does to itself between fork and exec, so that its program starts with no right too many.

Standard library only, and nothing that needs a lock of Python's, so that it may run in a child that was just forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from typing import Any

# From linux/prctl.h and linux/capability.h.
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
"""As many as version 3 has room for; the kernel knows some 40, and refuses the others."""

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


@dataclass(frozen=True, slots=True)
class Confinement:
    """Whose rights a node has, and the groups whose limits hold for it.

    Attributes:
        uid: User and group, as a number that needs no name; None: stay what the server is.
        cgroups: Directories of the control groups to enter.
    """

    uid: int | None = None
    cgroups: tuple[str, ...] = ()

    def apply(self, *, execs: bool = True) -> None:
        """Enter the control groups, then give up every right that is not the user's, for good.

        Args:
            execs: A program is executed next. Until then the memory is the server's, with its keys, so other processes
                of the same user must not look into it, which the kernel sees to. Without an exec, say False, and
                have nothing secret in memory: the process then becomes an ordinary one of its user.

        Raises:
            OSError: the rights could not be given up; the process must end.
        """
        for path in self.cgroups:
            _enter(path)
        if self.uid is None:
            return
        _forget_capabilities_for_good()
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)
        _drop_capabilities()
        if os.getresuid() != (self.uid,) * 3 or os.getresgid() != (self.uid,) * 3 or os.getgroups():
            raise PermissionError("the node's user could not be changed")
        if not execs:
            _prctl(_PR_SET_DUMPABLE, 1)


FREE = Confinement()
"""Stays as it is."""


def _enter(path: str) -> None:
    """Limits are a service, not a condition: a group that vanished does not keep a node from starting."""
    with contextlib.suppress(OSError):
        descriptor = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def _forget_capabilities_for_good() -> None:
    """No program, not even one with the set-user-id bit, can give them back."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # past the last that this kernel knows


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
