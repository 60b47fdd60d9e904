"""``ropewalk cloud-account policy``: what to allow in somebody's cloud. Works without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from ropewalk.cli import options, output
from ropewalk.errors import InputError
from ropewalk.schemas.aws_permissions import Phase

app = typer.Typer(no_args_is_help=True, help="Print the rights that Ropewalk needs in a cloud.")


@app.callback()
def _group() -> None:
    """Keep `aws` a command of its own: typer would merge a single one into the group."""


@app.command()
def aws(
    phase: Annotated[
        list[Phase] | None,
        typer.Option("--phase", help="Only what this needs; may be repeated; default: all."),
    ] = None,
    scoped: Annotated[
        bool, typer.Option("--scoped", help="Only for what carries Ropewalk's names and tags, and not for everything.")
    ] = False,
    region: Annotated[
        str | None, typer.Option("--region", help="With --scoped: only in this region; default: in all.")
    ] = None,
    aws_account: Annotated[
        str | None, typer.Option("--aws-account", metavar="ID", help="With --scoped: only in this AWS account.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the IAM policy for the key of an AWS cloud account. Needs no server."""
    from ropewalk.schemas.aws_policy import policy

    if not scoped and (region or aws_account):
        raise InputError("--region and --aws-account limit a scoped policy.", advice="Add --scoped.", field="scoped")
    output.dump(policy(phase or (), scoped=scoped, region=region or "*", account=aws_account or "*"))
    if not as_json:
        output.note("Make a managed policy of it and attach that to the IAM user whose key you set, or to the role.")
