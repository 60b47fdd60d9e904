"""Noticing at once that a process has ended, whoever its parent is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ropewalk.backends.local import processes
from ropewalk.backends.local.processes import Identity

_POLL_SECONDS = 0.25
"""Where the kernel has no pidfd (Linux before 5.3, macOS): how often processes are looked at."""

_STATUS_TRIES = 20
_STATUS_SECONDS = 0.01
"""How long init gets to take note of an adopted node's end, before its exit status is given up."""


class Watch:
    """Calls *departed* with a name, in the event loop, when the process that is watched under it has ended."""

    def __init__(self, departed: Callable[[str], None]) -> None:
        self._departed = departed
        self._descriptors: dict[str, int] = {}
        self._polled: dict[str, Identity] = {}
        self._poll: asyncio.TimerHandle | None = None

    def add(self, name: str, identity: Identity) -> None:
        """Watch a process; a second time changes nothing."""
        if name in self._descriptors or name in self._polled:
            return
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            self._departed(name)
            return
        except (OSError, AttributeError):
            self._watch_by_polling(name, identity)
            return
        # Checked after opening: the descriptor cannot come to mean another process.
        if not processes.alive(identity):
            os.close(descriptor)
            self._departed(name)
            return
        self._descriptors[name] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._readable, name, identity)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._poll is not None:
            self._poll.cancel()
        for name in list(self._descriptors):
            self._release(name)
        self._polled.clear()

    def _release(self, name: str) -> None:
        descriptor = self._descriptors.pop(name)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

    def _readable(self, name: str, identity: Identity, tries: int = _STATUS_TRIES) -> None:
        if name not in self._descriptors:
            return  # closed meanwhile
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._descriptors[name])
        if not processes.note_exit(identity, self._descriptors[name]) and tries:
            loop.call_later(_STATUS_SECONDS, self._readable, name, identity, tries - 1)
            return
        self._release(name)
        self._departed(name)

    def _watch_by_polling(self, name: str, identity: Identity) -> None:
        self._polled[name] = identity
        if self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._look)

    def _look(self) -> None:
        self._poll = None
        ended = [name for name, identity in self._polled.items() if not processes.alive(identity)]
        for name in ended:
            del self._polled[name]
            self._departed(name)
        if self._polled:
            self._poll = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._look)
