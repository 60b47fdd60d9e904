"""Processes that a node starts by ``multiprocessing``: forked, too, and the first of them ahead. It needs no Ropewalk.

Dask's Nanny starts its worker by ``multiprocessing``, whose fork server would be a plain process that has to import
everything. A node has one that was forked beside it, as clean as the warm parent is: no thread, no event loop. It has
forked its first child already, so that a worker that is asked for is there. It ends when nobody is left who could
ask. ``multiprocessing``'s resource tracker, which cleans up after processes that were killed, is forked by it when
somebody has something to track, but later: not while a node starts.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker, spawn
from typing import Any, NoReturn

from ropewalk.backends.local.becoming import (
    Purpose,
    become,
    close_all_but,
    end,
    fork,
    outlive,
    pair,
    receive,
    renew,
    show,
)

TRACKER_SECONDS = 2.0
"""From the first thing to track until somebody does: the start of a node is over, and the pipe is nowhere near full."""

CHILD_DESCRIPTORS = 253
"""The most that the kernel sends at once (SCM_MAX_FD); programs may hand many to their children."""

SERVER, TRACKER = "forkserver", "resource_tracker"


def argv(name: str) -> list[str]:
    """Return the command line that ``multiprocessing`` would give to its helper *name*."""
    return [sys.executable, "-c", f"from multiprocessing.{name} import main"]


class Offspring:
    """A fork server that waits for the purpose of its node, as that node sees it."""

    def __init__(self, ahead: Callable[[], None]) -> None:
        """Fork it.

        Args:
            ahead: What its first child does before it is needed.
        """
        self._purpose, purpose = pair()
        self._requests, requests = pair()
        tracked, self._track = os.pipe()
        with purpose, requests:
            fork(lambda: _Server(requests, tracked, ahead).run(purpose), (purpose, requests, tracked))
        os.close(tracked)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What the node has to keep."""
        return self._requests.fileno(), self._track

    def begin(self, purpose: Purpose) -> None:
        """Let it become part of the node with *purpose*. Should it have died, ``multiprocessing`` starts its own."""
        with self._purpose, suppress(OSError):
            purpose.pass_on(self._purpose)

    def serve(self) -> None:
        """Have ``multiprocessing``, and with it Dask's Nanny, start its processes here."""
        _have_forked(self._requests, self._track)
        described = spawn.get_preparation_data

        def describe(name: str) -> dict[str, Any]:
            """Leave out the node's program, which each child would compile and run to find nothing in it."""
            return {key: value for key, value in described(name).items() if key != "init_main_from_path"}

        vars(spawn)["get_preparation_data"] = describe
        if "dask" in sys.modules:
            sys.modules["dask"].config.set({"distributed.worker.multiprocessing-method": "forkserver"})


def _have_forked(requests: socket.socket, track: int) -> None:
    """Let this process ask the fork server at the other end of *requests* for children."""
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - what its own start would set
    tracker._fd, tracker._pid = track, None  # noqa: SLF001 - see above
    plain: Callable[[Sequence[int]], tuple[int, int]] = forkserver._forkserver.connect_to_new_process  # noqa: SLF001 - see above

    def connect(fds: Sequence[int]) -> tuple[int, int]:
        """Return descriptors that tell the child's pid and status, and that its program is written to."""
        told, tell = os.pipe()
        read, write = os.pipe()
        try:
            socket.send_fds(requests, [b"fork"], [read, tell, tracker.getfd(), requests.fileno(), *fds])
        except OSError:  # the fork server is gone
            os.close(told)
            os.close(write)
            return plain(fds)
        finally:
            os.close(read)
            os.close(tell)
        return told, write

    vars(forkserver)["connect_to_new_process"] = connect


class _Server:
    """The fork server itself: forks one child for each request, and tells how each has ended."""

    def __init__(self, requests: socket.socket, tracked: int, ahead: Callable[[], None]) -> None:
        self._requests = requests
        self._tracked = tracked
        self._has_tracker = False
        self._track_at: float | None = None
        self._poll = select.poll()
        self._children: dict[int, tuple[int, int]] = {}  # by what tells the end: pid, and where to tell the status
        ours, theirs = pair()
        with theirs:
            self._first = fork(lambda: _wait(theirs, ahead), (theirs,)), ours

    def run(self, purpose: socket.socket) -> NoReturn:
        """Serve until nobody is left who could ask."""
        _, first = self._first
        with purpose:
            mine = receive(purpose)
        with suppress(OSError):  # it has died
            mine.pass_on(first)
        become(mine, argv(SERVER), (self._requests.fileno(), first.fileno(), self._tracked))
        for descriptor in (self._requests.fileno(), self._tracked):
            self._poll.register(descriptor, select.POLLIN)
        while self._serve_once():
            pass
        self._track_rest()
        end(0)

    def _serve_once(self) -> bool:
        """Handle what there is; returns whether to go on."""
        left = None if self._track_at is None else max(0.0, self._track_at - time.monotonic()) * 1000
        ready = [descriptor for descriptor, _ in self._poll.poll(left)]
        for descriptor in ready:
            if descriptor in self._children:
                self._bury(descriptor)
            elif descriptor == self._tracked and not self._has_tracker:
                self._track_at = time.monotonic() + TRACKER_SECONDS
                self._poll.unregister(descriptor)
        if self._track_at is not None and time.monotonic() >= self._track_at:
            self._track()
        return self._requests.fileno() not in ready or self._give_birth()

    def _give_birth(self) -> bool:
        message, received, _, _ = socket.recv_fds(self._requests, 16, CHILD_DESCRIPTORS)
        if not message:
            return False
        read, tell, *rest = received
        pid = self._hand_over(read, rest) or fork(lambda: _be_child(read, rest), (read, *rest))
        os.close(read)
        for descriptor in rest:
            os.close(descriptor)
        with suppress(BrokenPipeError):  # whoever asked is gone
            forkserver.write_signed(tell, pid)
        ended = os.pidfd_open(pid)
        self._children[ended] = pid, tell
        self._poll.register(ended, select.POLLIN)
        return True

    def _hand_over(self, read: int, rest: Sequence[int]) -> int | None:
        """Let the child that was forked ahead do it, if that is still there."""
        pid, first = self._first
        if first.fileno() < 0:
            return None
        with first:
            try:
                socket.send_fds(first, [b"begin"], [read, *rest])
            except OSError:
                os.waitpid(pid, 0)
                return None
        return pid

    def _bury(self, ended: int) -> None:
        pid, tell = self._children.pop(ended)
        self._poll.unregister(ended)
        os.close(ended)
        _, status = os.waitpid(pid, 0)
        with suppress(BrokenPipeError):
            forkserver.write_signed(tell, os.waitstatus_to_exitcode(status))
        os.close(tell)

    def _track(self) -> None:
        """Fork the resource tracker; what there is to track waits in the pipe."""
        self._has_tracker, self._track_at = True, None
        fork(lambda: _be_tracker(self._tracked), (self._tracked,))
        os.close(self._tracked)

    def _track_rest(self) -> None:
        """At the end, be the resource tracker oneself if there is none: all that is to be cleaned up is known."""
        if not self._has_tracker:
            close_all_but((self._tracked,))
            resource_tracker.main(self._tracked)


def _wait(channel: socket.socket, ahead: Callable[[], None]) -> None:
    """Be the first child: first part of the node, then what it is asked to be."""
    ahead()
    become(receive(channel), argv(SERVER), (channel.fileno(),))
    with channel:
        message, received, _, _ = socket.recv_fds(channel, 16, CHILD_DESCRIPTORS)
    if message:
        read, *rest = received
        _be_child(read, rest, fresh=False)


def _be_child(read: int, rest: Sequence[int], *, fresh: bool = True) -> None:
    """Be the process whose program comes from *read*."""
    outlive()
    if fresh:
        renew()
    track, requests, *inherited = rest
    for descriptor in (track, requests):
        os.set_inheritable(descriptor, False)
    _have_forked(socket.socket(fileno=requests), track)
    own: Any = forkserver._forkserver  # noqa: SLF001 - as its own children do
    own._inherited_fds = inherited  # noqa: SLF001 - see above
    end(spawn._main(read, os.dup(read)))  # noqa: SLF001 - see above


def _be_tracker(tracked: int) -> None:
    outlive()
    show(argv(TRACKER), os.environ)
    resource_tracker.main(tracked)
