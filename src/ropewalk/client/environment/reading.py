"""What people write: lists, requirements files, conda's ``environment.yml``; made into a specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ropewalk.errors import InputError
from ropewalk.schemas.environments import CondaSpec, EnvironmentSpec, LocalWheel

__all__ = ["Conda", "Packages", "lines", "read_conda", "read_pip", "specification"]

Packages = str | Path | Sequence[str]
"""Requirements, or a file of them."""
Conda = str | Path | Sequence[str] | Mapping[str, Any]
"""Packages, the content of an ``environment.yml``, or its path."""

MAX_FILE = 1024 * 1024
"""Bytes of a file that is read; those that people write have a few kilobytes."""


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
    try:
        return EnvironmentSpec.model_validate(fields)
    except ValidationError as exc:
        raise _wrong(exc) from None


def _wrong(exc: ValidationError) -> InputError:
    first = exc.errors(include_url=False, include_input=False)[0]
    problem = first["msg"].removeprefix("Value error, ")
    field = ".".join(map(str, first["loc"])) or problem.partition(":")[0]
    return InputError(f"The software environment is wrong at {field}: {problem}.", field=str(field))


def _commands(given: str | Path | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    if isinstance(given, Path):
        return [_text(given, "post_build")]
    return [given] if isinstance(given, str) else list(given)


def read_pip(given: Packages) -> dict[str, Any]:
    """Return the fields of requirements: a list, a path, or the text of a file with several lines."""
    if isinstance(given, Path) or (isinstance(given, str) and _is_file(given, (".txt", ".in"))):
        return _requirements(lines(Path(given)))
    if isinstance(given, str):
        return _requirements(given.splitlines())
    return _requirements(list(given))


def lines(path: Path) -> list[str]:
    """Return the lines of a requirements file."""
    return _text(path, "pip").splitlines()


def _requirements(given: Sequence[str]) -> dict[str, Any]:
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


def read_conda(given: Conda) -> dict[str, Any]:
    """Return the fields of conda's packages: a list, the content of an ``environment.yml``, or its path."""
    value: Any = given
    if isinstance(given, str | Path):
        path = Path(given)
        try:
            value = yaml.safe_load(_text(path, "conda"))
        except yaml.YAMLError as exc:
            raise InputError(f"The file {path} is not YAML: {exc}.", field="conda") from None
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {"dependencies": list(value)}
    if not isinstance(value, Mapping):
        raise InputError(
            "conda is neither a list of packages nor the content of an environment.yml.",
            advice='Give {"channels": ["conda-forge"], "dependencies": ["python=3.12", "dask"]}, or a path.',
            field="conda",
        )
    return _conda_fields(value)


def _conda_fields(value: Mapping[str, Any]) -> dict[str, Any]:
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
    fields = _requirements(pip)
    python = next((_python(each) for each in packages if _conda_name(each) == "python"), None)
    others = [each for each in packages if _conda_name(each) not in ("python", "pip")]
    channels = [str(each) for each in value.get("channels") or ["conda-forge"] if each != "nodefaults"]
    conda = CondaSpec(channels=channels, dependencies=others).model_dump() if others else None
    return {**fields, "python": python, "conda": conda}


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
