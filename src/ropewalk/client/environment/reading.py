"""What people write: lists, requirements files, conda's ``environment.yml``; made into a specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from ropewalk.errors import InputError
from ropewalk.schemas.environment_files import (
    MAX_FILE,
    checked,
    conda_fields,
    conda_text_fields,
    requirement_fields,
)
from ropewalk.schemas.environments import EnvironmentSpec, LocalWheel, Platform

__all__ = ["Conda", "Packages", "lines", "parse_platform", "read_conda", "read_pip", "specification"]

Packages = str | Path | Sequence[str]
"""Requirements, or a file of them."""
Conda = str | Path | Sequence[str] | Mapping[str, Any]
"""Packages, the content of an ``environment.yml``, or its path."""


def specification(
    *,
    conda: Conda | None = None,
    pip: Packages | None = None,
    python: str | None = None,
    container: str | None = None,
    wheels: Sequence[LocalWheel] = (),
    post_build: str | Path | Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    index_url: str | None = None,
    extra_index_urls: Sequence[str] = (),
    credentials: Sequence[str] = (),
) -> EnvironmentSpec:
    """Return the specification that the arguments of ``create_software_environment`` describe.

    Raises:
        InputError: Says which argument is wrong, and how.
    """
    fields: dict[str, Any] = {"pip": [], "extra_index_urls": [], "python": python}
    if conda is not None:
        fields |= read_conda(conda)
    if pip is not None:
        read = read_pip(pip)
        for name in ("pip", "extra_index_urls"):
            read[name] = [*fields[name], *read[name]]
        fields |= read
    fields["python"] = python or fields["python"]
    fields["extra_index_urls"] = [*fields["extra_index_urls"], *extra_index_urls]
    fields["index_url"] = index_url or fields.get("index_url")
    given = {
        "container": container,
        "environ": dict(environ or {}),
        "credentials": list(credentials),
        "wheels": list(wheels),
    }
    fields |= {**given, "post_build": _commands(post_build)}
    return checked(fields)


def parse_platform(text: str | None) -> Platform | None:
    """Return the platform that *text* names; None: none is wanted.

    Raises:
        InputError: Nodes run on no such thing.
    """
    if text is None:
        return None
    for known in get_args(Platform):
        if text == known:
            return cast("Platform", known)
    raise InputError(
        f"{text[:60]!r} is no platform of nodes.",
        advice=f"There are {' and '.join(get_args(Platform))}.",
        field="platform",
    )


def _commands(given: str | Path | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    if isinstance(given, Path):
        return [_text(given, "post_build")]
    return [given] if isinstance(given, str) else list(given)


def read_pip(given: Packages) -> dict[str, Any]:
    """Return the fields of requirements: a list, a path, or the text of a file with several lines."""
    if isinstance(given, Path) or (isinstance(given, str) and _is_file(given, (".txt", ".in"))):
        return requirement_fields(lines(Path(given)))
    if isinstance(given, str):
        return requirement_fields(given.splitlines())
    return requirement_fields(list(given))


def lines(path: Path) -> list[str]:
    """Return the lines of a requirements file."""
    return _text(path, "pip").splitlines()


def read_conda(given: Conda) -> dict[str, Any]:
    """Return the fields of conda's packages: a list, the content of an ``environment.yml``, or its path."""
    if isinstance(given, str | Path):
        path = Path(given)
        return conda_text_fields(_text(path, "conda"), str(path))
    return conda_fields(given)


def _is_file(text: str, endings: tuple[str, ...]) -> bool:
    return "\n" not in text and text.endswith(endings)


def _text(path: Path, field: str) -> str:
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"The file {path} has more than {MAX_FILE} bytes.", field=field)
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise InputError(f"The file {path} cannot be read: {why}.", field=field) from None
