"""``ropewalk configuration``: named templates of cluster arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ropewalk.cli import ask, options, output
from ropewalk.errors import InputError, NotFoundError

app = typer.Typer(no_args_is_help=True, help="Cluster configurations: named templates of cluster arguments.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@app.command("list")
def list_(account: options.Account = None, as_json: options.Json = False) -> None:
    """List the configurations of an account."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        found = api(calls.list_configurations(api.account(account)))
    if as_json:
        output.dump(found)
        return
    output.table(
        ["NAME", "UPDATED", "ARGUMENTS"],
        [[c.name, c.updated_at, ", ".join(f"{k}={v}" for k, v in sorted(c.spec.items()))] for c in found],
        empty="This account has no cluster configurations.",
    )


@app.command()
def show(name: Name, account: options.Account = None, as_json: options.Json = False) -> None:
    """Show a configuration."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, name = api.locate(name, account)
        found = api(calls.get_configuration(slug, name))
    if as_json:
        output.dump(found)
    else:
        output.facts(
            [
                ("Name", found.name),
                ("Account", found.account),
                ("Updated", found.updated_at),
                *sorted(found.spec.items()),
            ]
        )


@app.command("set")
def set_(
    name: Name,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT=VALUE]…", help="For example worker_memory='8 GiB'.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Read the arguments from a YAML or JSON file; - is standard input."),
    ] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Make a configuration, or replace it. Values are read as YAML: n_workers='[1, 8]'."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.clusters import ConfigurationSet

    spec = {**(_read(file) if file else {}), **_pairs(arguments or [])}
    if not spec:
        raise InputError("A configuration needs at least one argument.", advice="For example: worker_memory='8 GiB'.")
    request = ask.build(ConfigurationSet, spec=spec)
    with connect() as api:
        slug, name = api.locate(name, account)
        made = api(calls.set_configuration(slug, name, request))
    if as_json:
        output.dump(made)
    else:
        output.say(
            f"Configuration {made.account}/{made.name} is set. Use it: ropewalk.Cluster(configuration={made.name!r})"
        )


@app.command()
def delete(name: Name, account: options.Account = None, yes: options.Yes = False) -> None:
    """Delete a configuration; clusters made from it go on."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, name = api.locate(name, account)
        if not any(c.name == name for c in api(calls.list_configurations(slug))):
            raise NotFoundError(f"The account {slug} has no configuration {name!r}.", advice="See: configuration list.")
        ask.confirm(f"Delete the configuration {slug}/{name}?", yes=yes)
        api(calls.delete_configuration(slug, name))
    output.say(f"Configuration {slug}/{name} is deleted.")


def _read(file: str) -> dict[str, Any]:
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    loaded = _yaml(text, file)
    if not isinstance(loaded, dict):
        raise InputError(f"{file} does not hold arguments with values.", field="file", advice="Write: n_workers: 4")
    return loaded


def _pairs(arguments: list[str]) -> dict[str, Any]:
    pairs = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise InputError(f"{argument!r} is not ARGUMENT=VALUE.", advice="For example: worker_memory='8 GiB'.")
        pairs[name.strip()] = _yaml(value, name)
    return pairs


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
        json.dumps(value)  # YAML has dates and sets, which the API does not take
    except (yaml.YAMLError, TypeError, ValueError) as exc:
        raise InputError(f"{where} cannot be read: {' '.join(str(exc).split())}", field=where) from None
    return value
