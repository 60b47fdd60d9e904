"""Asking the server for a software environment, and waiting until it is built, its log shown as it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ropewalk.client import calls
from ropewalk.client.http import Steps
from ropewalk.errors import FixItError
from ropewalk.schemas.environments import (
    BuildState,
    EnvironmentBuild,
    EnvironmentCreate,
    EnvironmentDetail,
    LocalWheel,
    LogPart,
    WheelsWanted,
)

__all__ = ["Say", "built", "make"]

LOG_WAIT = 20.0
"""Seconds that the server may keep a request for more of a log."""

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


def built(account: str, build: str, say: Say) -> Steps[EnvironmentBuild]:
    """Wait until a build is over, passing its log on.

    Raises:
        FixItError: It failed.
    """
    now: EnvironmentBuild = yield calls.get_build(account, build)
    if now.state is not BuildState.READY:
        part = LogPart(offset=0, next=0, text="", complete=False)
        while not part.complete:
            part = yield calls.get_build_log(account, build, offset=part.next, wait=LOG_WAIT)
            if part.text:
                say(part.text)
        now = yield calls.get_build(account, build)
    if now.state is BuildState.FAILED:
        raise FixItError(
            f"The software environment {now.environment!r} could not be built: {now.reason}",
            details={"build": build, "environment": now.environment, "version": now.version},
        )
    return now
