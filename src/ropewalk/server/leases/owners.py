"""Names of servers as they stand in leases: of which a neighbour can tell whether that server still lives."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["is_dead_neighbour", "new_owner"]


def new_owner() -> str:
    """Return a name for this server that no other one has, and by which its neighbours can tell whether it is alive.

    It is made of the machine's boot, the namespace of process ids, the process id and when the process began (all of
    Linux; elsewhere a random text, and the leases of a server that died have to expire).
    """
    me = _process(os.getpid())
    return f"{me or 'server'}/{secrets.token_hex(4)}"


def _process(pid: int) -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        # proc(5): field 22 is the start time in ticks since boot; the name in field 2 may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    # A container without an init may never take note of its dead.
    return None if fields[0] in ("Z", "X") else f"{boot}/{namespace}/{pid}/{fields[19]}"


def is_dead_neighbour(owner: str) -> bool:
    """Whether *owner* was a server on this machine whose process is gone for certain; when in doubt, it is not."""
    identity = owner.rpartition("/")[0]
    me = _process(os.getpid())
    if me is None or identity.split("/")[:2] != me.split("/")[:2]:
        return False
    pid = identity.split("/")[2]
    return pid.isdigit() and _process(int(pid)) != identity
