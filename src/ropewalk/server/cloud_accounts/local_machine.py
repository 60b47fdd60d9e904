"""Which machine's processes hosted clusters are, so that no other machine takes them for gone.

Servers on one PostgreSQL database share all clusters. A server that looks for nodes of the ``local`` backend in another
directory, or on another machine, finds none, would call them gone, and would start others. So the directory is marked,
the database remembers the mark, and a server with another one does not start.
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from ropewalk.errors import SettingsError
from ropewalk.server import keys
from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.db.models import CloudAccount

if TYPE_CHECKING:
    from ropewalk.server.context import Context

MARK = "machine"
"""File of the directory of nodes; copied with it when the installation moves."""
_KEY = "machine"
"""In ``infrastructure`` of the hosted cloud account."""

log = structlog.get_logger(__name__)


async def claim(context: Context, *, move: bool = False) -> None:
    """Take note that hosted clusters run here, or refuse to.

    On SQLite there is one server, so another directory means that the former one is no more.

    Args:
        context: Of the server that starts.
        move: They run here from now on, whatever was before.

    Raises:
        SettingsError: They run elsewhere.
    """
    async with context.db.transaction() as session:
        # Servers that start at the same time wait here for each other, and so agree on the mark.
        await context.db.serialize(session, "hosted")
        hosted = await session.get_one(CloudAccount, HOSTED_ID)
        if hosted.backend != "local":
            return
        mark = _mark(context.settings.local_dir)
        known = hosted.infrastructure.get(_KEY)
        if known is not None and known["mark"] == mark:
            return
        if known is not None and not (move or context.db.is_sqlite):
            raise _elsewhere(known, context.settings.local_dir)
        here = {"mark": mark, "host": socket.gethostname(), "directory": str(context.settings.local_dir)}
        hosted.infrastructure = {**hosted.infrastructure, _KEY: here}
    if known is not None:
        log.warning("hosted.moved", before=known["directory"], host=known["host"], now=here["directory"])


def _mark(directory: Path) -> str:
    """Return the mark of *directory*, making both if need be."""
    file = directory / MARK
    if not file.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.replace(file, secrets.token_hex(16))
    return file.read_text("ascii")


def _elsewhere(known: dict[str, Any], here: Path) -> SettingsError:
    return SettingsError(
        f"Hosted clusters of this installation are processes of the machine {known['host']}, in {known['directory']}. "
        f"This server has another directory for them, {here}, so it could neither see nor stop them.",
        advice="Run all servers of one database on one machine with the same local_dir. If no server uses that "
        "directory any more, and its clusters may be given up: ropewalk server move-hosted.",
        field="local_dir",
    )
