"""Making a software environment on this machine: the same versions, as far as they exist for it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ropewalk.client import calls
from ropewalk.client.environment.wheels import find_uv
from ropewalk.errors import ConflictError, FixItError, InputError

if TYPE_CHECKING:
    from ropewalk.client.http import Api
    from ropewalk.schemas.environments import EnvironmentVersion

__all__ = ["install"]


def install(api: Api, account: str, version: EnvironmentVersion, folder: Path) -> Path:
    """Make a virtual environment with the packages of a version; return its folder.

    What was asked for is resolved for this machine, with the versions of the nodes as constraints: a package that only
    one of both platforms needs is no obstacle.

    Raises:
        InputError: There is no uv, or the version holds what pip cannot install.
        ConflictError: The folder is not empty.
        FixItError: uv could not make it; its own explanation.
    """
    uv = find_uv()
    if uv is None:
        raise InputError("uv is needed to make an environment here.", advice="Install it with: pip install uv")
    if version.spec.container is not None or any(each.manager != "pip" for each in version.packages):
        raise InputError(
            "Only environments of pip packages can be made here; this one has an image or conda packages.",
            advice="Use its image with a container engine, or its environment.yml with conda.",
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConflictError(f"{folder} exists already.", advice="Choose another folder with --path, or remove it.")
    with tempfile.TemporaryDirectory(prefix="ropewalk-") as scratch:
        wheels = _fetched(api, account, version, Path(scratch))
        wanted, known = Path(scratch) / "requirements.txt", Path(scratch) / "constraints.txt"
        pins = [f"{each.name}=={each.version}" for each in version.packages if each.url is None]
        wanted.write_text("\n".join([*version.spec.pip, *wheels]) + "\n")
        known.write_text("\n".join(pins) + "\n")
        options = [*(["--no-deps"] if version.spec.exact else []), *_indexes(version)]
        _run([uv, "venv", "--no-project", "--python", str(version.spec.python), str(folder)])
        python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
        _run([uv, "pip", "install", "--python", python, "-r", str(wanted), "-c", str(known), *options])
    return folder


def _fetched(api: Api, account: str, version: EnvironmentVersion, scratch: Path) -> list[str]:
    found = []
    for wheel in version.spec.wheels:
        file = scratch / wheel.filename
        file.write_bytes(api(calls.get_wheel(account, wheel)))
        found.append(f"{wheel.name} @ {file.as_uri()}")
    return found


def _indexes(version: EnvironmentVersion) -> list[str]:
    own = [] if version.spec.index_url is None else ["--default-index", version.spec.index_url]
    return [*own, *(word for url in version.spec.extra_index_urls for word in ("--index", url))]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode != 0:
        why = done.stderr.strip()[-3000:]
        raise FixItError(
            f"The environment could not be made here: {why}",
            advice="If an index asks for credentials, put them into uv's settings or ~/.netrc.",
        )
