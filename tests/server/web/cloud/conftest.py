"""The pages of cloud accounts, with the clouds in memory of the services' own tests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ropewalk.schemas.aws_permissions import BY_ACTION
from ropewalk.schemas.aws_policy import policy_of
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus
from tests.server.cloud_accounts.conftest import World, aws, backends, blueprints, hosted, world
from tests.support.api import Person
from tests.support.clock import FakeClock
from tests.support.pages import Visitor

__all__ = ["HOME", "Page", "aws", "backends", "blueprints", "denied", "hosted", "world"]

HOME = "/accounts/ada/cloud-account"


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """SQLite alone: pages ask nothing of the database that the services' tests do not ask of both."""
    path = tmp_path / "ropewalk.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


class Page:
    """Ada at her cloud account."""

    def __init__(self, world: World, person: Person, visitor: Visitor) -> None:
        self.world, self.person, self.visitor = world, person, visitor

    async def open(self, path: str = "") -> str:
        """Open a page below the cloud account's; return what it says."""
        await self.visitor.open(f"{HOME}{path}")
        assert self.visitor.page.status_code == 200, self.visitor.text
        return self.visitor.text

    async def submit(self, path: str, fields: Mapping[str, str] | None = None, *, status: int = 200) -> str:
        """Send the form of the page that is open; return what the page after it says."""
        await self.visitor.submit(f"{HOME}{path}", **(fields or {}))
        assert self.visitor.page.status_code == status, self.visitor.text
        return self.visitor.text

    @property
    def html(self) -> str:
        return self.visitor.page.text

    def marked(self) -> list[str]:
        """Return the ids of the fields that are marked as wrong."""
        tags = [part.partition(">")[0] for part in self.html.split("<")]
        return [tag.partition('id="')[2].partition('"')[0] for tag in tags if 'aria-invalid="true"' in tag]

    async def until(self, state: str) -> dict[str, Any]:
        return await self.world.until(self.person, state)


@pytest.fixture
async def page(world: World) -> Page:
    ada = await world.admin()
    return Page(world, ada, await Visitor.make(world.api, "ada"))


def denied(clock: FakeClock) -> CheckReport:
    """Return a report in which a right to prepare and a right to remove are missing."""

    wanting = [BY_ACTION["ec2:CreateVpc"], BY_ACTION["ecr:DeleteRepository"]]
    statuses = (CheckStatus.FAILED, CheckStatus.WARNING)
    items = [CheckItem(name="credentials", status=CheckStatus.OK, message="The key is that of <b>somebody</b>.")]
    items += [
        CheckItem(
            name=each.action,
            status=status,
            message=f"Denied. Without it: {each.breaks}.",
            details={"phases": [str(phase) for phase in each.phases]},
        )
        for each, status in zip(wanting, statuses, strict=True)
    ]
    return CheckReport(checked_at=clock.now(), items=items, policy=policy_of(wanting))
