"""A clock that only moves when a test says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Starts at a fixed time; see :class:`ropewalk.server.clock.Clock`."""

    def __init__(self, start: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) -> None:
        self.time = start

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float = 0, **parts: float) -> datetime:
        """Move on by *seconds*, or by ``days=``, ``hours=``…; return the new time."""
        self.time += timedelta(seconds=seconds, **parts)
        return self.time
