"""The functions of ``import ropewalk`` that need no Dask cluster object.

Each takes ``account=`` and names as ``account/name``. In coroutines pass ``asynchronous=True`` and await the result.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ropewalk.client import calls, config, options
from ropewalk.client.config import Login
from ropewalk.client.failure import log_steps
from ropewalk.client.http import Api, AsyncApi, Steps
from ropewalk.errors import InputError
from ropewalk.schemas.clusters import (
    Cluster,
    ClusterDetail,
    ClusterSpec,
    Configuration,
    ConfigurationSet,
    CostEstimate,
    NodeRole,
)

__all__ = [
    "account_steps",
    "cluster_cost_estimate",
    "cluster_logs",
    "create_cluster_configuration",
    "delete_cluster",
    "delete_cluster_configuration",
    "list_cluster_configurations",
    "list_clusters",
    "run",
]

T = TypeVar("T")

PAGE = 1000
"""Clusters asked for at once; the server's most."""


def run(steps: Callable[[Login], Steps[T]], asynchronous: bool) -> Any:
    """Do *steps* with the configured login, at once or, for coroutines, when awaited."""
    login = config.current_login()
    login.require_token()
    return _later(steps(login), login) if asynchronous else _now(steps(login), login)


def _now(steps: Steps[T], login: Login) -> T:
    with Api(login.server, login.token) as api:
        return api.drive(steps)


async def _later(steps: Steps[T], login: Login) -> T:
    async with AsyncApi(login.server, login.token) as api:
        return await api.drive(steps)


def account_steps(login: Login, account: str | None) -> Steps[str]:
    """Find out which account is meant: the one that is given, or else the configured or the user's own."""
    me = yield calls.me()
    return config.choose_account(me, account, login.account)


def _names(name: str, account: str | None) -> tuple[str | None, str]:
    account, rest = config.split_name(name, account)
    if rest is None:
        raise InputError("A name is needed.", advice="For example 'mine', or 'team/ours'.", field="name")
    return account, rest


def list_clusters(
    account: str | None = None, *, state: str = "live", name: str | None = None, asynchronous: bool = False
) -> list[Cluster]:
    """Return your clusters, newest first.

    Args:
        account: Only of this account; by default of all yours.
        state: ``"live"``, or ``"all"`` for those that have stopped or failed, too.
        name: Only of this name.
        asynchronous: Return an awaitable.
    """
    if state not in ("live", "all"):
        raise InputError(f"state={state!r} is not known.", advice="Use 'live' or 'all'.", field="state")
    account, name = config.split_name(name, account)

    def steps(_: Login) -> Steps[list[Cluster]]:
        if account is not None:
            config.require_account((yield calls.me()), account)
        found: list[Cluster] = []
        while True:
            before = found[-1].id if found else None
            page = yield calls.list_clusters(account, state=state, name=name, limit=PAGE, before=before)
            found += page
            if len(page) < PAGE:
                return found

    result: list[Cluster] = run(steps, asynchronous)
    return result


def delete_cluster(name: str, account: str | None = None, *, asynchronous: bool = False) -> ClusterDetail:
    """Stop a cluster. Returns at once with its present state; it has stopped when the server says so.

    Args:
        name: Name or id of the cluster.
        account: Whose it is, if the name does not say.
        asynchronous: Return an awaitable.
    """
    account, rest = _names(name, account)

    def steps(login: Login) -> Steps[ClusterDetail]:
        slug = yield from account_steps(login, account)
        stopped: ClusterDetail = yield calls.stop_cluster(slug, rest)
        return stopped

    result: ClusterDetail = run(steps, asynchronous)
    return result


def cluster_logs(
    name: str,
    account: str | None = None,
    *,
    scheduler: bool = True,
    workers: bool | Iterable[str] = True,
    asynchronous: bool = False,
) -> dict[str, str]:
    """Return the logs of a cluster's nodes by node name; also after its end.

    Args:
        name: Name or id of the cluster.
        account: Whose it is, if the name does not say.
        scheduler: Include the scheduler's.
        workers: Include all workers, none, or those of these names.
        asynchronous: Return an awaitable.
    """
    account, rest = _names(name, account)
    chosen = None if isinstance(workers, bool) else set(workers)

    def steps(login: Login) -> Steps[dict[str, str]]:
        slug = yield from account_steps(login, account)
        detail: ClusterDetail = yield calls.get_cluster(slug, rest)
        logs: dict[str, str] = {}
        for node in detail.nodes:
            wanted = bool(workers) if chosen is None else node.name in chosen
            if scheduler if node.role is NodeRole.SCHEDULER else wanted:
                logs[node.name] = yield from log_steps(slug, detail.id, node.name)
        return logs

    result: dict[str, str] = run(steps, asynchronous)
    return result


def cluster_cost_estimate(
    n_workers: int | list[int] | None = None,
    *,
    account: str | None = None,
    asynchronous: bool = False,
    **arguments: Any,
) -> str:
    """Return what such a cluster would cost, for example ``"$1.23/hr"``.

    Args:
        n_workers: How many workers, or ``[minimum, maximum]``.
        account: Whose prices count.
        asynchronous: Return an awaitable.
        **arguments: Sizes and other arguments of :class:`ropewalk.Cluster`.
    """
    account, _ = config.split_name(None, account)
    wanted = {"n_workers": n_workers, **_known(arguments, ClusterSpec, "configuration")}
    # What the configuration says counts here as it does for a cluster.
    sizes = {name: wanted.get(name, options.UNSET) for name in (*ClusterSpec.model_fields, "configuration")}
    request = options.build_request(sizes)

    def steps(login: Login) -> Steps[str]:
        slug = yield from account_steps(login, account)
        estimate: CostEstimate = yield calls.estimate_cost(slug, request)
        return estimate.text

    result: str = run(steps, asynchronous)
    return result


def _known(arguments: dict[str, Any], model: type[ClusterSpec], *others: str) -> dict[str, Any]:
    """Return *arguments*, or raise an InputError that names the first that does not exist."""
    known = [*model.model_fields, *others]
    for name in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(sorted(known))}."
            raise InputError(f"There is no argument {name!r}.", advice=advice, field=name)
    return arguments


def create_cluster_configuration(
    name: str, account: str | None = None, *, asynchronous: bool = False, **arguments: Any
) -> Configuration:
    """Save a template of cluster arguments, or replace the one of that name.

    Only what is given is kept; everything else stays at the defaults of the day when a cluster is made from it. Use it
    as ``Cluster(configuration=name)``.

    Args:
        name: What it will be called.
        account: Whose it will be, if the name does not say.
        asynchronous: Return an awaitable.
        **arguments: Arguments of :class:`ropewalk.Cluster`, for example ``worker_memory="8 GiB"``.
    """
    account, rest = _names(name, account)
    spec = options.check_spec(_known(arguments, ClusterSpec))

    def steps(login: Login) -> Steps[Configuration]:
        slug = yield from account_steps(login, account)
        saved: Configuration = yield calls.set_configuration(slug, rest, ConfigurationSet(spec=spec))
        return saved

    result: Configuration = run(steps, asynchronous)
    return result


def list_cluster_configurations(account: str | None = None, *, asynchronous: bool = False) -> list[Configuration]:
    """Return an account's cluster configurations."""
    account, _ = config.split_name(None, account)

    def steps(login: Login) -> Steps[list[Configuration]]:
        slug = yield from account_steps(login, account)
        found: list[Configuration] = yield calls.list_configurations(slug)
        return found

    result: list[Configuration] = run(steps, asynchronous)
    return result


def delete_cluster_configuration(name: str, account: str | None = None, *, asynchronous: bool = False) -> None:
    """Delete a cluster configuration. Clusters that were made from it go on."""
    account, rest = _names(name, account)

    def steps(login: Login) -> Steps[None]:
        slug = yield from account_steps(login, account)
        yield calls.delete_configuration(slug, rest)

    result: None = run(steps, asynchronous)
    return result
