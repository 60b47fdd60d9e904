"""Bringing a database to the schema of this version, and telling when that cannot be.

Two servers that migrate at once are safe: each takes a lock (PostgreSQL: an advisory lock, SQLite: the one write lock)
before it looks at the revision, so the second finds nothing left to do.

Alembic is imported only where there is something to migrate: with what it needs it takes an eighth of a server's start.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection, column, inspect, select, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ropewalk.errors import DatabaseError, InputError
from ropewalk.server.db.engine import Database, hint

if TYPE_CHECKING:
    import aiosqlite
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION = "alembic_version"
"""Alembic's table: one row with the revision, none before the first migration."""
MIGRATION_LOCK = 0x726F7065
"""Key of PostgreSQL's advisory lock: the letters "rope"; any number does that nobody else uses."""


@dataclass(frozen=True)
class SchemaState:
    """Where a database stands.

    ``revision`` is None before the first migration; ``pending`` are the revisions to come, oldest first; ``empty``
    tells that the database holds no table at all.
    """

    revision: str | None
    pending: tuple[str, ...]
    empty: bool


def config(**attributes: object) -> Config:
    """Return Alembic's configuration; there is no ini file, the revisions are part of the package."""
    from alembic.config import Config  # noqa: PLC0415 - see above

    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.set_main_option("path_separator", "os")
    # A module's name cannot begin with a digit.
    made.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    made.attributes.update(attributes)
    return made


@cache
def revisions() -> tuple[str, ...]:
    """Return all revisions, oldest first. They form one line, without branches, and their files are named for them."""
    return tuple(sorted(path.stem[1:].partition("_")[0] for path in (MIGRATIONS / "versions").glob("r*.py")))


def head() -> str:
    """Return the revision that this version of the program needs."""
    return revisions()[-1]


async def state(db: Database) -> SchemaState:
    """Look at the database, changing nothing.

    Raises:
        DatabaseError: It cannot be reached, is not ours, or is newer than this program.
    """
    async with _reachable(db) as connection:
        return await connection.run_sync(_state)


async def upgrade(db: Database, revision: str = "head") -> SchemaState:
    """Migrate up to *revision* and return where the database stands then. Raises as :func:`state` does."""
    from alembic.command import upgrade  # noqa: PLC0415 - see above

    return await _migrate(db, lambda cfg: upgrade(cfg, revision))


async def downgrade(db: Database, revision: str) -> SchemaState:
    """Migrate down to *revision* (``base``: no tables)."""
    from alembic.command import downgrade  # noqa: PLC0415 - see above

    return await _migrate(db, lambda cfg: downgrade(cfg, revision))


async def move(db: Database, revision: str) -> SchemaState:
    """Migrate up or down, whichever leads to *revision*."""
    known = revisions()
    if revision not in {*known, "head", "base"}:
        raise InputError(
            f"There is no database revision {revision[:40]!r}.",
            advice=f"Known are: {', '.join(['base', *known, 'head'])}.",
            field="to",
        )
    order = ["base", *known]
    current = (await state(db)).revision or "base"
    target = known[-1] if revision == "head" else revision
    if order.index(target) < order.index(current):
        return await downgrade(db, revision)
    return await upgrade(db, revision)


async def sql(db: Database, revision: str = "head") -> str:
    """Return the statements that :func:`upgrade` would run, for people who run them by hand."""
    from alembic.command import upgrade  # noqa: PLC0415 - see above

    current = (await state(db)).revision
    output = io.StringIO()
    cfg = config(dialect=db.engine.dialect.name)
    cfg.output_buffer = output
    upgrade(cfg, f"{current}:{revision}" if current else revision, sql=True)
    return output.getvalue()


async def _migrate(db: Database, run: Callable[[Config], None]) -> SchemaState:
    def work(connection: Connection) -> SchemaState:
        _state(connection)
        run(config(connection=connection))
        return _state(connection)

    async with _reachable(db) as connection:
        # SQLite changes a table by making a new one, which foreign keys must not notice; the switch only works
        # outside a transaction, so it comes before anything else.
        if db.is_sqlite:
            await _sqlite_pragma(connection, "foreign_keys=OFF")
        try:
            async with connection.begin():
                if not db.is_sqlite:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                after = await connection.run_sync(work)
                if db.is_sqlite:
                    await _check_foreign_keys(connection)
        finally:
            if db.is_sqlite:
                await _sqlite_pragma(connection, "foreign_keys=ON")
    return after


async def _sqlite_pragma(connection: AsyncConnection, pragma: str) -> None:
    raw = await connection.get_raw_connection()
    cursor = await cast("aiosqlite.Connection", raw.driver_connection).execute(f"PRAGMA {pragma}")
    await cursor.close()


async def _check_foreign_keys(connection: AsyncConnection) -> None:
    broken = (await connection.exec_driver_sql("PRAGMA foreign_key_check")).all()
    if broken:
        tables = ", ".join(sorted({str(row[0]) for row in broken}))
        raise DatabaseError(
            f"After the migration, rows of {tables} would refer to rows that do not exist; nothing was changed.",
            advice="Restore a backup of the database, or report this as a defect.",
        )


def _state(connection: Connection) -> SchemaState:
    tables = set(inspect(connection).get_table_names())
    revision = (
        connection.scalar(select(column("version_num")).select_from(table(VERSION))) if VERSION in tables else None
    )
    known = revisions()
    if revision is not None and revision not in known:
        raise DatabaseError(
            f"The database has the revision {revision!r}, which this version of Ropewalk does not know: "
            "a newer version has migrated it.",
            advice="Run that newer version, or restore a backup made before it was installed.",
            details={"revision": revision},
        )
    pending = known[known.index(revision) + 1 if revision else 0 :]
    if revision is None and tables - {VERSION}:
        raise DatabaseError(
            "The database holds tables that are not Ropewalk's.",
            advice="Give Ropewalk a database of its own with the setting database_url.",
            details={"tables": sorted(tables)[:10]},
        )
    return SchemaState(revision, pending, empty=not tables)


@asynccontextmanager
async def _reachable(db: Database) -> AsyncIterator[AsyncConnection]:
    try:
        async with db.engine.connect() as connection:
            yield connection
    except (DBAPIError, OSError) as exc:
        raise DatabaseError(
            f"The database cannot be used: {hint(exc)}.", advice=db.advice, field="database_url"
        ) from exc
