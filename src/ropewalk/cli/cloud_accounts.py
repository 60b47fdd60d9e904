"""``ropewalk cloud-account``: where an account's clusters run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import ask, cloud_settings, options, output, policies
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.cli.api import Session
    from ropewalk.schemas.cloud_accounts import CheckReport, CloudAccount, PreparePlan
    from ropewalk.schemas.common import Event

app = typer.Typer(no_args_is_help=True, help="Where the clusters of an account run.")
app.add_typer(cloud_settings.app, name="set")
app.add_typer(policies.app, name="policy")

Id = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="A former cloud account of the account, as `show` lists them."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; follow it with: events --follow.")]


@app.command()
def show(account: options.Account = None, id_: Id = None, as_json: options.Json = False) -> None:
    """Show an account's cloud account; credentials are never shown."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        cloud = api(calls.get_cloud_account(slug, id_))
    if as_json:
        output.dump(cloud)
    else:
        show_cloud_account(slug, cloud)


def show_cloud_account(account: str, cloud: CloudAccount) -> None:
    """Print a cloud account for people."""
    identity = cloud.identity
    pairs: list[tuple[str, object]] = [
        ("Account", account),
        ("Kind", cloud.kind),
        ("Backend", cloud.backend),
        ("State", cloud.state),
        ("Id", cloud.id),
        ("Credentials", "stored" if cloud.has_credentials else "none needed"),
        ("Identity", f"{identity.name} ({identity.owner})" if identity else None),
        ("External id", cloud.external_id),
        ("Set by", f"{cloud.set_by}, {output.when(cloud.set_at)}" if cloud.set_at else None),
        ("Monthly cost", f"{cloud.monthly_cost:.2f} USD while no cluster runs" if cloud.monthly_cost else None),
        ("Updated", cloud.updated_at),
    ]
    hidden = () if cloud.id else ("Id", "Identity", "Set by", "Monthly cost")
    output.facts([(name, value) for name, value in pairs if name not in hidden] + sorted(cloud.settings.items()))
    if cloud.resources:
        output.say("")
        rows = [[item.kind, item.id, "" if item.details.get("owned", True) else "yours"] for item in cloud.resources]
        output.table(["RESOURCE", "ID", "NOTE"], rows, empty="")
    for other in cloud.others:
        what = f"{other.resources} resources; clusters: {', '.join(other.clusters) or 'none'}"
        output.note(f"Also looked after: {other.kind} {other.id} ({other.owner or 'unknown owner'}): {what}.")
    for note in [cloud.reason, identity.warning if identity else None, *cloud.notes]:
        if note:
            output.note(f"Note: {note}")
    if cloud.last_check is not None:
        output.say("")
        _report(cloud.last_check)


@app.command()
def check(account: options.Account = None, id_: Id = None, as_json: options.Json = False) -> None:
    """Find out whether clusters can run there; changes nothing. Exit status 1 when something failed."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        report = api(calls.check_cloud_account(api.account(account), id_))
    if as_json:
        output.dump(report)
    else:
        _report(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def use(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="hosted, aws or kubernetes.")],
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Let new clusters run on the hosted cloud account, or on one whose settings and credentials are stored.

    Clusters that run stay where they are.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.cloud_accounts import SetAws, SetHosted, SetKubernetes

    models: dict[str, type[SetHosted | SetAws | SetKubernetes]]
    models = {"hosted": SetHosted, "aws": SetAws, "kubernetes": SetKubernetes}
    if kind not in models:
        raise InputError(f"There is no kind {kind!r}.", advice=f"Use one of {', '.join(models)}.", field="kind")
    with connect() as api:
        slug = api.account(account)
        cloud = api(calls.set_cloud_account(slug, ask.build(models[kind], kind=kind)))
    if as_json:
        output.dump(cloud)
    else:
        output.say(f"New clusters of {slug} run on {cloud.kind} from now on.")
        cloud_settings.next_step(cloud)


@app.command()
def prepare(
    yes: options.Yes = False,
    no_wait: NoWait = False,
    account: options.Account = None,
    id_: Id = None,
    as_json: options.Json = False,
) -> None:
    """Make what clusters need in the account's cloud, or complete it; first say what that costs.

    It goes on if this program is interrupted. Exit status 1 when a person has to do something first.
    With --json: one event a line.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.cloud_accounts import PrepareRequest

    with connect() as api:
        slug = api.account(account)
        plan = api(calls.plan_cloud_account(slug, id_))
        if not as_json:
            _plan(plan)
        ask.confirm(_question(plan), yes=yes)
        request = PrepareRequest(accept_monthly_cost=plan.monthly_cost)
        begun = api(calls.prepare_cloud_account(slug, request, id_))
        _follow_work(api, slug, begun, as_json=as_json, wait=not no_wait)


@app.command()
def teardown(
    yes: options.Yes = False,
    no_wait: NoWait = False,
    account: options.Account = None,
    id_: Id = None,
    as_json: options.Json = False,
) -> None:
    """Remove everything that Ropewalk made in the account's cloud, and nothing else.

    It goes on if this program is interrupted. Exit status 1 when a person has to do something first.
    With --json: one event a line.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        cloud = api(calls.get_cloud_account(slug, id_))
        owned = [item for item in cloud.resources if item.details.get("owned", True)]
        ask.confirm(f"Remove the {len(owned)} resources that Ropewalk made for {slug} ({cloud.kind})?", yes=yes)
        begun = api(calls.teardown_cloud_account(slug, cloud.id))
        _follow_work(api, slug, begun, as_json=as_json, wait=not no_wait)


@app.command()
def forget(
    force: Annotated[
        bool, typer.Option("--force", help="Abandon the resources and clusters that it holds, and what they cost.")
    ] = False,
    yes: options.Yes = False,
    account: options.Account = None,
    id_: Id = None,
    as_json: options.Json = False,
) -> None:
    """Delete a cloud account's credentials; refused while it holds resources or clusters."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        cloud = api(calls.get_cloud_account(slug, id_))
        if force:
            for item in cloud.resources:
                if item.details.get("owned", True):
                    output.note(f"Abandoned: {item.kind} {item.id}")
        what = "with everything that it holds" if force else "and its credentials"
        ask.confirm(f"Forget the {cloud.kind} cloud account of {slug}, {what}?", yes=yes)
        now = api(calls.forget_cloud_account(slug, cloud.id, force=force))
    if as_json:
        output.dump(now)
    else:
        output.say(f"Forgotten. New clusters of {slug} run on {now.kind} from now on.")


@app.command()
def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until no work on it is under way, or Ctrl-C.")
    ] = False,
    account: options.Account = None,
    id_: Id = None,
    as_json: options.Json = False,
) -> None:
    """Show what happened to a cloud account. With --follow and --json: one event a line."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        if follow:
            for event in api.follow_cloud_account(slug, id_):
                _event(event, as_json=as_json)
            return
        found = api(calls.list_cloud_account_events(slug, id_))
        while found and (page := api(calls.list_cloud_account_events(slug, id_, after=found[-1].id))):
            found += page
    if as_json:
        output.dump(found)
    else:
        output.events(found, empty="Nothing has happened yet.", who=True)


def _plan(plan: PreparePlan) -> None:
    rows = [[item.kind, f"{item.monthly_cost:.2f}" if item.monthly_cost else "-", item.what] for item in plan.resources]
    output.table(
        ["RESOURCE", f"{plan.currency} A MONTH", "WHAT"],
        rows,
        empty="Nothing is made there.",
        right=[f"{plan.currency} A MONTH"],
    )
    for note in plan.notes:
        output.note(note)


def _question(plan: PreparePlan) -> str:
    if plan.monthly_cost:
        return f"Make it? It costs {plan.monthly_cost:.2f} {plan.currency} a month, also while no cluster runs."
    return "Make it? It costs nothing while no cluster runs."


def _follow_work(api: Session, account: str, begun: CloudAccount, *, as_json: bool, wait: bool) -> None:
    """Show the work's events until its end; exit with 1 if it ended before it was done."""
    from ropewalk.client import calls
    from ropewalk.client.cloud_accounts import outcome

    if not wait:
        if as_json:
            output.dump(begun)
        else:
            output.say("It is under way. Follow it with: ropewalk cloud-account events --follow")
        return
    with output.waiting("Working in the cloud; Ctrl-C leaves it to the server.", quiet=as_json):
        for event in api.follow_cloud_account(account, begun.id, after=begun.last_event):
            _event(event, as_json=as_json)
    outcome(api(calls.get_cloud_account(account, begun.id)))


def _event(event: Event, *, as_json: bool) -> None:
    if as_json:
        output.dump(event, line=True)
    else:
        output.event(event)


def _report(report: CheckReport) -> None:
    output.table(
        ["CHECK", "STATUS", "FOUND"],
        [[item.name, item.status, " ".join(filter(None, (item.message, item.advice)))] for item in report.items],
        empty="Nothing was checked.",
    )
    if report.policy is not None:
        output.note("These rights are missing; add this policy to the key's user (or role):")
        output.dump(report.policy)
    output.note(f"Checked {output.when(report.checked_at)}.")
