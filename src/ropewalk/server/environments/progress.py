"""How far a build is, from what it told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ropewalk.schemas.common import Event
from ropewalk.schemas.environments import BuildState, EnvironmentBuild
from ropewalk.server.environments.builder import BuildStep
from ropewalk.server.environments.builders import LOCAL
from ropewalk.server.events import EventCode

__all__ = ["Stage", "stages"]

_BEGINNINGS = frozenset({EventCode.ENVIRONMENT_CREATED, EventCode.ENVIRONMENT_REBUILDING})
_LOCAL = (
    (BuildStep.RESOLVED, "Find packages that fit together"),
    (BuildStep.INSTALLED, "Install and compile them"),
)
_IMAGE = (
    (BuildStep.RESOLVED, "Find packages that fit together"),
    (BuildStep.INSTALLED, "Put them into layers of an image"),
    (BuildStep.PUSHED, "Send what the registry lacks"),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the few steps of every build."""

    what: str
    state: Literal["done", "now", "failed", "waiting"]
    told: str | None = None
    """What the builder said when it was done."""
    at: datetime | None = None


def stages(build: EnvironmentBuild, events: Sequence[Event]) -> list[Stage]:
    """Return the steps of *build*; *events* are its own, oldest first."""
    told: dict[str, Event] = {}
    for event in events:
        if event.code in _BEGINNINGS:
            told.clear()  # what was built before is gone, or wanted again
        elif event.code == EventCode.ENVIRONMENT_STEP and "step" in event.details:
            told[event.details["step"]] = event
    plan = _LOCAL if build.target == LOCAL else _IMAGE
    # A step that was not told of was not needed, if a later one is done: what it was resolved to was known already.
    reached = max((number for number, (step, _) in enumerate(plan) if step in told), default=-1)
    done = len(plan) if build.state is BuildState.READY else reached + 1
    found = []
    for number, (step, what) in enumerate(plan):
        event_of_step = told.get(step)
        said, at = (None, None) if event_of_step is None else (event_of_step.message, event_of_step.time)
        found.append(Stage(what, _state(number, done, build.state), said, at))
    return found


def _state(number: int, done: int, build: BuildState) -> Literal["done", "now", "failed", "waiting"]:
    if number < done:
        return "done"
    if number > done or build is BuildState.QUEUED:
        return "waiting"
    return "failed" if build is BuildState.FAILED else "now"
