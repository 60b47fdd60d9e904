"""What the server says about hosted clusters at its start."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.errors import TryAgainError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.cloud_accounts.report import reported, say_what_is_wanting
from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.context import Context
from tests.support.server_process import server_process
from tests.support.waiting import PATIENCE, wait_until


class Checked(MemoryBackend):
    """A backend whose check finds what it is told."""

    def __init__(self, *items: CheckItem) -> None:
        super().__init__(MemoryCloud())
        self.items = list(items)
        self.never = asyncio.Event()

    async def check(self) -> CheckReport:
        if not self.items:
            await self.never.wait()
        if self.items[0].status is CheckStatus.UNKNOWN:
            raise TryAgainError("The cloud does not answer.")
        return CheckReport(checked_at=datetime.now(UTC), items=self.items)


def item(name: str, status: CheckStatus) -> CheckItem:
    return CheckItem(name=name, status=status, message=f"{name} was found", advice=f"do {name}")


def using(context: Context, backend: MemoryBackend) -> None:
    context.backends = Backends({HOSTED_ID: backend})


async def test_what_is_wanting_is_logged_and_in_any_case_whom_clusters_trust(context: Context) -> None:
    using(
        context,
        Checked(
            item("disk", CheckStatus.OK),
            item("user", CheckStatus.OK),
            item("file descriptors", CheckStatus.WARNING),
        ),
    )
    with capture_logs() as logs:
        await say_what_is_wanting(context)
    assert [(line["log_level"], line["event"], line["found"], line["hint"]) for line in logs] == [
        ("info", "hosted.user", "user was found", "do user"),
        ("warning", "hosted.file_descriptors", "file descriptors was found", "do file descriptors"),
    ]


async def test_a_check_that_fails_is_said_and_harms_nothing(context: Context) -> None:
    using(context, Checked(item("user", CheckStatus.UNKNOWN)))
    with capture_logs() as logs:
        await say_what_is_wanting(context)
    assert [(line["event"], line["error"]) for line in logs] == [("hosted.unchecked", "The cloud does not answer.")]


async def test_a_check_that_hangs_keeps_nobody(context: Context) -> None:
    using(context, Checked())
    async with asyncio.timeout(PATIENCE):
        async with reported(context):
            await asyncio.sleep(0)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_server_that_cannot_isolate_says_at_its_start_that_it_trusts_its_users(
    tmp_path: Path, log_format: str
) -> None:
    """pytest's directories are private, so no node of another user could enter."""
    with server_process(tmp_path / "data", ROPEWALK_LOG_FORMAT=log_format) as server:
        server.wait_ready()
        wait_until(lambda: "hosted.user" in server.output)
        assert "people you trust" in server.output
