"""Run by Alembic for every command; :mod:`ropewalk.server.db.migrate` gives it the connection.

``attributes["connection"]`` is an open connection, already in the transaction that takes the migration lock. In offline
mode (``migrate --sql``) there is none, only a dialect's name.
"""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import DateTime

from ropewalk.server.db.models import Base, UtcDateTime


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    # Revisions stand on their own: they must not change when our types do.
    return f"sa.{DateTime(timezone=True)!r}" if kind == "type" and isinstance(item, UtcDateTime) else False


options: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "render_as_batch": True,
    "render_item": render_item,
    "transactional_ddl": True,
}
if context.is_offline_mode():
    context.configure(dialect_name=context.config.attributes["dialect"], literal_binds=True, **options)
else:
    context.configure(connection=context.config.attributes["connection"], **options)
with context.begin_transaction():
    context.run_migrations()
