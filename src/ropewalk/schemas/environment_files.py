"""What people write about packages: requirements files and conda's ``environment.yml``, read into fields.

The fields are those of :class:`~ropewalk.schemas.environments.EnvironmentSpec`. The client reads such files where they
are, the pages those that people upload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from ropewalk.errors import InputError
from ropewalk.schemas.environments import EnvironmentSpec

__all__ = ["MAX_FILE", "checked", "conda_fields", "conda_text_fields", "requirement_fields"]

MAX_FILE = 1024 * 1024
"""Bytes of a file that is read; those that people write have a few kilobytes."""


def checked(fields: Mapping[str, Any]) -> EnvironmentSpec:
    """Return the specification of *fields*.

    Raises:
        InputError: Says which field is wrong, and how.
    """
    try:
        return EnvironmentSpec.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
    problem = first["msg"].removeprefix("Value error, ")
    field = ".".join(map(str, first["loc"])) or problem.partition(":")[0]
    raise InputError(f"The software environment is wrong at {field}: {problem}.", field=field)


def requirement_fields(given: Sequence[str]) -> dict[str, Any]:
    """Read the lines of a requirements file, with the options that say where packages are from."""
    found: dict[str, Any] = {"pip": [], "extra_index_urls": []}
    joined = "\n".join(given).replace("\\\n", " ")
    for line in (each.partition(" #")[0].strip() for each in joined.splitlines()):
        if not line or line.startswith("#"):
            continue
        if not line.startswith("-"):
            # Hashes say less than a lock does, which has those of all files.
            found["pip"].append(line.partition(" --hash")[0].strip())
            continue
        option, _, value = line.replace("=", " ", 1).partition(" ")
        if option in ("-i", "--index-url"):
            found["index_url"] = value.strip()
        elif option == "--extra-index-url":
            found["extra_index_urls"].append(value.strip())
        else:
            raise InputError(
                f"The option {option!r} of a requirements file is not known here.",
                advice="Write requirements, --index-url and --extra-index-url; local code goes in as wheels.",
                field="pip",
            )
    return found


def conda_text_fields(text: str, name: str) -> dict[str, Any]:
    """Return the fields of an ``environment.yml``; *name* is what errors call it."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InputError(f"The file {name} is not YAML: {_slip(exc)}.", field="conda") from None
    return conda_fields(value)


def _slip(exc: yaml.YAMLError) -> str:
    """Return what is wrong with a file, as the end of a sentence."""
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem and exc.problem_mark:
        return f"in line {exc.problem_mark.line + 1}, {exc.problem}"
    return "it holds characters that cannot be in one" if isinstance(exc, yaml.reader.ReaderError) else str(exc)


def conda_fields(value: Any) -> dict[str, Any]:
    """Return the fields of conda's packages: a list, or the content of an ``environment.yml``."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {"dependencies": list(value)}
    if not isinstance(value, Mapping):
        raise InputError(
            "conda is neither a list of packages nor the content of an environment.yml.",
            advice='Give {"channels": ["conda-forge"], "dependencies": ["python=3.12", "dask"]}, or a path.',
            field="conda",
        )
    unknown = sorted(set(value) - {"name", "channels", "dependencies", "prefix", "variables"})
    if unknown:
        raise InputError(f"conda has no field {unknown[0]!r}.", field=f"conda.{unknown[0]}")
    pip: list[str] = []
    packages: list[str] = []
    for item in value.get("dependencies") or []:
        if isinstance(item, Mapping) and set(item) == {"pip"}:
            pip += [str(each) for each in item["pip"] or []]
        elif isinstance(item, str):
            packages.append(item)
        else:
            raise InputError(f"{item!r} is no package.", field="conda.dependencies")
    return {**requirement_fields(pip), **_conda(value.get("channels"), packages)}


def _conda(channels: Any, packages: Sequence[str]) -> dict[str, Any]:
    python = next((_python(each) for each in packages if _conda_name(each) == "python"), None)
    others = [each for each in packages if _conda_name(each) not in ("python", "pip")]
    named = [str(each) for each in channels or ["conda-forge"] if each != "nodefaults"]
    conda = {"channels": named, "dependencies": others} if others else None
    return {"python": python, "conda": conda}


def _conda_name(package: str) -> str:
    for index, character in enumerate(package):
        if character in " =<>!~[":
            return package[:index].rpartition("::")[2].lower()
    return package.rpartition("::")[2].lower()


def _python(package: str) -> str | None:
    """Return the version of Python in ``python=3.12``; None: any will do."""
    version = package[len("python") :].strip(" =").removesuffix(".*")
    if version and not all(part.isdigit() for part in version.split(".")):
        raise InputError(
            f"{package!r} does not say one version of Python.", advice="Write python=3.12.", field="conda.dependencies"
        )
    return version or None
