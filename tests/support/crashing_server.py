"""``ropewalk`` that kills itself with signal 9 at the point that the environment variable ``CRASH_AT`` names.

With ``CRASH_SIGNAL``, the name of a signal, it sends itself that one instead, once.

Points are ``commit:N`` (right after the N-th write of the reconciler, of which a new cluster itself is one),
``launch.before``, ``launch.after``, ``stop.before`` and ``stop.after`` (around the backend's work, the last two of them
before anything is recorded); of builds of virtual environments ``resolve.after``, ``fill.after`` (it is complete, under
another name) and ``venv.after`` (it is in its place, and not recorded).
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ropewalk.backends.local.backend import LocalBackend
from ropewalk.cli.main import main
from ropewalk.server.clusters import actor, leases, reconciler
from ropewalk.server.environments import resolve, venvs
from ropewalk.server.environments.venvs import VenvBuilder

POINT = os.environ.pop("CRASH_AT")
SIGNAL = signal.Signals[os.environ.pop("CRASH_SIGNAL", "SIGKILL")]
_commits = 0
_reached: set[str] = set()


def _reach(point: str) -> None:
    if point == POINT and point not in _reached:
        _reached.add(point)
        os.kill(os.getpid(), SIGNAL)


@asynccontextmanager
async def _fenced(*arguments: Any) -> AsyncIterator[Any]:
    global _commits  # noqa: PLW0603 - counts the writes of the whole process
    async with leases.fenced(*arguments) as session:
        yield session
    _commits += 1
    _reach(f"commit:{_commits}")


_newborn = reconciler.Reconciler.newborn


@contextmanager
def _born(*arguments: Any) -> Iterator[Any]:
    global _commits  # noqa: PLW0603 - as above
    with _newborn(*arguments) as worker:
        yield worker
        _commits += 1
        _reach(f"commit:{_commits}")


def _around(name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def wrapped(*arguments: Any, **options: Any) -> Any:
        _reach(f"{name}.before")
        result = await method(*arguments, **options)
        _reach(f"{name}.after")
        return result

    return wrapped


if __name__ == "__main__":
    assert hasattr(actor, "fenced")
    # The same, and then perhaps death.
    for holder, name, replacement in (
        (actor, "fenced", _fenced),
        (reconciler.Reconciler, "newborn", _born),
        (LocalBackend, "launch", _around("launch", LocalBackend.launch)),
        (LocalBackend, "stop", _around("stop", LocalBackend.stop)),
        (venvs, "resolve", _around("resolve", resolve.resolve)),
        (VenvBuilder, "_fill", _around("fill", VenvBuilder._fill)),
        (VenvBuilder, "build", _around("venv", VenvBuilder.build)),
    ):
        setattr(holder, name, replacement)
    main()
