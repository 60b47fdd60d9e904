"""``ropewalk diagnostics``: what somebody who helps needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from ropewalk.cli import options, output


def register(app: typer.Typer) -> None:
    app.command()(diagnostics)


def diagnostics(as_json: options.Json = False) -> None:
    """Show versions, configuration and what the server says, ready to be shared: secrets are hidden."""
    import ropewalk

    found = ropewalk.diagnostics()
    if as_json:
        output.dump(found)
    else:
        output.facts(_flat(found))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
