"""Asking the server for a software environment, and waiting until it is built, its log shown as it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ropewalk.client import calls
from ropewalk.client.http import Steps
from ropewalk.errors import FixItError, ServerUnreachableError, UnavailableError
from ropewalk.schemas.environments import (
    BuildState,
    EnvironmentBuild,
    EnvironmentCreate,
    EnvironmentDetail,
    LocalWheel,
    LogPart,
    WheelsWanted,
)

__all__ = ["Say", "built", "followed", "make"]

T = TypeVar("T")

LOG_WAIT = 20.0
"""Seconds that the server may keep a request for more of a log."""

SILENCE = 60.0
"""Seconds for which a server may be silent: a restart takes some five, a migration of its database longer."""
SILENT_CALLS = 40
"""At the most in that time; each is tried four times within 1.4 seconds (``RetryPolicy``)."""

Say = Callable[[str], None]
"""Gets pieces of a build's log."""


def make(account: str, wish: EnvironmentCreate, wheels: Mapping[str, Path], say: Say) -> Steps[EnvironmentDetail]:
    """Create an environment, or a new version of one, and wait until it is built.

    Args:
        account: Whose it is.
        wish: What is wished.
        wheels: Files of its wheels by SHA-256; those that the server has not are sent.
        say: Gets the log.

    Raises:
        FixItError: It could not be built; the message is the resolver's, or whoever's it was.
    """
    yield from _sent(account, wish.spec.wheels, wheels)
    made: EnvironmentDetail = yield calls.create_environment(account, wish)
    yield from built(account, str(made.build), say)
    detail: EnvironmentDetail = yield calls.get_environment(account, made.name)
    return detail


def _sent(account: str, wheels: list[LocalWheel], files: Mapping[str, Path]) -> Steps[None]:
    """Send the wheels that the server has not."""
    if not wheels:
        return
    missing: list[LocalWheel] = yield calls.missing_wheels(account, WheelsWanted(wheels=wheels))
    for wheel in missing:
        yield calls.send_wheel(account, wheel, files[wheel.sha256].read_bytes())


def followed(account: str, build: str, say: Say, note: Say) -> Steps[None]:
    """Pass the log of a build on to *say* until the build is over; *note* gets what is no part of it."""
    part = LogPart(offset=0, next=0, text="", complete=False)
    while not part.complete:
        part = yield from _patiently(calls.get_build_log(account, build, offset=part.next, wait=LOG_WAIT), note)
        if part.text:
            say(part.text)


def _patiently(call: calls.Call[T], note: Say) -> Steps[T]:
    """Return the answer to a call that changes nothing; a server that is restarted meanwhile is waited for."""
    until = None
    for _ in range(SILENT_CALLS):
        try:
            answer: T = yield call
        except (ServerUnreachableError, UnavailableError) as exc:
            if until is None:
                until = time.monotonic() + SILENCE
                note(f"{exc.message} Builds survive a restart: it is asked again for {SILENCE:.0f} seconds.")
            if time.monotonic() > until:
                raise
        else:
            return answer
    last: T = yield call
    return last


def built(account: str, build: str, say: Say) -> Steps[EnvironmentBuild]:
    """Wait until a build is over, passing its log on.

    Raises:
        FixItError: It failed.
    """
    now = yield from _patiently(calls.get_build(account, build), say)
    if now.state is not BuildState.READY:
        yield from followed(account, build, say, say)
        now = yield from _patiently(calls.get_build(account, build), say)
    if now.state is BuildState.FAILED:
        raise FixItError(
            f"The software environment {now.environment!r} could not be built: {now.reason}",
            details={"build": build, "environment": now.environment, "version": now.version},
        )
    return now
