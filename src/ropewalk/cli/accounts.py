"""``ropewalk account``: personal and team accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import ask, options, output
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.schemas.identity import Account

app = typer.Typer(no_args_is_help=True, help="Accounts: yours, and teams.")

Slug = Annotated[str, typer.Argument(metavar="ACCOUNT", show_default=False)]
CoreLimit = Annotated[
    int | None, typer.Option("--core-limit", min=0, help="Cores that all its clusters may use together.")
]


@app.command("list")
def list_(
    everyone: Annotated[bool, typer.Option("--all", help="All of the installation (operators only).")] = False,
    as_json: options.Json = False,
) -> None:
    """List the accounts that you are a member of."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        accounts = api(calls.list_accounts(everyone=everyone))
    if as_json:
        output.dump(accounts)
        return
    output.table(
        ["ACCOUNT", "KIND", "YOUR ROLE", "CORES USED", "CORE LIMIT", "CREATED"],
        [[a.slug, a.kind, a.role, a.cores_used, _limit(a), a.created_at] for a in accounts],
        right=["CORES USED", "CORE LIMIT"],
        empty="You are not a member of any account.",
    )


@app.command()
def show(
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]", show_default=False)] = None,
    as_json: options.Json = False,
) -> None:
    """Show an account; without a name, the one that is used by default."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        _show(api(calls.get_account(api.account(account))), as_json)


@app.command()
def create(account: Slug, core_limit: CoreLimit = None, as_json: options.Json = False) -> None:
    """Create a team account (operators only)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import AccountCreate

    request = ask.build(AccountCreate, slug=account, core_limit=core_limit)
    with connect() as api:
        made = api(calls.create_account(request))
    _show(made, as_json)
    output.note(f"Add its members with: ropewalk member set --account {made.slug} USERNAME")


@app.command()
def update(
    account: Slug,
    core_limit: CoreLimit = None,
    no_core_limit: Annotated[bool, typer.Option("--no-core-limit", help="Take the limit away.")] = False,
    as_json: options.Json = False,
) -> None:
    """Change an account's core limit (operators only)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import AccountUpdate

    if no_core_limit == (core_limit is not None):
        raise InputError("Say what to change.", advice="Give either --core-limit N or --no-core-limit.")
    request = ask.build(AccountUpdate, core_limit=core_limit)
    with connect() as api:
        _show(api(calls.update_account(account, request)), as_json)


@app.command()
def use(account: Slug) -> None:
    """Use an account by default from now on, here and in Python."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.client import config as client_config

    with connect() as api:
        api(calls.get_account(api.account(account)))
    path = client_config.save({"account": account})
    output.say(f"Account {account} is used by default; saved in {path}.")


def _limit(account: Account) -> object:
    return "none" if account.core_limit is None else account.core_limit


def _show(account: Account, as_json: bool) -> None:
    if as_json:
        output.dump(account)
        return
    output.facts(
        [
            ("Account", account.slug),
            ("Kind", account.kind),
            ("Your role", account.role),
            ("Cores used", account.cores_used),
            ("Core limit", _limit(account)),
            ("Created", account.created_at),
        ]
    )
