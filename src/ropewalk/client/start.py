"""How a cluster comes to be, as far as the server is concerned; and how a start that fails is undone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from ropewalk.client import calls, config, options
from ropewalk.client.claims import Claim, release
from ropewalk.client.config import Login
from ropewalk.client.environment.sync import Software
from ropewalk.client.http import Answered, AsyncApi
from ropewalk.client.options import Wait
from ropewalk.client.progress import Progress
from ropewalk.client.watch import Watch, checkpoint
from ropewalk.errors import (
    ClusterError,
    ClusterStartError,
    NotFoundError,
    RopewalkError,
    ServerUnreachableError,
    VersionMismatchError,
)
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail, ClusterState, Connection
from ropewalk.schemas.common import Event

__all__ = ["Starter"]

SILENCE = 60.0
"""Seconds without an answer of the server after which a start gives up. Restarts take less."""

NEWS_SECONDS = 3.0
"""Seconds that the server is given to notice that a cluster has ended whose scheduler cannot be reached. It follows
schedulers over a connection, whose end it sees at once; the rest is for a server that is busy."""

SETTLE = 15.0
"""Seconds that an abandoned start gives the server to answer a request that is under way."""


class Starter:
    """Asks for a cluster, or finds the live one of that name, and follows it.

    Attributes:
        created: Whether this start made the cluster.
        claim: Set while the cluster would have to be stopped if this start were abandoned.
        watch: The server's view, once there is a cluster.
    """

    def __init__(
        self,
        api: AsyncApi,
        login: Login,
        request: ClusterCreate,
        *,
        account: str | None,
        attach_only: bool,
        progress: Progress,
        software: Software,
        on_event: Callable[[Event], None],
        on_change: Callable[[ClusterDetail], None],
    ) -> None:
        self.created = False
        self.claim: Claim | None = None
        self.watch: Watch | None = None
        self._api = api
        self._login = login
        self._request = request
        self._account = account
        self._attach_only = attach_only
        self._progress = progress
        self._software = software
        self._on_event = on_event
        self._on_change = on_change
        self._creating: asyncio.Task[ClusterDetail] | None = None

    async def connection(self) -> Connection:
        """Make or find the cluster, wait for its scheduler, and return how to connect to it."""
        await self._obtain()
        try:
            return await self._scheduler()
        except ClusterStartError:
            found_ending = not self.created and self.detail.state in (ClusterState.STOPPING, ClusterState.STOPPED)
            if self._attach_only or not found_ending:
                raise
        # What was found under that name was about to stop: soon the name is free.
        assert self.watch is not None, "it was set together with detail"  # noqa: S101 - a defect of ours, not an input
        await self.watch.stop()
        await self._outlive(self.detail)
        await self._obtain()
        return await self._scheduler()

    async def _obtain(self) -> ClusterDetail:
        """Return the cluster, which may not run yet."""
        self._progress.step(f"Asking {self._login.server} for a cluster")
        me = await self._api(calls.me())
        account = config.choose_account(me, self._account, self._login.account)
        explicit = self._request.name
        existing = await self._live(account, explicit) if explicit else None
        if existing is not None and existing.state is ClusterState.STOPPING:
            await self._outlive(existing)
            existing = None
        if existing is None and self._attach_only:
            raise NotFoundError(
                f"There is no live cluster {explicit!r} in account {account!r}.",
                advice="`ropewalk cluster list` shows those that live.",
                field="name",
            )
        if existing is not None:
            return self._found(existing)
        self.claim = Claim(
            self._login.server, self._login.token, account, explicit or options.random_name(me.user.username),
            me.user.username,
        )  # fmt: skip
        return self._found(await self._create(self.claim))

    async def _live(self, account: str, name: str) -> ClusterDetail | None:
        try:
            found = await self._api(calls.get_cluster(account, name))
        except NotFoundError:
            return None
        return found if found.state.live else None

    async def _outlive(self, existing: ClusterDetail) -> None:
        """Wait until the name is free."""
        self._progress.step(f"Waiting for the earlier cluster {existing.name!r} to stop")
        watch = self._watching(existing, poll=0.5)
        try:
            while (await watch.changed()).state.live:
                pass
        finally:
            await watch.stop()

    def _watching(self, detail: ClusterDetail, *, poll: float) -> Watch:
        watch = Watch(self._api, detail, on_event=self._on_event, on_change=self._on_change, poll=poll)
        watch.start()
        return watch

    def _found(self, detail: ClusterDetail) -> ClusterDetail:
        self._on_change(detail)
        self.watch = self._watching(detail, poll=2.0)
        return detail

    async def _create(self, claim: Claim) -> ClusterDetail:
        """Ask for the cluster. If we are abandoned meanwhile, :meth:`undo` still learns what became of it."""
        claim.enter()
        self._creating = asyncio.create_task(self._post(claim))
        return await asyncio.shield(self._creating)

    async def _post(self, claim: Claim) -> ClusterDetail:
        request = self._request.model_copy(update={"name": claim.name})

        async def ask(complete: ClusterCreate) -> Answered[ClusterDetail]:
            return await self._api.full(calls.create_cluster(claim.account, complete))

        try:
            answered = await self._software.ready(claim.account, request, ask)
        except RopewalkError as exc:
            if exc.http_status < 500 and not isinstance(exc, VersionMismatchError):
                self._disclaim()
            raise
        # Another program may have made one of the same name since we looked. A repeated request may find its own.
        ours = answered.status == 201 or (answered.attempts > 1 and answered.answer.creator == claim.user)
        if ours or self._request.name is None:
            self.created = True
            claim.id = answered.answer.id
        else:
            self._disclaim()
        return answered.answer

    def _disclaim(self) -> None:
        if self.claim is not None:
            self.claim.leave()
            self.claim = None

    async def _scheduler(self) -> Connection:
        """Wait for the scheduler; return how to connect to it."""
        self._progress.step("Waiting for the scheduler")
        assert self.watch is not None, "connection() comes first"  # noqa: S101 - a defect of ours, not an input
        detail = self.detail
        while not (self.watch.told_ready or detail.state is ClusterState.READY):
            self._check(detail)
            detail = await self._next()
        while True:
            self._check(detail)
            try:
                return await self._connection(self.watch)
            except ClusterError:
                if detail.state is not ClusterState.READY:
                    self.watch.look()  # it was ready a moment ago, so it has just gone
                detail = await self._next()

    async def _connection(self, watch: Watch) -> Connection:
        """Ask how to connect; the answer tells how the cluster is, too, unless the server is of an earlier version."""
        detail = watch.detail
        connection = await self._api(calls.get_connection(detail.account, detail.id))
        if connection.cluster is None:
            watch.take(await self._api(calls.get_cluster(detail.account, detail.id)))
        else:
            watch.take(connection.cluster)
        return connection

    async def workers(self, wait: Wait, joined: Callable[[], int]) -> None:
        """Wait until as many workers as *wait* says have joined the scheduler."""
        wanted = wait.of(self.detail)
        if not wanted:
            return
        self._progress.step(f"Waiting for {wanted} of {self.detail.n_workers} workers")
        while joined() < wanted:
            self._check(self.detail)
            await self._next()

    @property
    def detail(self) -> ClusterDetail:
        """The cluster as last seen."""
        assert self.watch is not None, "connection() comes first"  # noqa: S101 - a defect of ours, not an input
        return self.watch.detail

    async def _next(self) -> ClusterDetail:
        assert self.watch is not None, "connection() comes first"  # noqa: S101 - a defect of ours, not an input
        detail = await self.watch.changed()
        checkpoint()
        since = self.watch.unreachable_since
        if since is not None and time.monotonic() - since > SILENCE:
            raise ServerUnreachableError(
                f"The server {self._login.server} has not answered for {SILENCE:g} s.",
                advice="`ropewalk diagnostics` shows whether it is back.",
            )
        return detail

    async def ended(self) -> ClusterStartError | None:
        """Return why the cluster has ended, if the server says so within :data:`NEWS_SECONDS`."""
        if self.watch is None:
            return None
        self.watch.look()
        try:
            async with asyncio.timeout(NEWS_SECONDS):
                while self.watch.running:
                    self._check(await self._next())
                self._check(self.detail)
        except ClusterStartError as exc:
            return exc
        except (TimeoutError, RopewalkError):
            return None  # what is known already has to do
        return None

    def _check(self, detail: ClusterDetail) -> None:
        """Raise if the cluster will never become ready."""
        if detail.state in (ClusterState.STOPPING, ClusterState.STOPPED, ClusterState.FAILED):
            reason = (detail.reason or f"it is {detail.state}").rstrip(".")
            raise ClusterStartError(f"Cluster {detail.name!r} did not start: {reason}.")

    async def undo(self, reason: str) -> RopewalkError | None:
        """Stop what this start made; return why that could not be done, if it could not.

        A request that is under way is given time to be answered first: only then is it known whether there is something
        to stop. If no answer comes, the cluster is looked for by its name.
        """
        if self._creating is not None:
            # While packages are made ready there is nothing under way that has to be known.
            await asyncio.wait({self._creating}, timeout=SETTLE if self._software.asking else 0)
            self._creating.cancel()
            with suppress(asyncio.CancelledError, RopewalkError):
                await self._creating
        if self.watch is not None:
            await self.watch.stop()
        if self.claim is None:
            return None
        try:
            await release(self.claim, self._api, reason)
        except RopewalkError as exc:
            return exc
        return None
