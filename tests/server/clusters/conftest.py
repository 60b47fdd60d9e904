"""A fleet: the real services, reconciler, database and links, on a cloud in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail, ClusterScale, ClusterUpdate
from ropewalk.schemas.common import Event
from ropewalk.schemas.identity import MemberRole
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.cloud_accounts.service import ensure_hosted
from ropewalk.server.clusters import service
from ropewalk.server.clusters.reconciler import Reconciler
from ropewalk.server.context import Context
from ropewalk.server.db.engine import Database
from ropewalk.server.db.models import Account, Cluster, Installation, Member, Node
from ropewalk.server.identity.permissions import AccountCaller
from ropewalk.server.identity.users import add_user
from ropewalk.server.secrets import Vault
from ropewalk.server.settings import Settings
from ropewalk.server.wakeups import Wakeups
from tests.support.clock import FakeClock
from tests.support.waiting import eventually


def _defects(context: Context) -> set[str]:
    """Return the kinds of errors, of those that only defects raise, which ended the work on a cluster."""
    samples = [sample for metric in context.metrics.reconcile_errors.collect() for sample in metric.samples]
    met = {value for sample in samples if sample.value for value in sample.labels.values()}
    return met & {"AssertionError", "AttributeError", "IndexError", "KeyError", "TypeError", "ValueError"}


class Fleet:
    """One server's worth of parts; :meth:`server` runs another one on the same database and cloud."""

    def __init__(self, settings: Settings, database: Database, vault: Vault, clock: FakeClock) -> None:
        self.settings, self.database, self.vault, self.clock = settings, database, vault, clock
        self.cloud = MemoryCloud()
        self.context = self._context()
        self.caller = AccountCaller("", "", operator=False)

    def _context(self) -> Context:
        backends = Backends(overrides={"local": MemoryBackend(self.cloud)})
        backends.bind(self.database, self.settings, self.vault)
        return Context(self.settings, self.database, self.vault, self.clock, backends, Wakeups(self.database))

    @asynccontextmanager
    async def server(self, context: Context | None = None) -> AsyncIterator[Reconciler]:
        """Run a reconciler; without *context* on new services, as another process would, which users then ask."""
        if context is None:
            context = self.context = self._context()
        await context.wakeups.start()
        reconciler = Reconciler(context)
        await reconciler.start()
        try:
            yield reconciler
        finally:
            await reconciler.stop()
            await context.wakeups.stop()
            await context.backends.close()
        # Its successor would hide it, a lease later.
        assert not _defects(context), "who worked on a cluster died of a defect"

    async def person(
        self, name: str, *, account: str | None = None, role: MemberRole = MemberRole.MEMBER
    ) -> AccountCaller:
        """Make a user; a caller of their own account, or of *account*, which they join."""
        async with self.context.db.transaction() as session:
            user = await add_user(self.context, session, name, "!", email=None, operator=False, by="tests")
            await session.flush()
            slug = account or name
            row = (await session.scalars(select(Account).where(Account.slug == slug))).one()
            if account is not None:
                now = self.clock.now()
                session.add(Member(account_id=row.id, user_id=user.id, role=role.value, added_at=now))
            else:
                role = MemberRole.ADMIN
        return AccountCaller(user.id, name, False, None, row.id, slug, role)

    async def create(self, caller: AccountCaller | None = None, **fields: object) -> ClusterDetail:
        wish = ClusterCreate.model_validate({"n_workers": 2, "name": "c", **fields})
        cluster, _new = await service.create(self.context, caller or self.caller, wish)
        return cluster

    async def get(self, name: str = "c") -> ClusterDetail:
        return await service.get(self.context, self.caller, name)

    async def scale(self, n_workers: int | tuple[int, int], name: str = "c") -> None:
        await service.scale(self.context, self.caller, name, ClusterScale(n_workers=n_workers))

    async def update(self, name: str = "c", **limits: object) -> ClusterDetail:
        return await service.update(self.context, self.caller, name, ClusterUpdate.model_validate(limits))

    async def stop(self, name: str = "c") -> None:
        await service.stop(self.context, self.caller, name)

    async def events(self, name: str = "c") -> list[Event]:
        found, _id, _more = await service.events(self.context, self.caller, name)
        return found

    async def codes(self, name: str = "c") -> list[str]:
        return [event.code for event in await self.events(name)]

    async def codes_contain(self, code: str, name: str = "c") -> bool:
        return code in await self.codes(name)

    async def launches_failed(self, tries: int) -> bool:
        """Return whether the scheduler could not be launched so many times."""
        events = [e for e in await self.events() if e.code == "node.launch_failed"]
        return sum(1 for event in events if event.node and event.node.endswith("-scheduler")) >= tries

    async def attention(self, name: str = "c") -> str:
        """Return what the cluster says that it needs attention for."""
        return " ".join(e.message for e in await self.events(name) if e.code == "cluster.attention")

    async def until(self, state: str, *, workers: int | None = None, name: str = "c") -> ClusterDetail:
        """Wait until the cluster is in *state*, with so many ready workers."""

        async def there() -> ClusterDetail | None:
            cluster = await self.get(name)
            fits = workers is None or cluster.workers_ready == workers
            live = [n for n in cluster.nodes if n.role == "worker" and n.state.live]
            settled = workers is None or len(live) == workers
            return cluster if cluster.state == state and fits and settled else None

        return await eventually(there)

    def tick(self, seconds: float) -> None:
        """Let time pass, for the server and for whoever waits for a time."""
        self.clock.advance(seconds)
        self.context.wakeups.wake("*")

    async def hold_leases(self) -> None:
        """Let leases outlast any tick from now on, as renewals would while that time passes.

        One that runs out ends the work that goes on under it, wherever that is, and begins it anew.
        """
        # Those that are renewed, which happens at any moment, and new ones; then those that there are.
        self.context.settings = self.context.settings.model_copy(update={"lease_seconds": 365 * 86400.0})
        async with self.database.transaction() as session:
            expires = self.clock.now() + timedelta(days=365)
            await session.execute(update(Cluster).values(lease_expires_at=expires))

    def running(self) -> list[str]:
        return self.cloud.node_names()

    async def rows(self) -> dict[str, Node]:
        async with self.database.read() as session:
            return {node.name: node for node in await session.scalars(select(Node))}


@pytest.fixture
async def fleet(settings: Settings, database: Database, vault: Vault, clock: FakeClock) -> AsyncIterator[Fleet]:
    """A fleet whose server does not run yet."""
    made = Fleet(settings, database, vault, clock)
    async with database.transaction() as session:
        session.add(Installation(id="i-test", created_at=clock.now(), key_check=b"", setup_code_hash=None))
    await ensure_hosted(made.context)
    made.caller = await made.person("ada")
    yield made
    await made.context.backends.close()


@pytest.fixture
async def running(fleet: Fleet) -> AsyncIterator[Fleet]:
    """A fleet whose server runs."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(fleet.server(fleet.context))
        await fleet.hold_leases()
        yield fleet
