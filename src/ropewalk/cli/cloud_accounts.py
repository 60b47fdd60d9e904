"""``ropewalk cloud-account``: where an account's clusters run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import ask, options, output, policies
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.schemas.cloud_accounts import CheckReport, HostedSettings

app = typer.Typer(no_args_is_help=True, help="Where the clusters of an account run.")
set_app = typer.Typer(no_args_is_help=True, help="Change where clusters run.")
app.add_typer(set_app, name="set")
app.add_typer(policies.app, name="policy")


@app.command()
def show(account: options.Account = None, as_json: options.Json = False) -> None:
    """Show an account's cloud account; credentials are never shown."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        cloud = api(calls.get_cloud_account(slug))
    if as_json:
        output.dump(cloud)
        return
    output.facts(
        [
            ("Account", slug),
            ("Kind", cloud.kind),
            ("Backend", cloud.backend),
            ("Credentials", "stored" if cloud.has_credentials else "none needed"),
            ("Updated", cloud.updated_at),
            *((name, value) for name, value in sorted(cloud.settings.items())),
        ]
    )
    if cloud.last_check is not None:
        output.say("")
        _report(cloud.last_check)


@app.command()
def check(account: options.Account = None, as_json: options.Json = False) -> None:
    """Find out whether clusters can run there; changes nothing. Exit status 1 when something failed."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        report = api(calls.check_cloud_account(api.account(account)))
    if as_json:
        output.dump(report)
    else:
        _report(report)
    if not report.ok:
        raise typer.Exit(1)


@set_app.command()
def hosted(
    listen_host: Annotated[
        str | None, typer.Option("--listen-host", help="Address that schedulers and workers listen on.")
    ] = None,
    contact_host: Annotated[
        str | None, typer.Option("--contact-host", help="Name or address that clients use; '' for the former.")
    ] = None,
    core_hour_price: Annotated[float | None, typer.Option("--core-hour-price", help="Per CPU core and hour.")] = None,
    gib_hour_price: Annotated[float | None, typer.Option("--gib-hour-price", help="Per GiB and hour.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Three letters (ISO 4217).")] = None,
    log_retention_days: Annotated[
        float | None, typer.Option("--log-retention-days", help="How long logs of ended nodes are kept.")
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option("--isolation", help="Nodes run as a user of their account's own: auto, required or off."),
    ] = None,
    uid_base: Annotated[int | None, typer.Option("--uid-base", help="First user id for accounts.")] = None,
    uid_count: Annotated[int | None, typer.Option("--uid-count", help="How many user ids for accounts.")] = None,
    process_limit: Annotated[
        int | None, typer.Option("--process-limit", help="Processes and threads of one node at the most.")
    ] = None,
    cpu_quota: Annotated[
        bool | None,
        typer.Option("--cpu-quota/--no-cpu-quota", help="Nodes never use more than their cores, even if others idle."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Change the hosted cloud account (operators only); what is left out stays. Without options: show it."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.cloud_accounts import HostedSettings

    given = {
        "listen_host": listen_host,
        "contact_host": contact_host,
        "core_hour_price": core_hour_price,
        "gib_hour_price": gib_hour_price,
        "currency": currency,
        "log_retention_days": log_retention_days,
        "isolation": isolation,
        "uid_base": uid_base,
        "uid_count": uid_count,
        "process_limit": process_limit,
        "cpu_quota": cpu_quota,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if listen_host == "":
        raise InputError("The address to listen on is empty.", field="listen_host", advice="For example 127.0.0.1.")
    with connect() as api:
        settings = api(calls.get_hosted())
        if changes:
            merged = {**settings.model_dump(), **changes}
            merged["contact_host"] = merged["contact_host"] or None
            settings = api(calls.set_hosted(ask.build(HostedSettings, **merged)))
    _hosted(settings, as_json)


def _hosted(settings: HostedSettings, as_json: bool) -> None:
    if as_json:
        output.dump(settings)
    else:
        output.facts(settings.model_dump().items())


def _report(report: CheckReport) -> None:
    output.table(
        ["CHECK", "STATUS", "FOUND"],
        [[item.name, item.status, " ".join(filter(None, (item.message, item.advice)))] for item in report.items],
        empty="Nothing was checked.",
    )
    output.note(f"Checked {output.when(report.checked_at)}.")
