"""What builders say: lines of a log file, and events; without the secrets that they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ropewalk.server.environments.files import LogFile
from ropewalk.server.environments.leases import Lease, fenced
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.environments.builder import Credential

__all__ = ["WISHED", "BuildReport", "log_topic"]

WISHED = "build"
"""Topic that is woken when there may be something to build."""

HIDDEN = "***"
SHORTEST = 4
"""Characters of what is blotted out; shorter ones would take letters out of every word, and protect nothing."""


def log_topic(build_id: str) -> str:
    """Return the topic that is woken when a log has grown."""
    return f"log:{build_id}"


class BuildReport:
    """Where one build says what it does.

    Args:
        context: The server's services.
        lease: Under which it is built.
        account_id: Whose it is.
        file: Its log.
        credentials: What may appear nowhere.
    """

    def __init__(
        self, context: Context, lease: Lease, account_id: str, file: LogFile, credentials: Sequence[Credential]
    ) -> None:
        self._context = context
        self._lease = lease
        self._account_id = account_id
        self._file = file
        self._full = False
        secrets = {text for each in credentials for text in (each.password, each.username, quote(each.password, ""))}
        self._secrets = sorted((text for text in secrets if len(text) >= SHORTEST), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Return *text* with secrets blotted out."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def log(self, line: str) -> None:
        """Add a line to the log."""
        if not self._full:
            self._full = not self._file.append(self.clean(line))
        self._context.wakeups.wake(log_topic(self._lease.row_id))

    async def event(self, message: str, **details: Any) -> None:
        """Tell of a step, in the log as well."""
        message = self.clean(message)
        self.log(message)
        async with fenced(self._context, self._lease) as (session, _row):
            record(
                session,
                self._context.clock.now(),
                EventCode.ENVIRONMENT_STEP,
                message,
                account_id=self._account_id,
                build_id=self._lease.row_id,
                details=details,
            )
            await self._context.wakeups.announce(session, f"events:{self._lease.row_id}")
