from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from ropewalk.errors import DatabaseError, InputError
from ropewalk.server.db import migrate
from ropewalk.server.db.engine import Database
from ropewalk.server.db.models import Base, Member


@pytest.fixture
async def empty_database(empty_database_url: str) -> AsyncIterator[Database]:
    database = Database(empty_database_url)
    yield database
    await database.close()


async def tables(database: Database) -> set[str]:
    async with database.engine.connect() as connection:
        return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Base.metadata))


async def test_a_migrated_database_has_exactly_the_tables_of_the_models(database: Database) -> None:
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_constraints_have_the_same_names_as_those_of_the_models(database: Database) -> None:
    def names(connection: Connection) -> dict[str, set[str | None]]:
        found = inspect(connection)
        return {
            table: {found.get_pk_constraint(table)["name"]}
            | {key["name"] for key in found.get_foreign_keys(table)}
            | {constraint["name"] for constraint in found.get_unique_constraints(table)}
            for table in Base.metadata.tables
        }

    async with database.engine.connect() as connection:
        migrated = await connection.run_sync(names)
    expected = {
        table.name: {str(c.name) for c in table.constraints if type(c).__name__ != "CheckConstraint"}
        for table in Base.metadata.tables.values()
    }
    assert migrated == expected


async def test_an_empty_database_is_recognised_and_left_empty(empty_database: Database) -> None:
    state = await migrate.state(empty_database)
    assert (state.revision, state.empty) == (None, True)
    assert state.pending[-1] == migrate.head()
    assert await tables(empty_database) == set()


async def test_up_down_and_up_again_leads_to_the_same_schema(empty_database: Database) -> None:
    await migrate.upgrade(empty_database)
    after = await migrate.downgrade(empty_database, "base")
    assert after.revision is None
    assert await tables(empty_database) <= {"alembic_version"}
    after = await migrate.upgrade(empty_database)
    assert (after.revision, after.pending) == (migrate.head(), ())
    async with empty_database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_twice_changes_nothing_the_second_time(database: Database) -> None:
    before = await migrate.state(database)
    assert await migrate.upgrade(database) == before


async def test_a_newer_database_is_refused_and_not_touched(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    for attempt in (migrate.state, migrate.upgrade):
        with pytest.raises(DatabaseError, match=r"'ffff'.*newer version") as caught:
            await attempt(database)
        assert "newer version" in str(caught.value.advice)
    assert "users" in await tables(database)


async def test_somebody_elses_database_is_refused(empty_database: Database) -> None:
    async with empty_database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE wordpress (id INTEGER)"))
    with pytest.raises(DatabaseError, match="not Ropewalk's"):
        await migrate.upgrade(empty_database)
    assert await tables(empty_database) == {"wordpress"}


async def test_two_that_migrate_at_once_both_succeed(empty_database_url: str) -> None:
    databases = [Database(empty_database_url) for _ in range(2)]
    try:
        states = await asyncio.gather(*(migrate.upgrade(database) for database in databases))
    finally:
        for database in databases:
            await database.close()
    assert [state.revision for state in states] == [migrate.head()] * 2


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cfg: object, revision: str) -> None:
        cfg.attributes["connection"].execute(text("CREATE TABLE half (id INTEGER)"))  # type: ignore[attr-defined] # Alembic's Config
        raise RuntimeError("power failure")

    monkeypatch.setattr("alembic.command.upgrade", broken)
    with pytest.raises(RuntimeError, match="power failure"):
        await migrate.upgrade(empty_database)
    assert await tables(empty_database) == set()


async def test_move_goes_up_or_down_and_refuses_unknown_revisions(empty_database: Database) -> None:
    assert (await migrate.move(empty_database, "head")).revision == migrate.head()
    assert (await migrate.move(empty_database, "base")).revision is None
    with pytest.raises(InputError, match="no database revision 'nonsense'") as caught:
        await migrate.move(empty_database, "nonsense")
    assert migrate.head() in str(caught.value.advice)


async def test_the_sql_of_a_migration_can_be_had_without_running_it(empty_database: Database) -> None:
    script = await migrate.sql(empty_database)
    assert "CREATE TABLE users" in script
    assert await tables(empty_database) == set()


async def test_foreign_keys_are_enforced_after_a_migration(empty_database: Database) -> None:
    await migrate.upgrade(empty_database)
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        async with empty_database.transaction() as session:
            session.add(Member(account_id="a", user_id="u", role="admin", core_limit=None, added_at=datetime.now(UTC)))


async def test_an_unreachable_database_is_an_error_that_says_where() -> None:
    database = Database("postgresql://ropewalk:hunter2hunter2@127.0.0.1:1/ropewalk")
    try:
        with pytest.raises(DatabaseError, match="cannot be used") as caught:
            await migrate.state(database)
    finally:
        await database.close()
    assert "127.0.0.1:1" in str(caught.value.advice)
    assert "hunter2" not in str(caught.value)


async def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ropewalk.db").write_bytes(b"these are not the bytes of SQLite" * 100)
    database = Database(f"sqlite:///{tmp_path}/ropewalk.db")
    try:
        with pytest.raises(DatabaseError, match="not a database") as caught:
            await migrate.state(database)
    finally:
        await database.close()
    assert str(tmp_path) in str(caught.value.advice)


def test_revisions_form_one_line() -> None:
    steps = ScriptDirectory.from_config(migrate.config()).walk_revisions()
    assert [step.revision for step in steps] == list(reversed(migrate.revisions()))
