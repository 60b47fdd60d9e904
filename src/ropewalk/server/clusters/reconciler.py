"""Runs an actor for every cluster that this server holds a lease of, and an observer for every cloud account."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from functools import partial

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.backends.port import Backend
from ropewalk.errors import FixItError, RopewalkError
from ropewalk.schemas.diagnostics import OrphanNode
from ropewalk.server.cloud_accounts.reach import note_reach
from ropewalk.server.clusters import leases
from ropewalk.server.clusters.actor import Actor, Surroundings
from ropewalk.server.clusters.observer import Observer
from ropewalk.server.clusters.sweep import Sweep
from ropewalk.server.context import Context
from ropewalk.server.db.models import Account, Cluster, Installation
from ropewalk.server.leases.loops import Loops
from ropewalk.server.leases.owners import new_owner
from ropewalk.server.leases.rows import NO_DATABASE, RENEWALS_PER_LEASE

CLAIM_SECONDS = 10.0
"""How often unheld clusters are looked for, besides whenever one is made."""
UNRENEWED_LEASES = 1.5
"""Times the length of a lease after which one that nobody renewed is free, whatever it says itself."""
STOP_SECONDS = 5.0
"""For what is being written while the server stops."""

log = structlog.get_logger(__name__)


class Reconciler:
    """Makes what users wished true, together with any other server on the same database."""

    def __init__(self, context: Context) -> None:
        self.owner = new_owner()
        self._context = context
        self._actors: dict[str, tuple[Actor, asyncio.Task[None]]] = {}
        self._observers: dict[str, Observer] = {}
        self._backends: dict[str, Backend] = {}
        self._slugs: dict[str, str] = {}
        self._reach: dict[str, str | None] = {}
        """What was noted about each cloud account: why its clusters cannot be looked after."""
        self._noting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._claim_now = asyncio.Event()
        self.loops = Loops(context)
        self._stack = contextlib.ExitStack()
        self._sweep = Sweep(context)
        self._surroundings: Surroundings | None = None
        self._renewed = time.monotonic()
        self._beginning: set[str] = set()
        self._newborn: set[str] = set()
        self.orphans = 0
        """Found by the last sweep."""
        self._unrenewed = leases.Unrenewed()
        self._watched = time.monotonic() - CLAIM_SECONDS

    @property
    def running(self) -> bool:
        """Whether all of its loops run."""
        return self.loops.running

    async def start(self) -> None:
        """Begin to work."""
        await leases.release_dead(self._context)
        async with self._context.db.read() as session:
            installation = (await session.scalars(select(Installation.id))).one()
        self._surroundings = Surroundings(
            context=self._context,
            installation=installation,
            account=self._slugs.__getitem__,
            kick=lambda cloud: self._observers[cloud].kick(),
            passes=asyncio.Semaphore(self._context.settings.reconcile_concurrency),
        )
        self._stack.enter_context(self._context.wakeups.listener(self._woken))
        self._context.newborn = self.newborn
        settings = self._context.settings
        self.loops.start("claim", self._claim, self._wait)
        self.loops.every(settings.lease_seconds / RENEWALS_PER_LEASE, "renew", self._renew)
        self.loops.every(settings.sweep_seconds, "sweep", self._sweep_once)

    async def stop(self) -> None:
        """Stop working; clusters go on, and whoever starts next takes them over at once."""
        self._context.newborn = None
        self._stack.close()
        await self.loops.stop()
        await self._drop(list(self._actors))
        for observer in self._observers.values():
            await observer.stop()
        # They only read or write a row; cut short, they would leave a connection half open.
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(*NO_DATABASE):
            await leases.release(self._context, self.owner)

    def _woken(self, topic: str) -> None:
        kind, _, cluster_id = topic.partition(":")
        if topic == "*":
            self._claim_now.set()
            for actor, _task in self._actors.values():
                actor.wake()
        if kind in ("cloud", "*"):
            for cloud in [cluster_id] if kind == "cloud" else list(self._backends):
                self._start(self._renew_backend(cloud))
        elif kind == "cluster":
            if cluster_id in self._actors:
                self._actors[cluster_id][0].wake()
            else:
                self._claim_now.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew_backend(self, cloud: str) -> None:
        """Let the clusters of a cloud account go on with its settings and credentials of now, and look at once."""
        if cloud not in self._backends:
            return
        try:
            backend = self._backends[cloud] = await self._context.backends.get(cloud)
        except (RopewalkError, SQLAlchemyError, OSError) as exc:
            self.loops.failed("backend", exc)
            return
        for actor, _task in self._actors.values():
            if actor.lease.cloud_account_id == cloud:
                actor.use(backend)
        # What was noted may have been cleared by whoever set new credentials.
        self._reach.pop(cloud, None)
        self._observers[cloud].kick()

    def _looked(self, cloud: str, error: Exception | None) -> None:
        """Note whether the clusters of a cloud account can be looked after; passing faults change nothing."""
        if error is not None and not isinstance(error, FixItError):
            return
        reason = None if error is None else str(error)
        if self._reach.get(cloud, "not known") != reason:
            self._reach[cloud] = reason
            self._start(self._note_reach(cloud))

    async def _note_reach(self, cloud: str) -> None:
        """Note what the last look said: notes that overtake each other would leave an older one for good."""
        async with self._noting:
            if cloud not in self._reach:
                return  # the next look notes it
            try:
                await note_reach(self._context, cloud, self._reach[cloud])
            except (RopewalkError, SQLAlchemyError, OSError) as exc:
                self._reach.pop(cloud, None)  # as above
                self.loops.failed("reach", exc)

    async def _claim(self) -> None:
        self._claim_now.clear()
        await self._free_unrenewed()
        claimed = await leases.claim(self._context, self.owner)
        self._beginning = {lease.cluster_id for lease in claimed}
        if claimed:
            async with self._context.db.read() as session:
                rows = await session.execute(select(Account.id, Account.slug))
                self._slugs.update({row.id: row.slug for row in rows})
        try:
            for lease in claimed:
                # A lease of ours that ran out: whatever worked under it may write no more.
                await self._drop([lease.cluster_id])
                await self._begin(lease)
        finally:
            # Those that could not begin are given back by the next renewal.
            self._beginning = set()
        if len(claimed) == leases.CLAIM_BATCH:
            self._claim_now.set()

    async def _wait(self) -> None:
        """Wait until there may be more to claim."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_SECONDS):
                await self._claim_now.wait()

    async def _free_unrenewed(self) -> None:
        """Free the leases of servers that do not renew them, also when a wrong clock wrote until when they hold."""
        if time.monotonic() - self._watched < CLAIM_SECONDS / 2:
            return
        self._watched = time.monotonic()
        held = await leases.held_by_others(self._context, self.owner)
        patience = UNRENEWED_LEASES * self._context.settings.lease_seconds
        for owner, until in self._unrenewed.stale(held, self._watched, patience):
            log.warning("lease.not_renewed", owner=owner)
            await leases.release(self._context, owner, until=until)

    async def _begin(self, lease: leases.Lease) -> None:
        assert self._surroundings is not None  # noqa: S101 - start() made them
        try:
            backend = await self._context.backends.get(lease.cloud_account_id)
        except RopewalkError as exc:
            # The lease runs out and is claimed again: that is the retry.
            self.loops.failed("backend", exc)
            return
        self._run(Actor(lease, self._surroundings, backend), backend)

    @contextlib.contextmanager
    def newborn(self, row: Cluster, backend: Backend, account: str) -> Iterator[Actor]:
        """Give who works on a cluster from the transaction on that makes it, and begins once that is committed.

        Args:
            row: The new cluster, which is given a lease here.
            backend: What drives it.
            account: The slug of its account.
        """
        assert self._surroundings is not None  # noqa: S101 - start() made them
        self._slugs[row.account_id] = account
        self._newborn.add(row.id)
        try:
            actor = Actor(leases.newborn(self._context, row, self.owner), self._surroundings, backend)
            yield actor
            self._run(actor, backend)
        finally:
            self._newborn.discard(row.id)

    def _run(self, actor: Actor, backend: Backend) -> None:
        lease = actor.lease
        self._backends[lease.cloud_account_id] = backend
        observer = self._observers.get(lease.cloud_account_id)
        if observer is None:
            observer = self._observers[lease.cloud_account_id] = Observer(
                partial(self._backends.__getitem__, lease.cloud_account_id),
                self._context.metrics,
                partial(self._looked, lease.cloud_account_id),
            )
        task = asyncio.create_task(actor.run(), name=f"cluster {lease.cluster_id}")
        self._actors[lease.cluster_id] = (actor, task)
        observer.add(actor)
        task.add_done_callback(lambda done: self._ended(lease, actor, done))
        self._count()

    def _ended(self, lease: leases.Lease, actor: Actor, task: asyncio.Task[None]) -> None:
        self._observers[lease.cloud_account_id].discard(actor)
        if self._actors.get(lease.cluster_id, (None, None))[0] is actor:
            del self._actors[lease.cluster_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect: nothing is lost, since the lease runs out and the cluster is claimed again.
            log.error("cluster.actor_died", cluster=lease.cluster_id, exc_info=error)
            self._context.metrics.reconcile_errors.labels(type(error).__name__).inc()
        self._count()

    def _count(self) -> None:
        states = Counter(str(actor.state or "pending") for actor, _task in self._actors.values())
        self._context.metrics.clusters.clear()
        for state, number in states.items():
            self._context.metrics.clusters.labels(state).set(number)
        self._context.metrics.leases.set(len(self._actors))
        self._context.metrics.links.set(sum(actor.linked for actor, _task in self._actors.values()))

    def working(self) -> dict[str, bool]:
        """Return for each cluster that this server works on whether it hears the scheduler."""
        return {cluster_id: actor.linked for cluster_id, (actor, _task) in self._actors.items()}

    def orphan_nodes(self) -> list[OrphanNode]:
        """Return what the last sweep found."""
        return self._sweep.orphans

    async def _drop(self, cluster_ids: list[str]) -> None:
        tasks = [self._actors[cluster_id][1] for cluster_id in cluster_ids if cluster_id in self._actors]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        try:
            kept = await leases.renew(self._context, self.owner)
        except NO_DATABASE:
            self._context.metrics.renew_failures.inc()
            if time.monotonic() - self._renewed > self._context.settings.lease_seconds:
                # Nobody knows whether they are still ours; every write is fenced, but calls to a cloud are not.
                await self._drop(list(self._actors))
            raise
        self._renewed = time.monotonic()
        await self._let_go([cluster_id for cluster_id in self._actors if cluster_id not in kept])
        idle = kept - set(self._actors) - self._beginning - self._newborn
        if idle:
            await self._give_back(idle)
        self._count()

    async def _let_go(self, cluster_ids: list[str]) -> None:
        """End the work on clusters that are not ours any more: another server took them, or they have ended."""
        for cluster_id in cluster_ids:
            state = self._actors[cluster_id][0].state
            if state is None or state.live:
                log.info("lease.lost", cluster=cluster_id)
                self._context.metrics.leases_lost.inc()
        await self._drop(cluster_ids)

    async def _give_back(self, cluster_ids: set[str]) -> None:
        """Let go of leases whose actor is not there (it died, or its backend could not be had)."""
        await leases.release(self._context, self.owner, only=cluster_ids)
        self._claim_now.set()

    async def _sweep_once(self) -> None:
        self.orphans = await self._sweep.run()
