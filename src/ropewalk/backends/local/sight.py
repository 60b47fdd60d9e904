"""What one node is doing, and the end of it: the only place where *gone* is decided."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dask.utils import format_bytes

from ropewalk.backends.local import cgroups, processes
from ropewalk.backends.local.home import Ended, NodeHome
from ropewalk.backends.local.processes import Identity, Table
from ropewalk.backends.port import Answer, Sighting

_VANISH_SECONDS = 1.0
"""How long killed processes may take to disappear before somebody is told to look again."""

_LINGERING = "Its process has ended; what it started is being ended by force."
_LAUNCHING = "It is being launched at this moment."


def look(home: NodeHome, table: Table) -> Sighting:
    """Say what the node is doing; if it has ended, clean up after it and record how.

    Raises:
        OSError: nothing can be said.
    """
    ended = home.ended()
    if ended is not None:
        return _gone(home, ended)
    identity = home.identity()
    if identity is not None and processes.alive(identity):
        return running(home, identity)
    if not home.exists():
        return _without_directory(home, table)
    with home.locked() as free:
        return _ended_or_unlaunched(home, table) if free else _held(home, table)


def running(home: NodeHome, identity: Identity) -> Sighting:
    """Return the sighting of a node that runs."""
    return Sighting(home.tag.name, Answer.RUNNING, cloud_id=identity.cloud_id, address=home.address())


def adopt(home: NodeHome, table: Table) -> Identity | None:
    """Find the process of a node whose server ended between starting it and writing that down."""
    identity = table.leader(home.tag)
    if identity is not None:
        home.make()
        home.write_identity(identity)
    return identity


def belonging(home: NodeHome, table: Table, leader: Identity | None) -> list[Identity]:
    """Return the processes of a node: by tag, by session, and those that only its control groups know."""
    return list({*table.members(home.tag, leader), *cgroups.members(home.cgroups())})


def force(home: NodeHome, table: Table, leader: Identity | None) -> None:
    """End all of a node at once."""
    processes.kill(table.members(home.tag, leader))
    cgroups.kill(home.cgroups())


def _gone(home: NodeHome, ended: Ended) -> Sighting:
    identity = home.identity()
    return Sighting(
        home.tag.name,
        Answer.GONE,
        cloud_id=identity.cloud_id if identity else None,
        exit_code=ended.exit_code,
        reason=ended.reason,
    )


def _without_directory(home: NodeHome, table: Table) -> Sighting:
    """Somebody may have removed the directory of a running node; its process still carries its tag."""
    leader = table.leader(home.tag)
    if leader is not None:
        return Sighting(home.tag.name, Answer.RUNNING, leader.cloud_id, reason="Its directory was removed.")
    if table.members(home.tag, None):
        return Sighting(home.tag.name, Answer.RUNNING, reason="Its directory was removed.")
    return Sighting(home.tag.name, Answer.GONE, reason="It is not known on this machine.")


def _held(home: NodeHome, table: Table) -> Sighting:
    """The lock is held, but no recorded process lives."""
    identity = home.identity()
    if identity is None:
        found = adopt(home, table)
        if found is not None:
            return running(home, found)
    elif processes.alive(identity):
        return running(home, identity)  # launched by another since the first look
    members = table.members(home.tag, None)
    processes.kill(members)
    if identity is None and not members:
        return Sighting(home.tag.name, Answer.UNKNOWN, reason=_LAUNCHING)
    if identity is not None:  # otherwise what is in its control groups may be about to become the node
        cgroups.kill(home.cgroups())
    return Sighting(home.tag.name, Answer.RUNNING, identity.cloud_id if identity else None, reason=_LINGERING)


def _ended_or_unlaunched(home: NodeHome, table: Table) -> Sighting:
    """We hold the lock, so neither the node nor a launch is under way."""
    ended = home.ended()
    if ended is not None:
        return _gone(home, ended)
    identity = home.identity()
    if identity is None:
        found = adopt(home, table)  # of a node whose directory was removed and made again by a stop
        if found is not None:
            return running(home, found)
    elif processes.alive(identity):
        return running(home, identity)  # it let go of the lock, but lives
    if not _swept(home, belonging(home, table, None)):
        return Sighting(home.tag.name, Answer.RUNNING, reason=_LINGERING)
    if identity is None:
        return _never_launched(home)
    return _bury(home, identity)


def _swept(home: NodeHome, leftovers: Sequence[Identity]) -> bool:
    """End what outlived its node; returns whether all of it is gone."""
    deadline = time.monotonic() + _VANISH_SECONDS
    groups = home.cgroups()
    while leftovers:
        processes.kill(leftovers)
        cgroups.kill(groups)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
        leftovers = belonging(home, Table(), None)
    return True


def _never_launched(home: NodeHome) -> Sighting:
    home.remove_secrets()
    cgroups.remove(home.cgroups())
    asked = home.forbidden_since() is not None
    reason = "It was asked to stop before it was launched." if asked else "It was not launched."
    return Sighting(home.tag.name, Answer.GONE, reason=reason)


def _bury(home: NodeHome, identity: Identity) -> Sighting:
    """Remove keys and data, then record the end; without the record the next look does it again."""
    code = processes.exit_code(identity)
    if code is None:
        # It ended while no server lived, which alone would have been told; a node that ends in order leaves a note.
        code = home.noted_exit()
    ended = Ended(code, _reason(home, code))
    home.remove_secrets()
    cgroups.remove(home.cgroups())
    try:
        home.write_ended(ended)
    except OSError:
        return _gone(home, ended)  # true all the same; a full disk must not keep a node alive in the books
    processes.forget(identity)
    return _gone(home, ended)


def _reason(home: NodeHome, code: int | None) -> str:
    asked = home.forbidden_since() is not None
    memory = home.memory()
    if not asked and code != 0 and memory is not None and cgroups.out_of_memory(home.cgroups()):
        return (
            f"It used more than its {format_bytes(memory)} of memory, so the kernel ended it. "
            "Give it more memory, or its tasks less data at a time."
        )
    return processes.describe_exit(code, asked=asked)
