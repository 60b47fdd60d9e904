"""A database that is gone for a while, or whose disk is full: wishes and clusters survive it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from ropewalk.errors import UnavailableError
from ropewalk.server.clusters import actor
from tests.server.clusters.conftest import Fleet
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually


@asynccontextmanager
async def gone(server: PostgresServer, url: str) -> AsyncIterator[None]:
    """Break all connections to one database, and let nobody connect to it for the length of the block."""
    name = make_url(url).database
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    await server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false", end)
    try:
        yield
    finally:
        await server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")


async def test_a_database_that_is_gone_for_a_while_loses_nothing(
    running: Fleet, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if running.database.is_sqlite:
        return  # a file is not gone; a full disk is tested below
    monkeypatch.setattr(actor, "FIRST_RETRY", 0.01)
    server: PostgresServer = request.getfixturevalue("postgres")
    cluster = await running.create(n_workers=2)
    await running.until("ready", workers=2)
    retries = running.context.metrics.retries.labels("actor")._value.get
    async with gone(server, running.settings.database_url):
        running.cloud.end(f"{cluster.id}-worker-1", exit_code=1, reason="")
        await eventually(lambda: _woken(running) and retries() >= 2)
        with pytest.raises(UnavailableError):
            await running.create(name="later")
        assert len(running.running()) == 2, "nothing is stopped because of a database"

    async def recovered() -> bool:
        _woken(running)
        return f"{cluster.id}-worker-3" in running.running()

    await eventually(recovered)
    await running.until("ready", workers=2)
    await running.create(name="later", n_workers=1)
    await running.until("ready", workers=1, name="later")
    assert running.cloud.launches() == 6


def _woken(fleet: Fleet) -> bool:
    # Passes that failed wait by the clock, which stands still here.
    fleet.tick(1)
    return True


async def test_a_full_disk_refuses_new_clusters_and_loses_none(running: Fleet) -> None:
    if not running.database.is_sqlite:
        return  # PostgreSQL tells a full disk as it tells an outage (SQLSTATE 53)
    engine = running.database.engine.sync_engine
    full = True

    @event.listens_for(engine, "begin")
    def limit(connection: Any) -> None:
        # SQLite takes the present size where less is asked for: from then on the file cannot grow.
        connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if full else 2**30}")

    names: list[str] = []
    try:
        for number in range(500):
            await running.create(name=f"c{number}", n_workers=1)
            names.append(f"c{number}")
    except UnavailableError:
        full = False
    assert not full, "the disk was never full"
    for name in names:

        async def ready(name: str = name) -> bool:
            _woken(running)
            return (await running.get(name)).state == "ready"

        await eventually(ready)
    await running.create(name="after", n_workers=1)
    await running.until("ready", workers=1, name="after")
    async with running.database.read() as session:
        assert await session.scalar(text("PRAGMA integrity_check")) == "ok"
    assert running.cloud.launches() == 2 * (len(names) + 1)
