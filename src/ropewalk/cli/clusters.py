"""``ropewalk cluster``: what runs, and what to do about it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import ask, options, output, streams
from ropewalk.errors import ClusterStartError, ConflictError, InputError, NotFoundError, RopewalkError

if TYPE_CHECKING:
    from ropewalk.cli.api import Session
    from ropewalk.schemas.clusters import Cluster, ClusterDetail, Timeline

app = typer.Typer(no_args_is_help=True, help="Clusters: list, look into, scale, stop.")

POLL_SECONDS = 0.5
"""Between two looks at a cluster that is waited for; a look costs the server two small queries."""


@app.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also those that have stopped or failed.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Show at most so many, newest first.")] = 100,
    account: Annotated[
        str | None, typer.Option("--account", "-a", metavar="NAME", help="Only of this account; default: all yours.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List clusters, newest first."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = None if account is None else api.account(account)
        found = api(calls.list_clusters(slug, state="all" if all_ else "live", limit=limit))
    if as_json:
        output.dump(found)
        return
    output.table(
        ["CLUSTER", "STATE", "WORKERS", "CORES", "COST", "CREATOR", "CREATED", "REASON"],
        [_row(cluster) for cluster in found],
        right=["WORKERS", "CORES", "COST"],
        empty="There are no clusters." if all_ else "There are no live clusters; --all lists the others, too.",
    )


def _row(cluster: Cluster) -> list[object]:
    return [
        f"{cluster.account}/{cluster.name}",
        cluster.state,
        f"{cluster.workers_ready}/{cluster.n_workers}",
        cluster.cores,
        output.money(cluster.cost.so_far, cluster.cost.currency),
        cluster.creator,
        cluster.created_at,
        cluster.reason,
    ]


@app.command()
def show(
    cluster: options.ClusterName,
    timeline: Annotated[bool, typer.Option("--timeline", help="Show how long each step of its start took.")] = False,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Show a cluster and its nodes."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        place = api.locate(cluster, account)
        if timeline:
            _show_timeline(api(calls.get_timeline(*place)), as_json)
            return
        found = api(calls.get_cluster(*place))
    _show(found, as_json)


def _show_timeline(found: Timeline, as_json: bool) -> None:
    if as_json:
        output.dump(found)
        return
    output.table(
        ["STEP", "SECONDS", "TIME"],
        [[step.step, None if step.seconds is None else f"{step.seconds:.3f}", step.time] for step in found.steps],
        right=["SECONDS"],
        empty="",
    )
    if found.request_id is not None:
        output.note(f"In the server's log: request_id={found.request_id}, cluster={found.cluster}")


@app.command()
def cost(cluster: options.ClusterName, account: options.Account = None, as_json: options.Json = False) -> None:
    """Show what a cluster costs, at the operator's prices."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        found = api(calls.get_cost(*api.locate(cluster, account)))
    if as_json:
        output.dump(found)
    else:
        output.facts(
            [
                ("So far", output.money(found.so_far, found.currency)),
                ("Per hour, now", output.money(found.per_hour, found.currency)),
            ]
        )


@app.command()
def dashboard(
    cluster: options.ClusterName,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it, or only print the link.")] = True,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Open a cluster's dashboard. The link works once, within a minute."""
    import webbrowser

    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        ticket = api(calls.open_dashboard(*api.locate(cluster, account)))
    if as_json:
        output.dump(ticket)
        return
    output.say(ticket.url)
    if browser and not webbrowser.open(ticket.url):
        output.note("No browser could be started here: open the link within a minute.")


@app.command()
def scale(
    cluster: options.ClusterName,
    workers: Annotated[
        list[int], typer.Argument(metavar="N | MIN MAX", help="A number, or the least and the most.", min=0)
    ],
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Set the number of workers, or let it follow the work between two numbers.

    Workers that are taken away hand over their results first.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.clusters import ClusterScale

    request = ask.build(ClusterScale, n_workers=_workers(workers))
    with connect() as api:
        found = api(calls.scale_cluster(*api.locate(cluster, account), request))
    if as_json:
        output.dump(found)
    elif found.maximum is not None:
        output.say(f"Cluster {found.name} adapts between {found.minimum} and {found.maximum} workers.")
    else:
        output.say(f"Cluster {found.name} goes to {found.n_workers} workers; {found.workers_ready} are ready.")


def _workers(numbers: list[int]) -> int | tuple[int, int]:
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise InputError(
        f"{len(numbers)} numbers were given.", field="n_workers", advice="Give one number, or the least and the most."
    )


@app.command("keep-alive")
def keep_alive(
    cluster: options.ClusterName,
    duration: Annotated[
        str, typer.Argument(metavar="DURATION", help="As '2 hours' or seconds, or 'never'.", show_default=False)
    ],
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Set after how long without tasks a cluster stops (its idle_timeout)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.clusters import ClusterUpdate

    request = ask.build(ClusterUpdate, idle_timeout=None if duration == "never" else duration)
    with connect() as api:
        found = api(calls.update_cluster(*api.locate(cluster, account), request))
    if as_json:
        output.dump(found)
    elif found.spec.idle_timeout is None:
        output.say(f"Cluster {found.name} does not stop for being idle.")
    else:
        output.say(f"Cluster {found.name} stops after {found.spec.idle_timeout:g} seconds without tasks.")


@app.command()
def stop(
    clusters: Annotated[
        list[str],
        typer.Argument(
            metavar="CLUSTER…",
            help="Names or ids, or account/name.",
            autocompletion=options.cluster_names,
            show_default=False,
        ),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Return when everything of them is gone.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Written into the cluster's events.")] = None,
    yes: options.Yes = False,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Stop clusters. What they hold in memory is lost."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        # All are looked up first: a mistyped second name does not leave the first one stopped.
        found = [api(calls.get_cluster(*api.locate(name, account))) for name in clusters]
        live = [cluster for cluster in found if cluster.state.live]
        if live:
            ask.confirm(f"Stop {', '.join(f'{c.account}/{c.name}' for c in live)}?", yes=yes)
        stopped = [api(calls.stop_cluster(c.account, c.id, reason=reason)) if c.state.live else c for c in found]
        if wait:
            stopped = [_until_gone(api, cluster) for cluster in stopped]
    if as_json:
        output.dump(stopped)
        return
    for cluster in stopped:
        output.say(f"Cluster {cluster.account}/{cluster.name} {_ending(cluster)}.")


def _ending(cluster: ClusterDetail) -> str:
    if cluster.state.live:
        return "is stopping"
    return f"has {cluster.state}: {cluster.reason.rstrip('.')}" if cluster.reason else f"has {cluster.state}"


def _until_gone(api: Session, cluster: ClusterDetail) -> ClusterDetail:
    from ropewalk.client import calls

    shown = None
    while cluster.state.live:
        nodes = sum(node.state.live for node in cluster.nodes)
        if nodes != shown:
            those = "1 node is" if nodes == 1 else f"{nodes} nodes are"
            output.note(f"{cluster.name}: {those} still there")
            shown = nodes
        time.sleep(POLL_SECONDS)
        cluster = api(calls.get_cluster(cluster.account, cluster.id))
    return cluster


@app.command()
def create(
    name: Annotated[
        str | None, typer.Argument(metavar="[CLUSTER]", help="Its name, or account/name; default: made up.")
    ] = None,
    n_workers: Annotated[int | None, typer.Option("--n-workers", "-n", min=0, help="Number of workers.")] = None,
    adapt: Annotated[
        tuple[int, int] | None, typer.Option("--adapt", metavar="MIN MAX", help="Follow the work between these.")
    ] = None,
    configuration: Annotated[str | None, typer.Option("--configuration", help="Template to begin with.")] = None,
    worker_cpu: Annotated[float | None, typer.Option("--worker-cpu", help="Cores of a worker.")] = None,
    worker_memory: Annotated[str | None, typer.Option("--worker-memory", help="For example '4 GiB'.")] = None,
    scheduler_cpu: Annotated[float | None, typer.Option("--scheduler-cpu", help="Cores of the scheduler.")] = None,
    scheduler_memory: Annotated[str | None, typer.Option("--scheduler-memory", help="For example '4 GiB'.")] = None,
    container: Annotated[str | None, typer.Option("--container", help="Image of the nodes.")] = None,
    spot_policy: Annotated[
        str | None, typer.Option("--spot-policy", help="on-demand, spot, or spot_with_fallback; of the workers.")
    ] = None,
    idle_timeout: Annotated[
        str | None, typer.Option("--idle-timeout", help="Stop after so long without tasks, as '20 minutes'.")
    ] = None,
    cluster_timeout: Annotated[str | None, typer.Option("--cluster-timeout", help="Stop at this age.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME[=VALUE]", help="For every node; without =VALUE, as it is here."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A tag of what is made in the cloud.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is ready; Ctrl-C stops it again.")] = False,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Ask for a cluster. It belongs to nobody's program and lives until it is stopped or times out."""
    from ropewalk.cli.api import connect
    from ropewalk.schemas.clusters import ClusterCreate

    given = {
        "n_workers": adapt or n_workers,
        "configuration": configuration,
        "worker_cpu": worker_cpu,
        "worker_memory": worker_memory,
        "scheduler_cpu": scheduler_cpu,
        "scheduler_memory": scheduler_memory,
        "container": container,
        "spot_policy": spot_policy,
        "idle_timeout": idle_timeout,
        "cluster_timeout": cluster_timeout,
        "environ": dict(_env(item) for item in env) if env else None,
        "tags": dict(_tag(item) for item in tag) if tag else None,
    }
    if adapt and n_workers is not None:
        raise InputError("Both --n-workers and --adapt were given.", advice="Give one of them.", field="n_workers")
    with connect() as api:
        # A name of our own makes sure that an answer which is lost can be asked for, and undone.
        slug, label = api.locate(name or f"cluster-{secrets.token_hex(4)}", account)
        request = ask.build(ClusterCreate, name=label, **{k: v for k, v in given.items() if v is not None})
        made = _create(api, slug, request, wait=wait)
    _show(made, as_json)
    if not as_json:
        output.note(f"Use it from Python: ropewalk.Cluster(name={made.name!r}, account={made.account!r})")


def _env(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise InputError(f"There is no environment variable {name!r} here.", field="environ", advice="Give NAME=VALUE.")
    return name, os.environ[name]


def _tag(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"{item!r} is not KEY=VALUE.", field="tags", advice="For example --tag project=weather.")
    return key, value


def _create(api: Session, account: str, request: Any, *, wait: bool) -> ClusterDetail:
    from ropewalk.client import calls

    if api(calls.list_clusters(account, state="live", name=request.name)):
        raise ConflictError(
            f"The account {account} has a live cluster {request.name!r} already.",
            advice=f"Choose another name, or stop it: ropewalk cluster stop {account}/{request.name}",
            field="name",
        )
    with _undone_when_interrupted(api, account, request.name):
        made = api(calls.create_cluster(account, request, reattach=False))
        return _until_ready(api, made) if wait else made


@contextmanager
def _undone_when_interrupted(api: Session, account: str, name: str) -> Iterator[None]:
    from ropewalk.client import calls

    try:
        yield
    except KeyboardInterrupt:
        output.note(f"Interrupted: stopping the cluster {account}/{name}.")
        # Not found: the request had not arrived. Another fault: say how to stop it by hand.
        try:
            with suppress(NotFoundError):
                api(calls.stop_cluster(account, name, reason="interrupted while it was being made"))
        except RopewalkError as exc:
            output.note(f"That failed: {exc} Stop it with: ropewalk cluster stop {account}/{name}")
        raise


def _until_ready(api: Session, cluster: ClusterDetail) -> ClusterDetail:
    from ropewalk.client import calls

    seen = 0
    while True:
        for event in api(calls.list_events(cluster.account, cluster.id, after=seen)):
            seen = event.id
            output.note(f"{event.time.astimezone():%H:%M:%S}  {event.message}")
        cluster = api(calls.get_cluster(cluster.account, cluster.id))
        if cluster.state == "ready":
            return cluster
        if cluster.state not in {"pending", "starting"}:
            raise ClusterStartError(
                f"Cluster {cluster.name} did not become ready: {cluster.reason or f'it has {cluster.state}'}",
                advice=f"See: ropewalk cluster logs {cluster.account}/{cluster.id}",
            )
        time.sleep(POLL_SECONDS)


def _show(cluster: ClusterDetail, as_json: bool) -> None:
    if as_json:
        output.dump(cluster)
        return
    adapts = "" if cluster.maximum is None else f", adapts between {cluster.minimum} and {cluster.maximum}"
    output.facts(
        [
            ("Name", f"{cluster.account}/{cluster.name}"),
            ("Id", cluster.id),
            ("State", cluster.state),
            ("Reason", cluster.reason),
            ("Workers", f"{cluster.workers_ready} of {cluster.n_workers} ready{adapts}"),
            ("Size", f"{cluster.cores:g} cores, {output.size(cluster.memory)}"),
            ("Cost", _cost(cluster)),
            ("Cloud account", f"{cluster.cloud_kind} ({cluster.backend})"),
            ("Creator", cluster.creator),
            ("Created", cluster.created_at),
            ("Ready", cluster.ready_at),
            ("Stopped", cluster.stopped_at),
            ("Scheduler", cluster.scheduler_address),
            ("Dashboard", cluster.dashboard_link),
            ("Tags", ", ".join(f"{k}={v}" for k, v in sorted(cluster.tags.items()))),
        ]
    )
    if cluster.nodes:
        output.say("")
        output.table(
            ["NODE", "ROLE", "STATE", "CPU", "MEMORY", "EXIT", "CREATED", "REASON"],
            [
                [n.name, n.role, n.state, n.cpu, output.size(n.memory), n.exit_code, n.created_at, n.reason]
                for n in cluster.nodes
            ],
            right=["CPU", "MEMORY", "EXIT"],
            empty="",
        )


def _cost(cluster: Cluster) -> str:
    cost = cluster.cost
    return f"{output.money(cost.so_far, cost.currency)} so far, {output.money(cost.per_hour, cost.currency)} per hour"


app.command()(streams.logs)
app.command()(streams.events)
