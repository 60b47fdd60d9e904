"""How long a scheduler has not been heard, and how often that may be told.

Counted by one server from the moment at which it noticed: a server that starts does not hold its own absence against a
scheduler. What was told is in the events, so that a successor knows it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

FIRST_PAUSE, LAST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
"""Between two events about one lost link, doubling: some thirty a day at the most for one that comes and goes."""


class Silence:
    """What one server knows about one scheduler's silence.

    Args:
        after: A silence that a person should know of.
        told: An event says that the link is lost, and none that it is back.
    """

    def __init__(self, after: timedelta, *, told: bool = False) -> None:
        self.after = after
        self.told = told
        self.since: datetime | None = None
        self.tell_from: datetime | None = None
        self._pause = FIRST_PAUSE

    def note(self, now: datetime, *, linked: bool) -> None:
        """Take note of whether the scheduler is heard now."""
        if linked:
            self.since = None
        elif self.since is None:
            self.since = now

    def tell_lost(self, now: datetime) -> None:
        """Take note that an event tells of the loss."""
        self.told = True
        self.tell_from = now + self._pause
        self._pause = min(2 * self._pause, LAST_PAUSE)

    def tell_back(self) -> None:
        """Take note that an event tells of the return."""
        self.told = False
