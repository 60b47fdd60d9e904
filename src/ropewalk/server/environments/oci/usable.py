"""Whether an image that is used as it is can run nodes: told from the names of its files, not by running it."""

from __future__ import annotations

from dataclasses import dataclass

from ropewalk.errors import FixItError
from ropewalk.schemas.environments import Difference, LockedPackage
from ropewalk.server.environments.builder import Report
from ropewalk.server.environments.oci.base import pull
from ropewalk.server.environments.oci.blobs import Blobs
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.registry import Repository
from ropewalk.server.environments.resolve import NEEDED

__all__ = ["Seen", "look"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an image has."""

    reference: Reference
    """By digest, if it could be asked for."""
    python: str | None
    packages: list[LockedPackage]
    differences: list[Difference]


async def look(repository: Repository, platform: Platform, blobs: Blobs, report: Report) -> Seen:
    """Look into an image.

    Raises:
        FixItError: There is no such image, or nodes cannot start in it.
        TryAgainError: Its registry does not answer.
    """
    name = repository.reference
    try:
        base = await pull(repository, platform, blobs, report)
    except FixItError as error:
        if error.details.get("status") not in (401, 403):
            raise
        # Where clusters run it may well be readable: by a pull secret, or by the task's role.
        why = "Its registry lets the server not look into it, so nobody knows yet what is in it."
        report.log(f"{error.message} {why}")
        return Seen(name, None, [], [Difference(name=str(name), level="warning", why=why)])
    python = base.contents.python()
    if python is None:
        raise _unusable(name, "no python on its PATH")
    packages = base.contents.packages(python)
    missing = [each for each in NEEDED if each not in packages]
    if missing:
        raise _unusable(name, f"no {' and no '.join(missing)} for its Python {python.version}")
    found = [LockedPackage(name=each, version=version) for each, version in sorted(packages.items())]
    report.log(f"{name} has Python {python.version} and {len(found)} packages, dask {packages['dask']} among them.")
    return Seen(base.reference, python.version, found, [])


def _unusable(name: Reference, why: str) -> FixItError:
    return FixItError(
        f"Nodes cannot run in the image {name}: it has {why}.",
        advice="It needs python on its PATH with dask and distributed; or give pip=['dask[distributed]'], too.",
        field="container",
    )
