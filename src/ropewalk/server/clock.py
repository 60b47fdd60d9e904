"""The server's only source of time, so that tests can put a fake one in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

SLEW = 0.1
"""Seconds of a difference that are worked off in each second: leases and pauses stay right within a tenth."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the time in UTC."""
        ...


def _elapsed() -> float:
    # Where there is one, a clock that also counts while the machine sleeps: else each nap would look like a jump.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _wall() -> datetime:
    return datetime.now(UTC)


class SystemClock:
    """The machine's time without its jumps.

    Somebody who sets the clock by an hour must not end leases, let pauses last for an hour, or give up nodes that
    start. Time goes on as it passes; what the machine's clock differs by is worked off slowly, by :data:`SLEW`.

    Args:
        wall: The machine's time.
        elapsed: Seconds since some moment, which never jump.
    """

    def __init__(self, wall: Callable[[], datetime] = _wall, elapsed: Callable[[], float] = _elapsed) -> None:
        self._wall, self._elapsed = wall, elapsed
        self._time, self._at = wall(), elapsed()

    def now(self) -> datetime:
        at = self._elapsed()
        passed = timedelta(seconds=at - self._at)
        steady, most = self._time + passed, passed * SLEW
        self._time = steady + max(-most, min(most, self._wall() - steady))
        self._at = at
        return self._time
