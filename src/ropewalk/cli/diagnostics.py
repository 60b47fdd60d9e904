"""``ropewalk diagnostics``: what somebody who helps needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ropewalk.cli import options, output


def register(app: typer.Typer) -> None:
    app.command()(diagnostics)


def diagnostics(
    server: Annotated[
        bool, typer.Option("--server", help="Of the server instead, for operators: loops, leases, backends.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show versions, configuration and what the server says, ready to be shared: secrets are hidden."""
    import ropewalk

    found = _of_server() if server else ropewalk.diagnostics()
    if as_json:
        output.dump(found)
    else:
        output.facts(_flat(found))


def _of_server() -> dict[str, Any]:
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        return api(calls.get_server_diagnostics()).model_dump(mode="json")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, 1):
                yield from _flat(item, f"{prefix}{name}.{item.get('name', number)}.")
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
