"""From a specification to a lock for an image: conda packages first, and then pip packages that go with them."""

from __future__ import annotations

from dataclasses import replace

from ropewalk.schemas.environments import Difference, Lock, LockedPackage, normal_name, requirement_name
from ropewalk.server.environments import resolve
from ropewalk.server.environments.builder import BuildRequest, Report
from ropewalk.server.environments.oci import conda
from ropewalk.server.environments.oci.channels import Channels
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.synced import synchronised

__all__ = ["lock"]


async def lock(request: BuildRequest, how: resolve.Resolving, channels: Channels, report: Report) -> Lock:
    """Resolve a specification; *channels* are conda's.

    Raises:
        FixItError: There is no solution.
        TryAgainError: A channel or an index does not answer.
    """
    spec = request.spec
    if spec.conda is None or not spec.conda.dependencies:
        return await resolve.resolve(request, how, report)
    platform = Platform.parse(request.target.platform)
    report.log(f"Solving {len(spec.conda.dependencies)} conda packages for {platform}")
    differences: list[Difference] = []
    if spec.exact:
        found, differences = await synchronised(spec, platform, channels, report.log)
    else:
        found = await conda.solve(spec.conda, str(spec.python), platform, channels)
    python = next(package.version for package in found if package.name == "python")
    pip = await _pip(request, how, report, found, python) if spec.pip or spec.wheels else None
    return Lock(
        python=".".join(python.split(".")[:2]),
        platform=request.target.platform,
        packages=[*found, *(pip.packages if pip else ())],
        differences=[*differences, *(pip.differences if pip else ())],
    )


async def _pip(
    request: BuildRequest, how: resolve.Resolving, report: Report, found: list[LockedPackage], python: str
) -> Lock:
    """Resolve the pip packages; what conda has already is not installed twice, in the version that it has."""
    there = {normal_name(package.name): package.version for package in found}
    wanted = request.spec.model_copy(update={"python": python, "conda": None})
    first = await resolve.resolve(replace(request, spec=wanted), how, report)
    both = {package.name: there[package.name] for package in first.packages if package.name in there}
    if any(package.version != both.get(package.name, package.version) for package in first.packages):
        names = {requirement_name(each): each for each in wanted.pip}
        pinned = [each for name, each in names.items() if name not in both]
        pinned += [f"{name}=={version}" for name, version in both.items()]
        again = wanted.model_copy(update={"pip": pinned})
        first = await resolve.resolve(replace(request, spec=again), how, report)
    kept = [package for package in first.packages if package.name not in there]
    return first.model_copy(update={"packages": kept})
