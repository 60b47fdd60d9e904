"""What users can ask of clusters. Everything here writes or reads rows; nothing calls a cloud.

The reconciler makes true what is written here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime

import structlog
from dask.utils import format_time
from sqlalchemy import bindparam, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.backends.port import Backend, NodeShape
from ropewalk.errors import ClusterError, ClusterGoneError, ConflictError, FixItError, InputError, NotFoundError
from ropewalk.schemas import clusters as schemas
from ropewalk.schemas import common
from ropewalk.schemas.clusters import ClusterSpec, NodeRole, cores_of
from ropewalk.server.cloud_accounts.service import refuse_unusable, resolve
from ropewalk.server.clusters import limits, present
from ropewalk.server.clusters.certificates import issue, server_name
from ropewalk.server.clusters.configurations import template
from ropewalk.server.clusters.cost import cost, estimate
from ropewalk.server.clusters.leases import LIVE
from ropewalk.server.clusters.secret import ClusterSecret, open_secret
from ropewalk.server.clusters.timeline import timeline
from ropewalk.server.context import Context, Worker
from ropewalk.server.db.models import Account, CloudAccount, Cluster, Event, Member, Node, User, columns_of, new_id
from ropewalk.server.environments import using
from ropewalk.server.events import EventCode, record, shown
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

MAX_PAGE = 1000
"""Rows that one request can ask for."""

log = structlog.get_logger(__name__)


async def create(
    context: Context, caller: AccountCaller, request: schemas.ClusterCreate, *, reattach: bool = False
) -> tuple[schemas.ClusterDetail, bool]:
    """Write down the wish for a cluster; returns it and whether it is new.

    Args:
        context: The server's services.
        caller: Who wishes it, for which account.
        request: What is wished.
        reattach: Return a live cluster of that name as it is, instead of raising ConflictError.

    Raises:
        InputError: it cannot run on this account's cloud account; names the field.
        ConflictError: a live cluster has the name, or the cloud account is not prepared.
        LimitExceededError: the member or the account may not use so many cores.
    """
    name = request.name or f"{caller.username[:27]}-{secrets.token_hex(4)}"
    async with context.db.read() as session:
        if reattach and (existing := await _live(context, session, caller.account_id, name)) is not None:
            return existing, False
        spec, cloud = await _resolved(session, caller, request)
    backend = await _backend(context, spec, cloud)
    software = await _software(context, caller, request, spec, cloud, backend)
    row = await asyncio.to_thread(_new_row, context, caller, name, spec, software)
    row.cloud_account_id = cloud.id
    try:
        with nullcontext() if context.newborn is None else context.newborn(row, backend, caller.account) as worker:
            async with context.db.transaction() as session:
                account = await limits.lock_account(session, caller.account_id, row.created_at)
                # Shared with other new clusters; whoever tears the cloud account down waits for them, or they see it.
                cloud = await session.get_one(CloudAccount, cloud.id, with_for_update={"read": True})
                refuse_unusable(cloud)
                await limits.check(session, context.settings, account, caller.user_id, more=row.reserved_cores)
                if software is not None:
                    await using.mark_used(context, session, software)
                nodes = await _write_new(context, session, row, caller, backend, worker)
    except IntegrityError:
        # Two requests at once: the unique index on live names let one through.
        async with context.db.read() as session:
            existing = await _live(context, session, caller.account_id, name)
        if reattach and existing is not None:
            return existing, False
        raise ConflictError(
            f"A cluster named {name!r} is already running in the account {caller.account}.",
            advice=f"Connect to it with Cluster(name={name!r}), stop it, or choose another name.",
            field="name",
        ) from None
    return present.new(context.settings, row, nodes, caller, cloud), True


async def _resolved(
    session: AsyncSession, caller: AccountCaller, request: schemas.ClusterCreate
) -> tuple[ClusterSpec, CloudAccount]:
    """Return what is really wished, and the cloud account where it is to run.

    Fields that the request leaves out are taken from its configuration, and then from the defaults.
    """
    given = request.model_dump(exclude_unset=True, exclude={"name", "configuration", "fingerprint"})
    if request.configuration is not None:
        given = await template(session, caller.account_id, request.configuration) | given
    cloud = await resolve(session, await session.get_one(Account, caller.account_id))
    return ClusterSpec.model_validate(given), cloud


async def _backend(context: Context, spec: ClusterSpec, cloud: CloudAccount) -> Backend:
    """Return what drives *cloud*, and can do what is wished."""
    backend = await context.backends.get(cloud.id, read=cloud)
    _validate(spec, backend)
    return backend


async def _software(
    context: Context,
    caller: AccountCaller,
    request: schemas.ClusterCreate,
    spec: ClusterSpec,
    cloud: CloudAccount,
    backend: Backend,
) -> using.Software | None:
    """Return the software environment that is wished; where none is, see to it that the client's packages are there."""
    if spec.software is not None:
        return await using.use(context, caller, cloud, spec.software, spec.backend_options)
    if request.fingerprint is not None and spec.container is None:
        await using.demand_sync(context, caller, cloud, backend, request.fingerprint, spec.backend_options)
    return None


def _validate(spec: ClusterSpec, backend: Backend) -> None:
    if spec.software is not None and spec.container is not None:
        raise InputError(
            "A software environment and an image were both given.",
            advice="Leave one of them out; an environment can be made upon an image with its own container=.",
            field="container",
        )
    if spec.worker_gpu and not backend.capabilities.gpu:
        raise InputError("This cloud account has no GPUs.", advice="Leave worker_gpu out.", field="worker_gpu")
    if spec.container is not None and not backend.capabilities.images:
        raise InputError(
            "Nodes of this cloud account run in no containers.", advice="Leave container out.", field="container"
        )
    if spec.spot_policy != "on-demand" and not backend.capabilities.spot:
        raise InputError(
            "This cloud account has no spot capacity.", advice="Leave spot_policy out.", field="spot_policy"
        )
    try:
        options = spec.backend_options
        backend.validate(NodeShape(spec.scheduler_cpu, spec.scheduler_memory), NodeRole.SCHEDULER, options)
        backend.validate(NodeShape(spec.worker_cpu, spec.worker_memory, spec.worker_gpu), NodeRole.WORKER, options)
    except FixItError as exc:
        raise InputError(exc.message, advice=exc.advice, field=exc.field, details=exc.details) from None


def _new_row(
    context: Context, caller: AccountCaller, name: str, spec: ClusterSpec, software: using.Software | None
) -> Cluster:
    """Make the row with its certificates; keys take a few milliseconds, so this runs in a thread."""
    now = context.clock.now()
    cluster_id = new_id("c")
    given = {} if software is None else software.environ
    secret = ClusterSecret(issue(cluster_id, now), {**given, **spec.environ})
    stored = spec.model_dump(mode="json", exclude={"environ"})
    return Cluster(
        id=cluster_id,
        account_id=caller.account_id,
        creator_id=caller.user_id,
        name=name,
        spec=stored if software is None else {**stored, "software": software.name},
        image=None if software is None else software.image,
        venv=None if software is None else software.venv,
        secret=secret.encrypt(context.vault, cluster_id),
        tags=spec.tags,
        n_workers=spec.minimum,
        minimum=spec.minimum if spec.adaptive else None,
        maximum=spec.maximum if spec.adaptive else None,
        desired_changed_at=now,
        reserved_cores=cores_of(spec, spec.maximum),
        state=schemas.ClusterState.PENDING.value,
        versions={},
        worker_counter=0,
        created_at=now,
        fence=0,
    )


async def _write_new(
    context: Context,
    session: AsyncSession,
    row: Cluster,
    caller: AccountCaller,
    backend: Backend,
    worker: Worker | None,
) -> Sequence[Node]:
    """Write a new cluster, and what *worker* decides first about it; returns its nodes."""
    workers = f"{row.minimum} to {row.maximum}" if row.minimum is not None else str(row.n_workers)
    message = f"{caller.username} asked for {row.name} with {workers} workers, on {backend.kind}."
    # Nodes and events refer to the cluster, which is written before them, and once: with what is decided here.
    with session.no_autoflush:
        _record_wish(session, row.created_at, row, EventCode.CLUSTER_CREATED, message, actor=caller.username)
        nodes = [] if worker is None else await worker.write_first(session, row, row.created_at)
        await session.execute(insert(Cluster), [columns_of(row)])
    topics = (f"cluster:{row.id}",) if worker is None else ()
    await context.wakeups.announce(session, *topics, f"account:{row.account_id}")
    return nodes


async def _live(context: Context, session: AsyncSession, account_id: str, name: str) -> schemas.ClusterDetail | None:
    live = select(Cluster).where(Cluster.account_id == account_id, Cluster.name == name, Cluster.state.in_(LIVE))
    row = (await session.scalars(live)).one_or_none()
    return None if row is None else await present.detail(session, context.settings, row, context.clock.now())


async def find(session: AsyncSession, account_id: str, name: str) -> Cluster:
    """Return the cluster with that id, or else the newest with that name.

    Raises:
        NotFoundError: the account has none.
    """
    mine = select(Cluster).where(Cluster.account_id == account_id, or_(Cluster.id == name, Cluster.name == name))
    # A live one is always newer than those that had the name before it.
    row = (await session.scalars(mine.order_by(Cluster.created_at.desc()).limit(1))).first()
    if row is None:
        account = await session.get_one(Account, account_id)
        raise NotFoundError(
            f"The account {account.slug} has no cluster {name[:60]!r}.",
            advice="List its clusters with: ropewalk cluster list",
            field="name",
        )
    return row


async def get(context: Context, caller: AccountCaller, name: str) -> schemas.ClusterDetail:
    """Return one cluster with its nodes."""
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        return await present.detail(session, context.settings, row, context.clock.now())


async def list_all(
    context: Context,
    caller: Caller,
    *,
    account_id: str | None = None,
    state: str = "live",
    name: str | None = None,
    contains: str | None = None,
    creator: str | None = None,
    limit: int = 100,
    before: str | None = None,
) -> list[schemas.Cluster]:
    """Return clusters, newest first.

    Args:
        context: The server's services.
        caller: Who asks; without *account_id*, clusters of all their accounts.
        account_id: Only of this account, which the caller may see.
        state: ``live`` or ``all``.
        name: Only of this name.
        contains: Only those whose name has this text in it.
        creator: Only those that this user made.
        limit: How many at the most; one above the largest page, to tell whether there are more.
        before: Only clusters made before the one with this id, to get the next page.
    """
    wanted = select(Cluster).order_by(Cluster.created_at.desc(), Cluster.id.desc()).limit(min(limit, MAX_PAGE + 1))
    if account_id is not None:
        wanted = wanted.where(Cluster.account_id == account_id)
    else:
        mine = select(Member.account_id).where(Member.user_id == caller.user_id)
        wanted = wanted.where(Cluster.account_id.in_(mine))
    if state == "live":
        wanted = wanted.where(Cluster.state.in_(LIVE))
    if name is not None:
        wanted = wanted.where(Cluster.name == name)
    if contains:
        wanted = wanted.where(Cluster.name.contains(contains, autoescape=True))
    if creator:
        wanted = wanted.where(Cluster.creator_id.in_(select(User.id).where(User.username == creator)))
    async with context.db.read() as session:
        if before is not None and (last := await session.get(Cluster, before)) is not None:
            older = (Cluster.created_at == last.created_at) & (Cluster.id < last.id)
            wanted = wanted.where(or_(Cluster.created_at < last.created_at, older))
        rows = list(await session.scalars(wanted))
        return await present.clusters(session, context.settings, rows, context.clock.now())


async def scale(
    context: Context, caller: AccountCaller, name: str, wish: schemas.ClusterScale
) -> schemas.ClusterDetail:
    """Write down a new number of workers, or new bounds for it.

    Raises:
        ClusterGoneError: the cluster is ending or has ended.
        LimitExceededError: the member or the account may not use so many cores.
    """
    now = context.clock.now()
    async with context.db.transaction() as session:
        account = await limits.lock_account(session, caller.account_id, now)
        row = await find(session, caller.account_id, name)
        await session.refresh(row, with_for_update=True)
        caller.demand_own_or(Permission.ACCOUNT_CLUSTERS_SCALE_ANY, row.creator_id, f"the cluster {row.name!r}")
        _refuse_ended(row)
        spec = ClusterSpec.model_validate({**row.spec, "n_workers": wish.n_workers})
        cores = cores_of(spec, spec.maximum)
        if cores > row.reserved_cores:
            await limits.check(session, context.settings, account, row.creator_id, more=cores, leave_out=row.id)
        before = row.n_workers
        row.minimum, row.maximum = (spec.minimum, spec.maximum) if spec.adaptive else (None, None)
        row.n_workers = min(max(before, spec.minimum), spec.maximum)
        row.reserved_cores, row.desired_changed_at = cores, now
        text = f"between {spec.minimum} and {spec.maximum}" if spec.adaptive else f"{row.n_workers} instead of {before}"
        message = f"{caller.username} asked for {text} workers."
        await _wished(context, session, row, EventCode.CLUSTER_SCALED, message, actor=caller.username)
        return await present.detail(session, context.settings, row, now)


async def update(
    context: Context, caller: AccountCaller, name: str, wish: schemas.ClusterUpdate
) -> schemas.ClusterDetail:
    """Write down new limits; the reconciler tells them to the scheduler, which enforces them.

    Raises:
        ClusterGoneError: the cluster is ending or has ended.
    """
    async with context.db.transaction() as session:
        row = await find(session, caller.account_id, name)
        await session.refresh(row, with_for_update=True)
        caller.demand_own_or(Permission.ACCOUNT_CLUSTERS_UPDATE_ANY, row.creator_id, f"the cluster {row.name!r}")
        _refuse_ended(row)
        given = wish.model_dump(exclude_unset=True)
        row.spec = row.spec | given
        limits = ", ".join(f"{field} {'never' if v is None else format_time(v)}" for field, v in given.items())
        message = f"{caller.username} set {limits}."
        await _wished(context, session, row, EventCode.CLUSTER_LIMITS_SET, message, actor=caller.username)
        return await present.detail(session, context.settings, row, context.clock.now())


async def timeline_of(context: Context, caller: AccountCaller, name: str) -> schemas.Timeline:
    """Return how long each step of the cluster's start took."""
    async with context.db.read() as session:
        return await timeline(session, await find(session, caller.account_id, name))


async def stop(context: Context, caller: AccountCaller, name: str, reason: str | None = None) -> schemas.ClusterDetail:
    """Write down that a cluster is to end. Asking again changes nothing."""
    now = context.clock.now()
    async with context.db.transaction() as session:
        row = await find(session, caller.account_id, name)
        await session.refresh(row, with_for_update=True)
        caller.demand_own_or(Permission.ACCOUNT_CLUSTERS_STOP_ANY, row.creator_id, f"the cluster {row.name!r}")
        if row.state in LIVE and row.stop_requested_at is None:
            row.stop_requested_at = now
            if row.stop_code is None:
                row.stop_reason = f"{caller.username} stopped it" + (f": {reason}" if reason else ".")
            message = f"{caller.username} asked for it to stop."
            await _wished(context, session, row, EventCode.CLUSTER_STOP_REQUESTED, message, actor=caller.username)
        return await present.detail(session, context.settings, row, now)


async def _wished(
    context: Context, session: AsyncSession, row: Cluster, code: EventCode, message: str, *, actor: str
) -> None:
    """Record a wish, and wake the reconciler and those who follow the events once it is committed."""
    _record_wish(session, context.clock.now(), row, code, message, actor=actor)
    await context.wakeups.announce(session, f"cluster:{row.id}", f"events:{row.id}", f"account:{row.account_id}")


def _record_wish(
    session: AsyncSession, now: datetime, row: Cluster, code: EventCode, message: str, *, actor: str
) -> None:
    request = structlog.contextvars.get_contextvars().get("request_id")
    details = {"request_id": request} if request is not None else {}
    record(session, now, code, message, account_id=row.account_id, cluster_id=row.id, actor=actor, details=details)
    log.info("cluster.wished", wish=code, cluster=row.id, name=row.name, actor=actor)


def _refuse_ended(row: Cluster) -> None:
    if row.state not in LIVE or row.stop_requested_at is not None or row.stop_code is not None:
        raise ClusterGoneError(
            f"The cluster {row.name!r} has ended or is ending: {row.stop_reason or row.reason or row.state}",
            advice="Create a new one; the name is free once it has stopped.",
            details={"state": row.state},
        )


async def connection(context: Context, caller: AccountCaller, name: str) -> schemas.Connection:
    """Return how a client reaches the scheduler.

    Raises:
        ClusterGoneError: the cluster is ending or has ended.
        ClusterError: its scheduler is not ready yet.
    """
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        shown = await present.detail(session, context.settings, row, context.clock.now())
    _refuse_ended(row)
    if row.scheduler_address is None or row.state != schemas.ClusterState.READY:
        raise ClusterError(
            f"The scheduler of {row.name!r} is not ready yet.",
            advice="Wait for the event cluster.ready; the cluster's events say what it is waiting for.",
            details={"state": row.state},
        )
    direct = (await context.backends.get(row.cloud_account_id)).capabilities.direct
    gateway = context.settings.gateway_address
    if not direct and gateway is None:
        raise ClusterError(
            f"The scheduler of {row.name!r} can only be reached through this server's gateway, which is off.",
            advice="Ask an operator to start the server with a gateway (settings gateway_port and gateway_address).",
        )
    secret = await asyncio.to_thread(open_secret, context.vault, row)
    return schemas.Connection(
        scheduler_address=row.scheduler_address,
        direct=direct,
        gateway_address=None if gateway is None else f"tls://{gateway}",
        server_name=server_name(row.id),
        versions=row.versions,
        cluster=shown,
        **secret.certificates.for_role("client"),
    )


async def events(
    context: Context, caller: AccountCaller, name: str, *, after: int = 0, limit: int = MAX_PAGE
) -> tuple[list[common.Event], str, bool]:
    """Return the events of a cluster after the one with id *after*, its id, and whether more can follow."""
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        return await _events_after(session, row.id, after, limit), row.id, row.state in LIVE


async def later_events(context: Context, cluster_id: str, after: int) -> tuple[list[common.Event], bool]:
    """Return what happened to a cluster after the event with id *after*, and whether more can follow.

    For those who follow, and may see it: they look at each change, of which a start has many.
    """
    async with context.db.read() as session:
        state = (await session.scalars(_STATE, {"cluster": cluster_id})).one()
        return await _events_after(session, cluster_id, after, MAX_PAGE), state in LIVE


_STATE = select(Cluster.state).where(Cluster.id == bindparam("cluster"))
_EVENTS = (
    select(Event).where(Event.cluster_id == bindparam("cluster"), Event.id > bindparam("after")).order_by(Event.id)
)


async def _events_after(session: AsyncSession, cluster_id: str, after: int, limit: int) -> list[common.Event]:
    found = await session.scalars(_EVENTS.limit(limit), {"cluster": cluster_id, "after": after})
    return [shown(event) for event in found]


async def newest_events(
    context: Context, caller: AccountCaller, name: str, *, before: int | None = None, limit: int = MAX_PAGE
) -> list[common.Event]:
    """Return the newest events of a cluster, newest first; with *before*, those that came before that id."""
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        query = select(Event).where(Event.cluster_id == row.id).order_by(Event.id.desc()).limit(limit)
        if before is not None:
            query = query.where(Event.id < before)
        return [shown(event) for event in await session.scalars(query)]


async def account_of(context: Context, caller: Caller, cluster_id: str) -> str:
    """Return the slug of the account that a cluster is in.

    Raises:
        NotFoundError: There is no such cluster, or the caller is not a member of its account.
    """
    query = select(Account.slug).join(Cluster, Cluster.account_id == Account.id).where(Cluster.id == cluster_id)
    if not caller.operator:
        member = select(Member.account_id).where(Member.user_id == caller.user_id)
        query = query.where(Account.id.in_(member))
    async with context.db.read() as session:
        slug = await session.scalar(query)
    if slug is None:
        raise NotFoundError("There is no such cluster, or you are not a member of its account.", field="cluster")
    return slug


async def cost_of(context: Context, caller: AccountCaller, name: str) -> schemas.Cost:
    """Return what a cluster costs."""
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        return cost(await session.scalars(select(Node).where(Node.cluster_id == row.id)), context.clock.now())


async def estimate_of(context: Context, caller: AccountCaller, request: schemas.ClusterCreate) -> schemas.CostEstimate:
    """Return what such a cluster would cost per hour on the account's cloud account."""
    async with context.db.read() as session:
        spec, cloud = await _resolved(session, caller, request)
    return estimate(spec, await _backend(context, spec, cloud))
