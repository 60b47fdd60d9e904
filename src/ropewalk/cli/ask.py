"""Questions to a person, and secrets that must never be on a command line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ropewalk.cli import output
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    M = TypeVar("M", bound=BaseModel)


def interactive() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Go on only with a person's consent or ``--yes``."""
    if yes:
        return
    if not interactive():
        raise InputError(f"This needs a confirmation: {question}", advice="Add --yes to go ahead without being asked.")
    if not typer.confirm(question, err=True):
        output.note("Nothing was changed.")
        raise typer.Exit(1)


def secret(what: str, *, env: str, stdin: bool, repeat: bool = False) -> str:
    """Return a secret from standard input, the environment variable *env*, or a prompt, in this order.

    Args:
        what: What it is, for the prompt and for errors: ``Password of ada``.
        env: Name of the environment variable.
        stdin: Read one line of standard input.
        repeat: Ask twice, since it is a new one.
    """
    if stdin:
        value = sys.stdin.readline().rstrip("\r\n")
    elif env in os.environ:
        value = os.environ[env]
    elif interactive():
        value = str(typer.prompt(what, hide_input=True, confirmation_prompt=repeat, err=True))
    else:
        raise InputError(
            f"{what}: there is no terminal to ask at.", advice=f"Put it into {env}, or pipe it to standard input."
        )
    if not value:
        raise InputError(f"{what}: nothing was given.", advice=f"Type it, put it into {env}, or pipe it.")
    return value


def build(model: type[M], **fields: Any) -> M:
    """Make a request, turning what the model refuses into an error that names the option."""
    from pydantic import ValidationError

    try:
        return model(**fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"] if isinstance(part, str)) or None
        message = first["msg"].removeprefix("Value error, ")
        name = (field or "input").split(".")[-1].replace("_", " ")
        raise InputError(f"Wrong {name}: {message}.", advice=_advice(first["type"]), field=field) from None


def _advice(kind: str) -> str:
    if kind.startswith("string_too_"):
        return "Passwords have 10 characters or more; names at most 80."
    return "The command's --help says what it takes."
