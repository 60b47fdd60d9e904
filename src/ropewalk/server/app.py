"""The web application: everything of one server, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

from ropewalk._version import __version__
from ropewalk.schemas.common import ErrorResponse
from ropewalk.server.api import (
    accounts,
    audit,
    cloud_accounts,
    clusters,
    configurations,
    diagnostics,
    environments,
    errors,
    health,
    identity,
    images,
    invitations,
    usage,
)
from ropewalk.server.api.middleware import BodyLimit, Requests
from ropewalk.server.clock import Clock, SystemClock
from ropewalk.server.cloud_accounts import local_machine
from ropewalk.server.cloud_accounts.reconciler import CloudAccounts
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.clusters.reconciler import Reconciler
from ropewalk.server.context import Context
from ropewalk.server.datadir import make_data_dir
from ropewalk.server.db.engine import Database
from ropewalk.server.environments.reconciler import Environments
from ropewalk.server.gateway.hosts import DashboardHosts
from ropewalk.server.gateway.upstreams import Upstreams
from ropewalk.server.identity.sign_on import make_provider
from ropewalk.server.metrics import Metrics
from ropewalk.server.setup import check_schema, open_vault, prepare
from ropewalk.server.wakeups import Wakeups
from ropewalk.server.web import (
    cloud,
    cloud_aws,
    cloud_kubernetes,
    cloud_work,
    cluster_logs,
    device,
    environment_builds,
    environment_making,
    index_credentials,
    join,
    profile,
    sign_in,
    sign_on,
    static_files,
    team,
)
from ropewalk.server.web import cluster as cluster_page
from ropewalk.server.web import clusters as cluster_pages
from ropewalk.server.web import configurations as configuration_pages
from ropewalk.server.web import environments as environment_pages
from ropewalk.server.web import errors as page_errors
from ropewalk.server.web import operator as operator_pages
from ropewalk.server.web import operator_state as operator_state_pages
from ropewalk.server.web import usage as usage_pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi.routing import APIRoute

    from ropewalk.server.settings import Settings

__all__ = ["create_app"]

_ROUTERS = (
    health.router,
    identity.router,
    accounts.router,
    invitations.router,
    cloud_accounts.router,
    configurations.router,
    clusters.router,
    usage.router,
    images.router,
    environments.router,
    audit.router,
    diagnostics.router,
    static_files.router,
    sign_in.router,
    sign_on.router,
    join.router,
    device.router,
    profile.router,
    cluster_pages.router,
    cluster_page.router,
    configuration_pages.router,
    environment_pages.router,
    environment_making.router,
    environment_builds.router,
    index_credentials.router,
    usage_pages.router,
    operator_pages.router,
    operator_state_pages.router,
    cluster_logs.router,
    team.router,
    cloud.router,
    cloud_work.router,
    cloud_aws.router,
    cloud_kubernetes.router,
)

_TAGS = [
    {"name": "identity", "description": "Set-up, login, your tokens, and users."},
    {"name": "accounts", "description": "Accounts and their members."},
    {"name": "cloud accounts", "description": "Where an account's clusters run."},
    {"name": "configurations", "description": "Templates of clusters."},
    {"name": "images", "description": "Images in the registry of a cloud account."},
    {"name": "software environments", "description": "Packages of nodes: versions, builds, logs, wheels."},
    {"name": "clusters", "description": "Clusters, their events, logs and cost."},
    {"name": "audit", "description": "What was done, and by whom."},
    {"name": "health", "description": "For the machines that look after the server."},
    {"name": "api", "description": "This description."},
]

_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorResponse, "description": "Every error: a stable code, a sentence, and what to do next."}
}


def _operation_id(route: APIRoute) -> str:
    return route.name


_ROUTES = APIRouter(generate_unique_id_function=_operation_id, responses=_ERROR_RESPONSES)
"""All routes, put together once: FastAPI works out what a route takes and gives at the first request that comes near
it, which for all of them takes longer than everything else that an application does to start."""
for _router in _ROUTERS:
    _ROUTES.include_router(_router)


def create_app(
    settings: Settings, *, clock: Clock | None = None, backends: Backends | None = None, migrate_now: bool = False
) -> FastAPI:
    """Return the application; its lifespan opens the database, checks key and schema, and runs the reconciler.

    Args:
        settings: What :func:`ropewalk.server.settings.load_settings` made.
        clock: For tests.
        backends: For tests.
        migrate_now: Bring an older PostgreSQL database to this version's schema, too.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            context = await _open(
                stack,
                settings,
                clock or SystemClock(),
                backends or Backends(),
                metrics=metrics,
                migrate_now=migrate_now,
            )
            reconciler = Reconciler(context)
            await reconciler.start()
            stack.push_async_callback(reconciler.stop)
            works = CloudAccounts(context)
            await works.start()
            stack.push_async_callback(works.stop)
            environments_built = Environments(context)
            await environments_built.start()
            stack.push_async_callback(environments_built.stop)
            dashboards = Upstreams(context)
            dashboards.start()
            stack.push_async_callback(dashboards.stop)
            app.state.context, app.state.reconciler, app.state.dashboards = context, reconciler, dashboards
            app.state.cloud_accounts, app.state.environments = works, environments_built
            yield
            context.stopping.set()

    app = FastAPI(
        title="Ropewalk",
        version=__version__,
        description="A self-hosted control plane for Dask clusters.",
        lifespan=lifespan,
        middleware=[
            Middleware(DashboardHosts, settings=settings),
            Middleware(Requests, metrics=metrics, secure=settings.public_url.startswith("https://")),
            Middleware(BodyLimit),
        ],
        openapi_tags=_TAGS,
        # Served by a route of ours, which declares its permission; FastAPI's page about it would need a CDN.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=_ROUTES.routes,
    )
    errors.add_handlers(app)
    page_errors.add_handlers(app)
    return app


async def _open(
    stack: AsyncExitStack, settings: Settings, clock: Clock, backends: Backends, *, metrics: Metrics, migrate_now: bool
) -> Context:
    """Check everything that a server needs, and leave on *stack* what undoes it."""
    make_data_dir(settings)
    db = Database(settings.database_url)
    stack.push_async_callback(db.close)
    await check_schema(db, migrate_now=migrate_now)
    vault = await open_vault(settings, db, clock.now())
    backends.bind(db, settings, vault)
    stack.push_async_callback(backends.close)
    context = Context(settings, db, vault, clock, backends, Wakeups(db), metrics, make_provider(settings))
    await prepare(context)
    await local_machine.claim(context)
    await context.wakeups.start()
    stack.push_async_callback(context.wakeups.stop)
    return context
