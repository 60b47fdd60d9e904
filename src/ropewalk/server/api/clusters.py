"""Routes of clusters. A route checks permission, calls the service, answers; no rule lives here.

(This module does not postpone annotations: FastAPI needs them when it is read.)
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response, status

from ropewalk.schemas.clusters import (
    Cluster,
    ClusterCreate,
    ClusterDetail,
    ClusterScale,
    ClusterUpdate,
    Connection,
    Cost,
    CostEstimate,
    DashboardTicket,
    LogPage,
    Timeline,
)
from ropewalk.schemas.common import Event
from ropewalk.server.api import streams
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.clusters import logs, service
from ropewalk.server.gateway import metrics, passes
from ropewalk.server.gateway.upstreams import Upstreams
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["clusters"])

Limit = Annotated[int, Query(ge=1, le=service.MAX_PAGE)]
CreateCaller = Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_CREATE)]
ReadCaller = Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_READ)]


@router.post("/accounts/{account}/clusters", status_code=status.HTTP_201_CREATED)
async def create_cluster(
    caller: CreateCaller, context: ContextDep, wish: ClusterCreate, response: Response, *, reattach: bool = False
) -> ClusterDetail:
    """Create a cluster. Returns at once; follow its events until it is ready.

    With `reattach`, a live cluster of that name is returned as it is, with status 200.
    """
    cluster, new = await service.create(context, caller, wish, reattach=reattach)
    if not new:
        response.status_code = status.HTTP_200_OK
    return cluster


@router.get("/clusters")
async def list_my_clusters(
    caller: Annotated[Caller, require(Permission.SELF_CLUSTERS_READ)],
    context: ContextDep,
    *,
    state: Literal["live", "all"] = "live",
    name: str | None = None,
    limit: Limit = 100,
    before: str | None = None,
) -> list[Cluster]:
    """List clusters of all your accounts, newest first."""
    return await service.list_all(context, caller, state=state, name=name, limit=limit, before=before)


@router.get("/accounts/{account}/clusters")
async def list_clusters(
    caller: ReadCaller,
    context: ContextDep,
    *,
    state: Literal["live", "all"] = "live",
    name: str | None = None,
    limit: Limit = 100,
    before: str | None = None,
) -> list[Cluster]:
    """List the account's clusters, newest first. Pass the last one's id as `before` to get the next page."""
    return await service.list_all(
        context, caller, account_id=caller.account_id, state=state, name=name, limit=limit, before=before
    )


@router.get("/accounts/{account}/clusters/{name}")
async def get_cluster(caller: ReadCaller, context: ContextDep, name: str) -> ClusterDetail:
    """Show a cluster, by name (the newest that had it) or id."""
    return await service.get(context, caller, name)


@router.patch("/accounts/{account}/clusters/{name}")
async def update_cluster(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_UPDATE)],
    context: ContextDep,
    name: str,
    wish: ClusterUpdate,
) -> ClusterDetail:
    """Change the times after which a cluster that runs ends by itself."""
    return await service.update(context, caller, name, wish)


@router.delete("/accounts/{account}/clusters/{name}")
async def stop_cluster(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_STOP)],
    context: ContextDep,
    name: str,
    reason: Annotated[str | None, Query(max_length=500)] = None,
) -> ClusterDetail:
    """Stop a cluster. Returns at once; it has stopped when its state says so. Asking again changes nothing."""
    return await service.stop(context, caller, name, reason)


@router.post("/accounts/{account}/clusters/{name}/scale")
async def scale_cluster(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_SCALE)],
    context: ContextDep,
    name: str,
    wish: ClusterScale,
) -> ClusterDetail:
    """Change the number of workers, or let it adapt between two numbers."""
    return await service.scale(context, caller, name, wish)


@router.get("/accounts/{account}/clusters/{name}/connection")
async def get_connection(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_CONNECT)],
    context: ContextDep,
    response: Response,
    name: str,
) -> Connection:
    """Return the scheduler's address and a client certificate for it."""
    response.headers["Cache-Control"] = "no-store"
    return await service.connection(context, caller, name)


DashboardCaller = Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_DASHBOARD)]


@router.post("/accounts/{account}/clusters/{name}/dashboard", status_code=status.HTTP_201_CREATED)
async def open_dashboard(caller: DashboardCaller, context: ContextDep, name: str) -> DashboardTicket:
    """Make a link that opens the cluster's dashboard in one browser, once, within a minute."""
    return await passes.issue(context, caller, name)


@router.get("/accounts/{account}/clusters/{name}/metrics", response_class=Response)
async def get_metrics(caller: DashboardCaller, context: ContextDep, request: Request, name: str) -> Response:
    """Return what the cluster's scheduler says to Prometheus."""
    dashboards: Upstreams = request.app.state.dashboards
    return await metrics.read(dashboards, await passes.visit(context, caller, name))


@router.get("/accounts/{account}/clusters/{name}/events", response_model=list[Event])
async def get_events(
    caller: ReadCaller,
    context: ContextDep,
    name: str,
    *,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Limit = service.MAX_PAGE,
    follow: bool = False,
) -> Response | list[Event]:
    """List a cluster's events in order.

    With `follow`, the answer is a stream of server-sent events that ends when the cluster has ended or the server
    stops; its `id` is what to pass as `after` to go on from there.
    """
    woken = context.wakeups.woken
    found, cluster_id, more = await service.events(context, caller, name, after=after, limit=limit)
    if not follow:
        return found

    async def look(after: int) -> streams.Seen:
        return await service.later_events(context, cluster_id, after)

    topic = f"events:{cluster_id}"
    feed = streams.Feed(
        context=context, caller=caller, topic=topic, look=look, first=(found, more), after=after, woken=woken
    )
    return feed.response()


@router.get("/accounts/{account}/clusters/{name}/logs")
async def get_logs(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_LOGS_READ)],
    context: ContextDep,
    name: str,
    *,
    node: str | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000_000)] = 1_000_000,
) -> list[LogPage]:
    """Read the logs of all nodes, or of `node` from `cursor`; `limit` is in bytes per node. Also after their end."""
    return await logs.pages(context, caller, name, node=node, cursor=cursor, limit=limit)


@router.get("/accounts/{account}/clusters/{name}/timeline")
async def get_timeline(caller: ReadCaller, context: ContextDep, name: str) -> Timeline:
    """Return how long each step of a cluster's start took."""
    return await service.timeline_of(context, caller, name)


@router.get("/accounts/{account}/clusters/{name}/cost")
async def get_cost(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_COSTS_READ)], context: ContextDep, name: str
) -> Cost:
    """Return what a cluster costs."""
    return await service.cost_of(context, caller, name)


@router.post("/accounts/{account}/cost-estimate")
async def estimate_cost(
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_COSTS_READ)], context: ContextDep, wish: ClusterCreate
) -> CostEstimate:
    """Return what such a cluster would cost per hour."""
    return await service.estimate_of(context, caller, wish)
