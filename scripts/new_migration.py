"""Write a migration from the difference between the models and what the migrations make.

Run it in the project's environment: .venv/bin/python scripts/new_migration.py "Add the column x".
Then read what it wrote: Alembic sees neither renames nor what becomes of rows.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from alembic import command

from ropewalk.server.db import migrate
from ropewalk.server.db.engine import Database


async def write(message: str) -> None:
    number = f"{len(migrate.revisions()) + 1:04}"
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/scratch.db")
        try:
            await migrate.upgrade(database)
            async with database.engine.connect() as connection:
                await connection.run_sync(
                    lambda opened: command.revision(
                        migrate.config(connection=opened), message=message, autogenerate=True, rev_id=number
                    )
                )
        finally:
            await database.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f'Usage: {Path(sys.argv[0]).name} "What it does"')
    asyncio.run(write(sys.argv[1]))
