"""Connections from the control plane to schedulers: what they say, and what is asked of them.

A scheduler runs its user's code and is not trusted: only plain msgpack is read (:mod:`ropewalk.backends.wire`), every
field is checked, and its word is believed about its own cluster only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from ropewalk.backends import wire
from ropewalk.backends.port import Backend, NodeHandle
from ropewalk.errors import BackendError, TryAgainError
from ropewalk.server.clusters.connector import Connector

SILENCE_SECONDS = 35.0
"""A scheduler sends a status every 10 s; after three and a half of those the connection is taken for dead."""
ANSWER_SECONDS = 30.0
RETIRE_SECONDS = 600.0
"""Moving results off a worker takes as long as its memory needs to cross the network."""
FIRST_RETRY, LAST_RETRY = 0.02, 5.0
RETRY_GROWTH = 1.2
"""A scheduler that comes up is noticed within a fifth of the time that it took, and everybody waits for that."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What a scheduler says of itself."""

    workers: frozenset[str] = frozenset()
    addresses: Mapping[str, str] = field(default_factory=dict)
    retired: frozenset[str] = frozenset()
    closing: str | None = None
    clients: int = 0
    target: int | None = None
    dashboard_port: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def parse_status(message: Any) -> Status:
    """Read a status map.

    Raises:
        wire.WireError: it has another form.
    """
    try:
        target, port, closing = message.get("target"), message.get("dashboard_port"), message.get("closing")
        return Status(
            workers=frozenset(str(name) for name in message["workers"]),
            addresses={str(k): str(v)[:200] for k, v in message.get("addresses", {}).items()},
            retired=frozenset(str(name) for name in message.get("retired", ())),
            closing=None if closing is None else str(closing)[:40],
            clients=int(message.get("clients", 0)),
            target=None if target is None else max(0, int(target)),
            dashboard_port=int(port) if port is not None and 0 < int(port) < 65536 else None,
            versions={str(k)[:60]: str(v)[:60] for k, v in list(message.get("versions", {}).items())[:100]},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise wire.WireError(f"the scheduler's status has another form: {type(exc).__name__}") from exc


class Link:
    """The connection to one scheduler, kept up for as long as this object runs.

    Args:
        backend: Carries the bytes.
        scheduler: The node to reach.
        address: Its contact address.
        tls: PEM texts of the control plane's certificate for it.
        on_change: Called whenever :attr:`status` or :attr:`up` changed.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: NodeHandle,
        address: str,
        *,
        tls: Mapping[str, str],
        on_change: Callable[[], None],
    ) -> None:
        self.address = address
        self.status: Status | None = None
        self.up = False
        self.error: str | None = None
        self._scheduler = scheduler
        self._connector = Connector(backend, scheduler, address, tls)
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, and to reconnect for ever."""
        self._task = asyncio.create_task(self._run(), name=f"link {self._scheduler.cluster}")

    async def stop(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def choose(self, count: int) -> list[str]:
        """Ask which *count* workers cost least to remove."""
        answer = await self._ask({"op": "ropewalk_choose", "n": count}, ANSWER_SECONDS)
        return [str(name) for name in answer.get("names", ())][:count]

    async def retire(self, names: list[str]) -> set[str]:
        """Move results off the named workers and close them; returns those for which that worked."""
        answer = await self._ask({"op": "ropewalk_retire", "names": names}, RETIRE_SECONDS)
        return {str(name) for name in answer.get("retired", ())} & set(names)

    async def configure(self, *, adaptive: Mapping[str, int] | None, limits: Mapping[str, float | None]) -> None:
        """Set the bounds of the adaptive target (None: it does not adapt), and the limits in seconds (None: none)."""
        message = {"op": "ropewalk_configure", "adaptive": adaptive, "limits": dict(limits)}
        await self._ask(message, ANSWER_SECONDS)

    async def _ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds), self._connector.open() as (reader, writer):
                await wire.write(writer, message)
                answer = await wire.read(reader)
        except (OSError, TimeoutError, BackendError) as exc:
            raise TryAgainError(f"The scheduler did not answer: {_cause(exc)}.", delay=5) from exc
        if not isinstance(answer, dict) or "exception" in answer or "exception_text" in answer:
            raise TryAgainError("The scheduler refused what was asked.", delay=30)
        return answer

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                async with self._connector.open() as (reader, writer):
                    await wire.write(writer, {"op": "ropewalk_watch", "reply": False})
                    delay = FIRST_RETRY
                    await self._follow(reader)
            except (OSError, TimeoutError, BackendError) as exc:
                self._down(_cause(exc))
            except Exception as exc:
                # A link that is not tried again would be lost for ever.
                log.exception("link.defect", cluster=self._scheduler.cluster)
                self._down(_cause(exc))
            # Full jitter: many links that lost one network do not come back in step.
            await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311 - not for secrets
            delay = min(delay * RETRY_GROWTH, LAST_RETRY)

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                status = parse_status(await wire.read(reader))
            if status != self.status or not self.up:
                self.status, self.up, self.error = status, True, None
                self._on_change()

    def _down(self, error: str) -> None:
        changed = self.up
        self.up, self.error = False, error
        if changed:
            log.info("link.lost", cluster=self._scheduler.cluster, error=error)
            self._on_change()


def _cause(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError):
        return "it did not answer in time"
    return str(exc) or type(exc).__name__
