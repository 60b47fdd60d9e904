"""A builder that does as it is told, in place of uv."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import FixItError
from ropewalk.schemas.environments import EnvironmentSpec, Lock, LockedPackage, requirement_name
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.environments import builders, using
from ropewalk.server.environments.builder import Builder, BuildRequest, BuildResult, Report, Target

Answer = Callable[[BuildRequest], BaseException | None]


class FakeBuilder:
    """Makes folders. ``asked`` has every request; ``gate`` holds builds up while it is not set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[BuildRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: Answer = lambda _request: None
        self.says = ["Looking around."]

    def validate(self, spec: EnvironmentSpec, target: Target) -> None:
        if spec.container is not None:
            raise FixItError("There are no containers here.", field="container", advice="Leave container out.")

    async def build(self, request: BuildRequest, report: Report) -> BuildResult:
        self.asked.append(request)
        for line in self.says:
            report.log(line)
        await report.event("A step was done.")
        await self.gate.wait()
        error = self.answer(request)
        if error is not None:
            raise error
        folder = self.root / request.spec.hash
        folder.mkdir(parents=True, exist_ok=True)
        pins = [LockedPackage(name=requirement_name(each) or "", version=_pin(each)) for each in request.spec.pip]
        lock = request.lock or Lock(python="3.11", platform="linux/amd64", packages=pins)
        return BuildResult(lock, path=str(folder))

    async def present(self, request: BuildRequest, result: BuildResult) -> bool:
        return result.path is not None and await asyncio.to_thread(Path(result.path).is_dir)


def _pin(requirement: str) -> str:
    return requirement.partition("==")[2] or "1"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    """The builder of every cloud account."""
    made = FakeBuilder(tmp_path / "built")

    async def find(_context: Any, cloud: CloudAccount, account_id: str) -> tuple[Builder, Target]:
        return made, Target("local", cloud.id, account_id, "linux/amd64")

    for module in (builders, using):
        monkeypatch.setattr(module, "find_builder", find)
    return made
