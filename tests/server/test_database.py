"""What transactions promise on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import StatementError

from ropewalk.errors import UnavailableError
from ropewalk.server.db import engine
from ropewalk.server.db.engine import Database
from ropewalk.server.db.models import Account
from ropewalk.server.db.sqlite import PatientConnection
from tests.support.clock import FakeClock
from tests.support.waiting import PATIENCE, eventually


def account(clock: FakeClock, slug: str) -> Account:
    return Account(id=f"a-{slug}", slug=slug, kind="team", created_at=clock.now())


async def slugs(database: Database) -> list[str]:
    async with database.read() as session:
        return list(await session.scalars(select(Account.slug).order_by(Account.slug)))


async def test_readers_and_writers_do_not_wait_for_each_other(database: Database, clock: FakeClock) -> None:
    async with asyncio.timeout(PATIENCE), database.transaction() as writer:
        writer.add(account(clock, "new"))
        await writer.flush()
        assert await slugs(database) == []
    async with asyncio.timeout(PATIENCE), database.read() as reader:
        before = list(await reader.scalars(select(Account.slug)))
        async with database.transaction() as writer:
            writer.add(account(clock, "newer"))
        assert before == ["new"]
    assert await slugs(database) == ["new", "newer"]


async def test_an_exception_rolls_back_what_was_done(database: Database, clock: FakeClock) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            session.add(account(clock, "gone"))
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await slugs(database) == []


async def test_transactions_that_ask_for_one_name_take_turns(database: Database) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with database.transaction() as session:
            await database.serialize(session, "a name")
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)  # long enough for another one to come in, if it could
            inside -= 1

    await asyncio.gather(*(work() for _ in range(5)))
    assert most == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one server
async def test_a_server_that_froze_in_a_transaction_does_not_hold_its_rows_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Database(database_url)
    monkeypatch.setattr(engine, "FROZEN_SECONDS", 0.3)
    frozen = Database(database_url)

    async def freeze_and_wake() -> None:
        async with frozen.transaction() as session:
            await session.execute(text("SELECT pg_advisory_xact_lock(1)"))
            async with asyncio.timeout(PATIENCE), other.transaction() as waiting:
                await waiting.execute(text("SELECT pg_advisory_xact_lock(1)"))
            await session.execute(text("SELECT 1"))

    async def usable() -> bool:
        with contextlib.suppress(UnavailableError):  # a busy machine may freeze us for so long once more
            async with frozen.transaction() as session:
                return bool(await session.scalar(text("SELECT 1")))
        return False

    try:
        with pytest.raises(UnavailableError):
            await freeze_and_wake()
        await eventually(usable)
    finally:
        await frozen.close()
        await other.close()


async def test_errors_of_statements_do_not_show_their_values(database: Database, clock: FakeClock) -> None:
    async def add() -> None:
        async with database.transaction() as session:
            session.add(account(clock, "canary"))

    await add()
    with pytest.raises(StatementError) as caught:
        await add()
    # PostgreSQL's own DETAIL names the key that exists already, which is never a secret: those are stored as hashes.
    assert "[SQL parameters hidden" in str(caught.value)


async def test_what_only_reads_crosses_to_sqlites_thread_once_for_each_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each crossing takes two switches of threads, of which a start would have a hundred more."""
    patiently, crossed = PatientConnection.patiently, 0

    async def counted(self: PatientConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal crossed
        crossed += 1
        return await patiently(self, *args, **kwargs)

    database = Database(f"sqlite:///{tmp_path}/one.db")
    try:
        async with database.transaction() as session:
            await session.execute(text("CREATE TABLE things (id int)"))
        monkeypatch.setattr(PatientConnection, "patiently", counted)
        async with database.read() as session:
            await session.execute(text("SELECT id FROM things"))
            await session.execute(text("SELECT id FROM things"))
        assert crossed == 2
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO things VALUES (1)"))
        assert crossed == 2 + 3  # begin, which may wait for another writer, statement, commit
    finally:
        await database.close()


async def test_cancelled_work_leaves_no_lock_and_no_broken_connection(
    database: Database, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(slug: str) -> None:
        while True:
            async with database.transaction() as session:
                row = account(clock, slug)
                session.add(row)
                await session.flush()
                await session.scalars(select(Account))
                await session.delete(row)

    for number in range(40):
        tasks = [asyncio.create_task(work(f"slug-{n}")) for n in range(4)]
        for _ in range(number * 3):  # every await is a place to be cancelled at
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(PATIENCE), database.transaction() as session:
            assert list(await session.scalars(select(Account.slug))) == []
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("statement", range(1, 8))
async def test_a_connection_is_closed_whenever_its_user_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: int
) -> None:
    patiently, calls = PatientConnection.patiently, 0

    async def cancelled(self: PatientConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        task = asyncio.current_task()
        if calls == statement and task is not None:
            asyncio.get_running_loop().call_soon(task.cancel)
        return await patiently(self, *args, **kwargs)

    monkeypatch.setattr(PatientConnection, "patiently", cancelled)
    database = Database(f"sqlite:///{tmp_path}/new.db")

    async def look() -> None:
        async with database.read() as session:
            await session.execute(text("SELECT 1"))

    (outcome,) = await asyncio.gather(asyncio.create_task(look()), return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError) is (calls >= statement)
    await database.close()
    # A connection that nobody closed would say so now, and pytest makes an error of that.
    gc.collect()


async def test_a_connection_that_is_in_use_at_the_end_is_waited_for_and_closed(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new.db")
    begun, finish = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        async with database.read() as session:
            await session.execute(text("SELECT 1"))
            begun.set()
            await finish.wait()

    task = asyncio.create_task(look())
    await begun.wait()
    closing = asyncio.create_task(database.close())
    finish.set()
    await asyncio.gather(task, closing)
    gc.collect()  # as above


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[PatientConnection]:
    """Every connection to SQLite that the test opens, whether or not anything else still knows of it."""
    found: list[PatientConnection] = []
    begin = PatientConnection.__init__

    def noted(self: PatientConnection, *args: Any) -> None:
        begin(self, *args)
        found.append(self)

    monkeypatch.setattr(PatientConnection, "__init__", noted)
    return found


def left_open(opened: list[PatientConnection]) -> list[PatientConnection]:
    assert opened
    for connection in opened:
        connection._thread.join(PATIENCE)
    return [each for each in opened if each._connection is not None or each._thread.is_alive()]


async def hold(database: Database, begun: asyncio.Event, finish: asyncio.Event) -> None:
    async with database.read() as session:
        await session.execute(text("SELECT 1"))
        begun.set()
        await finish.wait()


async def held(database: Database, number: int) -> tuple[list[asyncio.Task[None]], asyncio.Event]:
    """Use so many connections at once, until the event is set."""
    begun, finish = [asyncio.Event() for _ in range(number)], asyncio.Event()
    tasks = [asyncio.create_task(hold(database, each, finish)) for each in begun]
    await asyncio.gather(*(each.wait() for each in begun))
    return tasks, finish


async def test_connections_beyond_the_pool_are_closed_although_their_users_are_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[PatientConnection]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/new.db")
    tasks, finish = await held(database, 9)
    closed, close = 0, PatientConnection.close

    async def cancelled(self: PatientConnection) -> None:
        nonlocal closed
        closed += 1
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await close(self)

    with monkeypatch.context() as patch:
        patch.setattr(PatientConnection, "close", cancelled)
        finish.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert closed == 4, "the pool keeps five"
    await database.close()
    assert left_open(opened) == []


async def test_a_database_is_closed_although_whoever_closes_it_is_cancelled(
    tmp_path: Path, opened: list[PatientConnection]
) -> None:
    for awaits in range(12):  # each is a place to be cancelled at
        database = Database(f"sqlite:///{tmp_path}/new.db")
        tasks, finish = await held(database, 3)
        finish.set()
        await asyncio.gather(*tasks)
        closing = asyncio.create_task(database.close())
        for _ in range(awaits):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        # One that is cancelled before it began has done nothing.
        await database.close()
    assert left_open(opened) == []


async def test_a_connection_that_is_given_back_after_the_end_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[PatientConnection]
) -> None:
    monkeypatch.setattr("ropewalk.server.db.engine.CLOSE_SECONDS", 0.0)
    database = Database(f"sqlite:///{tmp_path}/new.db")
    tasks, finish = await held(database, 2)
    await database.close()
    finish.set()
    await asyncio.gather(*tasks)
    assert left_open(opened) == []


async def test_a_connection_is_closed_although_whoever_opens_it_is_cancelled(
    tmp_path: Path, opened: list[PatientConnection]
) -> None:
    for awaits in range(1, 12):
        database = Database(f"sqlite:///{tmp_path}/new{awaits}.db")
        task = asyncio.create_task(hold(database, asyncio.Event(), asyncio.Event()))
        for _ in range(awaits):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()
    assert left_open(opened) == []
