from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from ropewalk.errors import SettingsError, UnavailableError
from ropewalk.server.db.engine import Database, async_url
from ropewalk.server.db.models import Account, User, new_id
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually


def user(name: str) -> User:
    return User(id=new_id("u"), username=name, operator=False, disabled=False, created_at=FakeClock().now())


async def count(database: Database) -> int:
    async with database.read() as session:
        return await session.scalar(select(func.count()).select_from(User)) or 0


async def test_a_transaction_is_done_as_a_whole_or_not_at_all(database: Database) -> None:
    async with database.transaction() as session:
        session.add(user("ada"))
    with pytest.raises(RuntimeError):  # noqa: PT012 - the block is what is tested
        async with database.transaction() as session:
            session.add(user("eve"))
            await session.flush()
            raise RuntimeError
    assert await count(database) == 1


async def test_a_cancelled_transaction_is_undone_and_blocks_nobody(database: Database) -> None:
    inside = asyncio.Event()

    async def forever() -> None:
        async with database.transaction() as session:
            session.add(user("eve"))
            await session.flush()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as session:
        session.add(user("ada"))
    assert await count(database) == 1


async def test_writers_at_the_same_time_all_succeed(database: Database) -> None:
    async def add(number: int) -> None:
        async with database.transaction() as session:
            known = await session.scalar(select(func.count()).select_from(User))
            session.add(user(f"user-{number}-{known}"))

    await asyncio.gather(*(add(number) for number in range(25)))
    assert await count(database) == 25


async def test_broken_constraints_are_told_as_such(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            session.add_all([user("ada"), user("ada")])


async def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            session.add(Account(id="a", slug="x", kind="personal", owner_id="nobody", created_at=FakeClock().now()))


async def test_times_keep_their_zone(database: Database) -> None:
    async with database.transaction() as session:
        session.add(user("ada"))
    async with database.read() as session:
        assert (await session.scalars(select(User.created_at))).one() == FakeClock().now()


async def test_what_waits_for_a_name_waits_until_the_other_is_done(database: Database) -> None:
    order: list[str] = []
    first_has_it = asyncio.Event()

    async def first() -> None:
        async with database.transaction() as session:
            await database.serialize(session, "x")
            first_has_it.set()
            await session.execute(text("SELECT 1"))
            order.append("first")

    async def second() -> None:
        await first_has_it.wait()
        async with database.transaction() as session:
            await database.serialize(session, "x")
            order.append("second")

    await asyncio.gather(second(), first())
    assert order == ["first", "second"]


@pytest.mark.parametrize("name", ["nope", "ropewalk:wrong-password"])
async def test_a_postgresql_that_refuses_is_unavailable(postgres: PostgresServer, name: str) -> None:
    url = make_url(postgres.url("postgres"))
    url = url.set(password="wrong-password") if ":" in name else url.set(database=name)
    database = Database(url.render_as_string(hide_password=False))
    try:
        with pytest.raises(UnavailableError, match=r"does not exist|authentication failed") as caught:
            async with database.transaction():
                pass
    finally:
        await database.close()
    assert "wrong-password" not in str(caught.value)


async def test_a_postgresql_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql://ropewalk:hunter2@127.0.0.1:1/ropewalk")
    try:
        with pytest.raises(UnavailableError, match="cannot be used at the moment") as caught:
            async with database.read():
                pass
    finally:
        await database.close()
    assert "hunter2" not in str(caught.value)


async def test_sqlite_without_its_directory_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/none/ropewalk.db")
    try:
        with pytest.raises(UnavailableError, match="unable to open database file"):
            async with database.read():
                pass
    finally:
        await database.close()


async def test_wrong_sql_is_a_defect_and_no_outage(postgres: PostgresServer) -> None:
    database = Database(postgres.url("postgres"))
    try:
        with pytest.raises(ProgrammingError):
            async with database.transaction() as session:
                await session.execute(text("SELECT * FROM nothing"))
    finally:
        await database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_requests_during_an_outage_of_postgresql_are_unavailable_and_work_again_afterwards(
    postgres: PostgresServer, api: Api, database_url: str
) -> None:
    ada = await api.person()
    name = make_url(database_url).database
    await postgres.execute(
        f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    response = await ada.client.get("/api/v1/me")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert (await api.client.get("/readyz")).status_code == 503
    await postgres.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

    async def works() -> bool:
        return (await ada.client.get("/api/v1/me")).status_code == 200

    await eventually(works)
    assert (await api.client.get("/readyz")).json()["parts"]["reconciler"] == "ok"


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("postgres://h/x", "postgresql+asyncpg"),
        ("postgresql+psycopg://h/x", "postgresql+asyncpg"),
    ],
)
def test_urls_get_the_driver_that_we_ship(url: str, driver: str) -> None:
    assert make_url(async_url(url)).drivername == driver


@pytest.mark.parametrize("url", ["", "mysql://h/x", "nonsense", "oracle+x://h"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        async_url(url)
    assert caught.value.field == "database_url"
