"""Hosted clusters are processes of one machine: a server that could not see them must not look after them."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ropewalk.errors import SettingsError
from ropewalk.server.cloud_accounts import local_machine
from ropewalk.server.cloud_accounts.service import HOSTED_ID, ensure_hosted
from ropewalk.server.context import Context
from ropewalk.server.db.models import CloudAccount


@pytest.fixture
async def here(context: Context) -> Context:
    """A server that has started."""
    await ensure_hosted(context)
    await local_machine.claim(context)
    return context


def elsewhere(here: Context, path: Path) -> Context:
    """Return another server on the same database, with another directory."""
    return replace(here, settings=here.settings.model_copy(update={"local_dir": path}))


async def test_servers_with_the_same_directory_share_the_clusters(here: Context) -> None:
    await local_machine.claim(replace(here))


async def test_a_server_with_another_directory_is_refused_where_there_may_be_two(here: Context, tmp_path: Path) -> None:
    other = elsewhere(here, tmp_path / "other")
    if here.db.is_sqlite:
        with capture_logs() as logs:
            await local_machine.claim(other)
        assert [line["event"] for line in logs] == ["hosted.moved"]
        return
    with pytest.raises(SettingsError, match="could neither see nor stop them") as caught:
        await local_machine.claim(other)
    assert socket.gethostname() in caught.value.message
    assert str(here.settings.local_dir) in caught.value.message
    assert "ropewalk server move-hosted" in str(caught.value.advice)
    await local_machine.claim(here)


async def test_a_directory_that_was_moved_is_the_same(here: Context, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    here.settings.local_dir.rename(moved)
    await local_machine.claim(elsewhere(here, moved))


async def test_an_operator_can_give_up_the_former_machine(here: Context, tmp_path: Path) -> None:
    other = elsewhere(here, tmp_path / "other")
    await local_machine.claim(other, move=True)
    await local_machine.claim(other)
    if not here.db.is_sqlite:
        with pytest.raises(SettingsError):
            await local_machine.claim(here)


async def test_servers_whose_hosted_clusters_run_in_a_cloud_need_not_share_a_machine(
    context: Context, tmp_path: Path
) -> None:
    await ensure_hosted(context)
    async with context.db.transaction() as session:
        (await session.get_one(CloudAccount, HOSTED_ID)).backend = "aws"
    for path in (tmp_path / "one", tmp_path / "two"):
        await local_machine.claim(elsewhere(context, path))
        assert not path.exists()
