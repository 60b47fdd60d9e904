"""The server's time does not jump when the machine's does."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from ropewalk.server.clock import SLEW, SystemClock

START = datetime(2026, 1, 1, tzinfo=UTC)


class Machine:
    def __init__(self) -> None:
        self.wall, self.elapsed = START, 1000.0

    def passes(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.elapsed += seconds

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall, lambda: self.elapsed)


def test_time_passes_as_the_machines_does() -> None:
    machine = Machine()
    clock = machine.clock()
    for seconds in (0.001, 5, 86400):
        machine.passes(seconds)
        assert clock.now() == machine.wall


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_is_worked_off_slowly(hours: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += timedelta(hours=hours)
    assert clock.now() == START
    machine.passes(30)
    assert abs(clock.now() - START - timedelta(seconds=30)) <= timedelta(seconds=30 * SLEW)
    for _ in range(60 * 11):
        machine.passes(60)
        clock.now()
    assert clock.now() == machine.wall


def test_time_never_goes_back() -> None:
    machine = Machine()
    clock = machine.clock()
    seen = []
    for step in range(200):
        machine.passes(0.5)
        if step % 20 == 0:
            machine.wall -= timedelta(hours=1)
        seen.append(clock.now())
    assert all(a < b for a, b in itertools.pairwise(seen))


def test_the_real_one_is_the_machines() -> None:
    before = datetime.now(UTC)
    told = SystemClock().now()
    assert before - timedelta(seconds=1) < told < datetime.now(UTC) + timedelta(seconds=1)
