"""Nodes that were forked before anybody asked for them, so that a start finds that done. It needs no Ropewalk.

A fork costs some milliseconds of processor time, since the kernel copies the tables of the whole memory, and then it
copies each page that the fork writes to (see ``touched.py``). A node with a Nanny is three forks (see
``offspring.py``). They are made here while nobody asks for anything, and end with the warm parent if nobody does. A
spare is nothing yet: it has no user, no environment, no log, and knows no secret.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ropewalk.backends.local.becoming import Purpose, become, end, fork, pair, receive, show
from ropewalk.backends.local.offspring import Offspring
from ropewalk.backends.local.touched import Ranges, available, copy, first_child, size, touched

WANTED = {True: 4, False: 1}
"""Spare nodes with children (workers with a Nanny) and without (schedulers): those of a small cluster. Together they
have 30 MB of their own, and 180 MB once they know what they will write to."""
ROOM = 2 * 2**30
"""Bytes that have to be available on the machine, or there are no spares."""
QUIET_SECONDS = 1.0
"""After the last request, until spares are made: nodes that just started need the processors."""

ALONE, WITH_CHILDREN, CHILD = "alone", "with children", "child"
"""Kinds of processes, by what they write to."""

_programs: dict[tuple[str, int, int], types.CodeType] = {}


def compiled(path: str) -> types.CodeType:
    """Return the program at *path*, compiled again only when it has changed."""
    status = Path(path).stat()
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _programs:
        _programs[key] = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    return _programs[key]


@dataclass(frozen=True, slots=True)
class Spare:
    """A process that waits at the other end of *channel* for what to be."""

    pid: int
    channel: socket.socket


class Spares:
    """The spare nodes of a warm parent, by whether they will have children."""

    def __init__(self) -> None:
        self._wanted = dict(WANTED)
        self._there: dict[bool, list[Spare]] = {True: [], False: []}
        self._latest: dict[bool, int] = {}
        self._writes: dict[str, Ranges] = {}

    def fill(self, control: socket.socket) -> None:
        """Make the spares that are lacking, one after the other, as long as nobody asks for anything at *control*."""
        wait = QUIET_SECONDS
        while children := self._lacking():
            if select.select([control], [], [], wait)[0] or available() < ROOM:
                return
            if wait:
                self._learn()
            self._there[children[0]].append(self._make(children=children[0]))
            wait = 0.0

    def become(self, message: bytes, received: Sequence[int], *, children: bool) -> Mapping[str, Any]:
        """Let one of them, or a new one, be what a request says; returns the answer to the request."""
        there = self._there[children]
        for ready in (*([True] * len(there)), False):  # one that was killed is passed over
            spare = there.pop(0) if ready else self._make(children=children, soon=True)
            answer = _tell(spare, message, received)
            if answer is not None:
                self._latest[children] = spare.pid
                return answer
        return {"error": "it ended at once"}

    def end(self) -> None:
        """End all, and make no more."""
        self._wanted = dict.fromkeys(self._wanted, 0)
        for there in self._there.values():
            while there:
                spare = there.pop()
                spare.channel.close()
                os.kill(spare.pid, signal.SIGKILL)  # frozen ones, too
                os.waitpid(spare.pid, 0)

    def _lacking(self) -> list[bool]:
        return [kind for kind, wanted in self._wanted.items() if len(self._there[kind]) < wanted]

    def _make(self, *, children: bool, soon: bool = False) -> Spare:
        """Fork one; when it is needed *soon*, nothing is done ahead."""
        writes = {} if soon else self._writes
        ours, theirs = pair()
        with theirs:
            pid = fork(lambda: _live(theirs, writes, children=children), (theirs,))
        return Spare(pid, ours)

    def _learn(self) -> None:
        """Look what the nodes that were started last have written to: by now they are up."""
        for children, pid in self._latest.items():
            self._note(WITH_CHILDREN if children else ALONE, pid)
            server = first_child(pid) if children else None
            child = None if server is None else first_child(server)
            if child is not None:
                self._note(CHILD, child)
        self._latest.clear()

    def _note(self, kind: str, pid: int) -> None:
        found = touched(pid)
        if size(found) > size(self._writes.get(kind, ())):
            self._writes[kind] = found


def _tell(spare: Spare, message: bytes, received: Sequence[int]) -> Mapping[str, Any] | None:
    """Give a spare its purpose. None: it had died before; nothing runs."""
    with spare.channel:
        try:
            socket.send_fds(spare.channel, [message], received)
            told = spare.channel.recv(2**12)
        except (BrokenPipeError, ConnectionResetError):
            told = b""
    if told == b"up":
        return {"pid": spare.pid}
    os.waitpid(spare.pid, 0)
    return {"error": told.decode()} if told else None


def _live(channel: socket.socket, writes: Mapping[str, Ranges], *, children: bool) -> NoReturn:
    """Be a spare, then a node, whose session this is from its beginning."""
    os.setsid()
    show([*sys.orig_argv[:3], "spare"], {})
    offspring = Offspring(lambda: copy(writes.get(CHILD, ()))) if children else None
    copy(writes.get(WITH_CHILDREN if children else ALONE, ()))
    purpose = receive(channel)
    try:
        _become(purpose, channel, offspring)
    except BaseException as exc:  # noqa: BLE001 - the other side has to know, whatever it is
        with suppress(OSError):
            channel.send(f"{type(exc).__name__}: {exc}".encode()[: 2**12])
        os._exit(70)
    channel.send(b"up")
    channel.close()
    if offspring is not None:
        offspring.serve()
    _run(purpose.request)


def _become(purpose: Purpose, channel: socket.socket, offspring: Offspring | None) -> None:
    if offspring is not None:
        offspring.begin(purpose)
    keep = [channel.fileno(), *(offspring.descriptors if offspring is not None else ())]
    stdin, more = (purpose.more[0], purpose.more[1:]) if purpose.request["stdin"] else (None, purpose.more)
    become(purpose, purpose.request["argv"], (*keep, *more), stdin)
    sys.argv = [purpose.request["program"], *purpose.request["arguments"]]
    sys.orig_argv = list(purpose.request["argv"])


def _run(request: Mapping[str, Any]) -> NoReturn:
    """Be the node: run its program as ``__main__``, and end with its status."""
    main = types.ModuleType("__main__")
    main.__file__ = request["program"]
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]  # as the interpreter does
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compiled(request["program"]), main.__dict__)  # noqa: S102 - this is how a program is run
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()  # noqa: SLF001 - the interpreter's own end does the same, and more
    end(status)
