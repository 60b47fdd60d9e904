"""The loops of a part of the server: none is ended by an error, and each tells when it last did its work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.errors import RopewalkError
from ropewalk.schemas.diagnostics import LoopDiagnostics

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["Loops"]

Step = Callable[[], Awaitable[None]]

log = structlog.get_logger(__name__)


class Loops:
    """Works and waits by turns, in as many loops as are started.

    Args:
        context: The server's services.
    """

    def __init__(self, context: Context) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.last_success: dict[str, datetime] = {}
        """When each loop last did its work."""
        self._context = context
        self._failures: Counter[str] = Counter()
        self._problems: dict[str, str] = {}

    @property
    def running(self) -> bool:
        """Whether all of them run."""
        return bool(self.tasks) and not any(task.done() for task in self.tasks.values())

    def start(self, name: str, work: Step, pause: Step) -> None:
        """Work at once, and again after each *pause*."""
        self.tasks[name] = asyncio.create_task(self._run(name, work, pause), name=name)

    def every(self, seconds: float, name: str, work: Step) -> None:
        """Work every so many *seconds*, for the first time after as many."""
        pause = partial(asyncio.sleep, seconds)

        async def later() -> None:
            await pause()
            await self._run(name, work, pause)

        self.tasks[name] = asyncio.create_task(later(), name=name)

    async def stop(self) -> None:
        """End them all."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    def told(self) -> list[LoopDiagnostics]:
        """Return how each of them fares."""
        return [
            LoopDiagnostics(
                name=name,
                running=not task.done(),
                last_success=self.last_success.get(name),
                failures=self._failures[name],
                problem=self._problems.get(name),
            )
            for name, task in self.tasks.items()
        ]

    def failed(self, what: str, error: BaseException) -> None:
        """Count and log an error of a loop, or of *what* belongs to one; it will be tried again."""
        self._context.metrics.reconcile_errors.labels(type(error).__name__).inc()
        self._context.metrics.retries.labels(what).inc()
        expected = isinstance(error, SQLAlchemyError | OSError | RopewalkError)
        text = (str(error).splitlines() or [""])[0] if expected else type(error).__name__
        self._failures[what] += 1
        self._problems[what] = text
        log.warning("loop.failed", what=what, error=text, exc_info=None if expected else error)

    async def _run(self, name: str, work: Step, pause: Step) -> None:
        while True:
            try:
                await work()
                self._done(name)
            except Exception as exc:  # noqa: BLE001 - the loop goes on, whatever it was
                self.failed(name, exc)
            await pause()

    def _done(self, name: str) -> None:
        self._problems.pop(name, None)
        self.last_success[name] = now = self._context.clock.now()
        self._context.metrics.loop_runs.labels(name).set(now.timestamp())
