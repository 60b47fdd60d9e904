"""The form of a software environment: from what is typed, or read from a file, to a wish; and back from a version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from ropewalk.errors import InputError, RopewalkError
from ropewalk.schemas.environment_files import (
    MAX_FILE,
    checked,
    conda_fields,
    conda_text_fields,
    requirement_fields,
)
from ropewalk.schemas.environments import EnvironmentCreate, EnvironmentSpec

__all__ = ["LABELS", "TEXTS", "Typed", "marked", "sentence", "shown", "wish_of", "with_file"]

LABELS = {
    "name": "Name",
    "file": "File",
    "python": "Version of Python",
    "pip": "Packages from pip",
    "channels": "Channels of conda",
    "conda": "Packages from conda",
    "container": "Image",
    "index_url": "Package index",
    "extra_index_urls": "Further package indexes",
    "credentials": "Credentials",
    "post_build": "Commands after the installation",
    "environ": "Environment variables",
    "wheels": "Uploaded wheels",
}
TEXTS = tuple(name for name in LABELS if name not in ("file", "credentials", "wheels"))
"""What is typed; the others are chosen."""

_PASSWORD = re.compile(r"(://)[^/\s]*@|(://[^/\s]+/)t/[^/\s]+/")
_WHERE = re.compile(r"^The software environment is wrong at [\w.-]+: (?:pip: |wheels: )?")


@dataclass(frozen=True)
class Typed:
    """What the form has in it."""

    texts: Mapping[str, str] = field(default_factory=dict)
    credentials: Sequence[str] = ()
    """Names of those that are ticked."""
    wheels: Sequence[str] = ()
    """SHA-256 of those that a new version keeps."""
    private: bool = False

    def text(self, name: str) -> str:
        """Return what is in a field. An address comes back without password and token: pages show no secrets."""
        return _PASSWORD.sub(lambda match: match[1] or match[2], self.texts.get(name, ""))


def shown(spec: EnvironmentSpec, name: str, *, private: bool) -> Typed:
    """Return what the form shows of a version."""
    conda = spec.conda
    texts = {
        "name": name,
        "python": spec.python or "",
        "pip": "\n".join(spec.pip),
        "channels": "" if conda is None else "\n".join(conda.channels),
        "conda": "" if conda is None else "\n".join(conda.dependencies),
        "container": spec.container or "",
        "index_url": spec.index_url or "",
        "extra_index_urls": "\n".join(spec.extra_index_urls),
        "post_build": "\n".join(spec.post_build),
        "environ": "\n".join(f"{key}={value}" for key, value in spec.environ.items()),
    }
    return Typed(texts, tuple(spec.credentials), tuple(wheel.sha256 for wheel in spec.wheels), private)


def with_file(typed: Typed, filename: str, content: bytes) -> Typed:
    """Return the form with what a requirements file or an ``environment.yml`` says added to it.

    Raises:
        InputError: It is neither, or cannot be read.
    """
    if not filename:
        raise InputError("Choose one first.", field="file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("This file is no text.", field="file") from None
    if len(content) > MAX_FILE:
        raise InputError(f"This file has more than {MAX_FILE // 2**20} MiB.", field="file")
    kind = filename.rpartition(".")[2].lower()
    if kind in ("yml", "yaml"):
        return _with_conda(typed, filename, text)
    if kind in ("txt", "in"):
        return _with(typed, pip=text.splitlines())
    raise InputError(
        f"It cannot be seen from its name what {filename[:60]!r} is.",
        advice="Call it requirements.txt, or environment.yml if it is for conda.",
        field="file",
    )


def _with_conda(typed: Typed, filename: str, text: str) -> Typed:
    try:
        fields = conda_text_fields(text, filename)
    except InputError as exc:
        raise InputError(exc.message, advice=exc.advice, field="file") from None
    conda = fields["conda"] or {"channels": [], "dependencies": []}
    typed = _with(
        typed,
        pip=fields["pip"],
        channels=conda["channels"],
        conda=conda["dependencies"],
        extra_index_urls=fields["extra_index_urls"],
    )
    single = {name: fields.get(name) or "" for name in ("python", "index_url")}
    return replace(typed, texts={**typed.texts, **{name: value for name, value in single.items() if value}})


def _with(typed: Typed, **more: Iterable[str]) -> Typed:
    """Return the form with lines added below those that there are, each once."""
    texts = dict(typed.texts)
    for name, lines in more.items():
        there = texts.get(name, "").splitlines()
        texts[name] = "\n".join([*there, *(line for line in lines if line not in there)]).strip("\n")
    return replace(typed, texts=texts)


def wish_of(typed: Typed, stored: EnvironmentSpec | None = None) -> EnvironmentCreate:
    """Return the wish that the form is.

    Args:
        typed: What is in it.
        stored: The version that it was filled with, of which everything is kept that the form does not show.

    Raises:
        InputError: Something cannot be read; names the field.
    """
    spec = checked(_fields(typed, stored))
    try:
        wish = {"name": typed.texts.get("name", "").strip(), "spec": spec, "private": typed.private}
        return EnvironmentCreate.model_validate(wish)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise InputError(f"{first['msg'].removeprefix('Value error, ')}.", field=str(first["loc"][0])) from None


def _fields(typed: Typed, stored: EnvironmentSpec | None) -> dict[str, Any]:
    fields = {} if stored is None else stored.model_dump()
    before = Typed() if stored is None else shown(stored, "", private=False)
    asked = requirement_fields(_lines(typed, "pip"))
    conda = conda_fields({"channels": _lines(typed, "channels"), "dependencies": _lines(typed, "conda")})
    fields |= {
        "pip": asked["pip"],
        "conda": conda["conda"],
        "python": _one(typed, "python") or conda["python"],
        "container": _one(typed, "container"),
        "index_url": _one(typed, "index_url") or asked.get("index_url"),
        "extra_index_urls": [*_lines(typed, "extra_index_urls"), *asked["extra_index_urls"]],
        "credentials": list(typed.credentials),
        "wheels": [wheel for wheel in (stored.wheels if stored else ()) if wheel.sha256 in typed.wheels],
    }
    # A command or a value may have several lines, which the form cannot tell from several commands.
    if _normal(typed, "post_build") != _normal(before, "post_build"):
        fields["post_build"] = _lines(typed, "post_build")
    if _normal(typed, "environ") != _normal(before, "environ"):
        fields["environ"] = dict(_pair(line) for line in _lines(typed, "environ"))
    return fields


def _normal(typed: Typed, name: str) -> str:
    return "\n".join(typed.texts.get(name, "").strip().splitlines())


def _lines(typed: Typed, name: str) -> list[str]:
    return [line.strip() for line in typed.texts.get(name, "").splitlines() if line.strip()]


def _one(typed: Typed, name: str) -> str | None:
    return typed.texts.get(name, "").strip() or None


def _pair(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals:
        # Not shown: it may be a secret that was pasted into the wrong place.
        raise InputError("A line has no value; write NAME=value.", field="environ")
    return name.strip(), value.strip()


def marked(name: str | None) -> str:
    """Return which field of the form an error is about."""
    parts = (name or "").removeprefix("spec.").split(".")
    if parts[:2] == ["conda", "channels"]:
        return "channels"
    return parts[0] if parts[0] in LABELS else "pip"


def sentence(error: RopewalkError) -> str:
    """Return an error as the form says it: by the label of its field."""
    text = _WHERE.sub("", str(error))
    return f"{LABELS[marked(error.field)]}: {text}"
