"""What makes an environment real in one place: a virtual environment here, an image in a registry.

The rules, as for backends:

* ``build`` may be asked for the same again after a crash at any instruction: it finds what exists and completes it.
* What is half made is never seen: a folder is renamed into place, a manifest is put last.
* Errors are :class:`~ropewalk.errors.FixItError` (a person must change something; the message of a resolver is its own)
  or :class:`~ropewalk.errors.TryAgainError`. Nothing else leaves a builder.
* Secrets (:class:`Credential`) reach no log, no command line and nothing that is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from ropewalk.schemas.environments import EnvironmentSpec, Lock, Platform

__all__ = ["BuildRequest", "BuildResult", "BuildStep", "Builder", "Credential", "Report", "Target"]


class BuildStep(StrEnum):
    """What a build has done when it tells so: the detail ``step`` of an event. Pages show how far it is by them."""

    RESOLVED = "resolved"
    INSTALLED = "installed"
    PUSHED = "pushed"


@dataclass(frozen=True, slots=True)
class Target:
    """Where clusters run that use the environment."""

    key: str
    """``local``, or the id of the cloud account; what is built for one is not asked for again."""
    cloud_account_id: str
    account_id: str
    """Whose environment it is."""
    platform: Platform


@dataclass(frozen=True, slots=True)
class Credential:
    """User name and password for one private index."""

    name: str
    url: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One environment to build for one target."""

    build_id: str
    spec: EnvironmentSpec
    target: Target
    credentials: Sequence[Credential] = field(default=(), repr=False)
    wheels: Mapping[str, Path] = field(default_factory=dict)
    """Uploaded wheels: file by SHA-256; each file is called as the wheel is."""
    lock: Lock | None = None
    """What it was resolved to earlier, for this platform. None: resolve."""
    room: int | None = None
    """Bytes that may be added on the server's disk to stay there. None: any number."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built; all of it is stored."""

    lock: Lock
    image: str | None = None
    """Reference of an image, by digest."""
    path: str | None = None
    """Folder of a virtual environment."""
    reused: bool = False
    """It was there already: nothing was made or sent."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the builder wants to know again: bytes sent, layers; and ``size``, the bytes of all, which people see."""


class Report(Protocol):
    """Where a builder says what it does. What is said before a crash stays said."""

    def log(self, line: str) -> None:
        """Add a line to the log; credentials of the request are blotted out."""
        ...

    async def event(self, message: str, **details: Any) -> None:
        """Tell of a step as an event: one sentence for people. Some ten in a build, not hundreds."""
        ...


class Builder(Protocol):
    """Builds for one kind of target."""

    def validate(self, spec: EnvironmentSpec, target: Target) -> None:
        """Raise FixItError, naming the field, if such an environment cannot be built here. Pure: no call to anybody."""
        ...

    async def build(self, request: BuildRequest, report: Report) -> BuildResult:
        """Make it, or find that it is there. Cancelled at any time: whatever it started has ended afterwards."""
        ...

    async def present(self, request: BuildRequest, result: BuildResult) -> bool:
        """Whether what was built earlier is still there; asked before each cluster that uses it.

        When in doubt, it is: a registry that does not answer is no reason to build again.
        """
        ...
