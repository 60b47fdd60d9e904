"""From a specification to a lock: which packages exactly, for one platform. uv resolves, and explains why it cannot.

Nothing is installed. Only where *build* is allowed does code of packages run: of those that there is no wheel of.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.environments import (
    Difference,
    EnvironmentSpec,
    Lock,
    LockedPackage,
    normal_name,
    requirement_name,
)
from ropewalk.server.environments import uv
from ropewalk.server.environments.builder import BuildRequest, Report

__all__ = ["Resolving", "check_usable", "explain", "lock_lines", "resolve"]

RESOLVE_SECONDS = 900.0
"""Resolving takes seconds; where packages without wheels have to be built to know what they need, minutes."""
MAX_DROPPED = 100
"""Packages that are left out; each costs one more try of some 0.2 s with a warm cache."""
WHEEL_URL = "wheel:"
"""What the address of an uploaded wheel begins with in a lock; its SHA-256 follows."""
NEEDED = ("dask", "distributed")

PLATFORMS = {"linux/amd64": "x86_64-manylinux_2_28", "linux/arm64": "aarch64-manylinux_2_28"}
"""What wheels may ask for at the most: glibc 2.28, as every distribution has that is looked after in 2025."""


@dataclass(frozen=True, slots=True)
class Resolving:
    """How to resolve."""

    cache: Path
    scratch: Path
    """Folder for files that are needed meanwhile."""
    interpreter: str | None = None
    """The Python that the packages are for; None: any of the platform, which may be another than this machine's."""
    build: bool = True
    """Whether packages without wheels may be built, which runs their code here."""


@dataclass(frozen=True, slots=True)
class _Ask:
    requirements: tuple[str, ...]
    differences: tuple[Difference, ...] = ()


async def resolve(request: BuildRequest, how: Resolving, report: Report) -> Lock:
    """Return what the specification of *request* comes to on its platform: pip packages and uploaded wheels.

    Raises:
        FixItError: There is no solution; the message is the resolver's explanation.
        TryAgainError: The index could not be reached, or the disk is full.
    """
    spec = request.spec
    python = spec.python
    if python is None:
        raise ValueError("the service says which Python a specification means")
    ask = _Ask(tuple(spec.pip))
    for _ in range(MAX_DROPPED):
        try:
            packages = await _compile(request, ask, how, report)
            break
        except FixItError as exc:
            lighter = _without_culprit(ask, spec, exc)
            if lighter is None:
                raise
            report.log(f"{lighter.differences[-1].name}: {lighter.differences[-1].why}")
            ask = lighter
    else:
        raise FixItError(f"More than {MAX_DROPPED} packages are not to be had for this platform.", field="pip")
    there = {package.name: package.version for package in packages}
    differences = [each.model_copy(update={"there": there.get(each.name)}) for each in ask.differences]
    return Lock(python=python, platform=request.target.platform, packages=packages, differences=differences)


async def _compile(request: BuildRequest, ask: _Ask, how: Resolving, report: Report) -> list[LockedPackage]:
    spec = request.spec
    options, variables = uv.index_options(spec, request.credentials)
    with tempfile.TemporaryDirectory(dir=how.scratch, prefix="resolve-") as folder:
        wanted = Path(folder) / "requirements.in"
        wheels = [f"{wheel.name} @ {request.wheels[wheel.sha256].as_uri()}" for wheel in spec.wheels]
        wanted.write_text("\n".join([*ask.requirements, *wheels]) + "\n")
        arguments = [
            *(
                "pip",
                "compile",
                str(wanted),
                "--no-header",
                "--no-annotate",
                "--generate-hashes",
                "--no-python-downloads",
            ),
            *(["--no-deps"] if spec.exact else []),
            *([] if how.build else ["--no-build"]),
            *_platform(request, how),
            *options,
        ]
        done = await uv.run_uv(
            arguments,
            cache=how.cache,
            cwd=Path(folder),
            seconds=RESOLVE_SECONDS,
            say=report.log,
            environ=variables,
        )
    if done.status != 0:
        raise explain(done, "resolved")
    by_path = {request.wheels[wheel.sha256].as_uri(): wheel.sha256 for wheel in spec.wheels}
    return parse(done.output, by_path)


def _platform(request: BuildRequest, how: Resolving) -> Sequence[str]:
    if how.interpreter is not None:
        return ("--python", how.interpreter)
    platform = PLATFORMS[request.target.platform]
    return ("--python-version", str(request.spec.python), "--python-platform", platform)


_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)")
_DIRECT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*) @ (\S+)")


def parse(text: str, wheels: dict[str, str] | None = None) -> list[LockedPackage]:
    """Read what ``uv pip compile --generate-hashes`` wrote.

    Args:
        text: Its output.
        wheels: SHA-256 of uploaded wheels by the address of their file.
    """
    packages: list[LockedPackage] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].startswith(("#", "-")):
            continue
        hashes = sorted(word.removeprefix("--hash=") for word in words if word.startswith("--hash="))
        if pinned := _PINNED.match(line):
            packages.append(LockedPackage(name=normal_name(pinned[1]), version=pinned[2], hashes=hashes))
        elif direct := _DIRECT.match(line):
            packages.append(_direct(normal_name(direct[1]), direct[2], hashes, wheels or {}))
    return sorted(packages, key=lambda package: package.name)


def _direct(name: str, url: str, hashes: list[str], wheels: dict[str, str]) -> LockedPackage:
    sha256 = wheels.get(url.partition("#")[0])
    file = url.partition("#")[0].rpartition("/")[2]
    version = file.split("-")[1] if file.endswith(".whl") and file.count("-") >= 4 else ""
    if sha256 is None:
        return LockedPackage(name=name, version=version, hashes=hashes, url=url)
    return LockedPackage(name=name, version=version, hashes=[f"sha256:{sha256}"], url=f"{WHEEL_URL}{sha256}")


def lock_lines(lock: Lock, request: BuildRequest) -> list[str]:
    """Return the pip packages of *lock* as requirements that name just these files."""
    return [_line(package, request) for package in lock.packages if package.manager == "pip"]


def _line(package: LockedPackage, request: BuildRequest) -> str:
    hashes = "".join(f" --hash={value}" for value in package.hashes)
    if package.url is None:
        return f"{package.name}=={package.version}{hashes}"
    if package.url.startswith(WHEEL_URL):
        file = request.wheels[package.url.removeprefix(WHEEL_URL)]
        return f"{package.name} @ {file.as_uri()}{hashes}"
    return f"{package.name} @ {package.url}{hashes}"


def check_usable(lock: Lock) -> None:
    """Refuse an environment that nodes cannot start in.

    Raises:
        FixItError: It has no dask or no distributed.
    """
    names = {package.name for package in lock.packages}
    if "dask-core" in names:  # what conda calls dask without all that it can use
        names.add("dask")
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise FixItError(
            f"The environment has no {' and no '.join(missing)}: nodes of a Dask cluster cannot start in it.",
            advice="Add 'dask[distributed]' to its packages, in the version that you use yourself.",
            field="pip",
        )


def explain(done: uv.Done, what: str) -> BackendError:
    """Return the error for a uv that failed: its own explanation, and what to do about it."""
    text = uv.quiet(done.errors) or f"uv ended with status {done.status} and said nothing."
    lower = text.lower()
    if "no space left" in lower or "os error 28" in lower or "disk quota" in lower:
        return TryAgainError(
            f"The server's disk is full: packages could not be {what}.",
            delay=10.0,
            advice="An operator frees space on it.",
        )
    if "401" in text or "403" in text or "missing credentials" in lower:
        return FixItError(
            f"A package index refused access, so the packages could not be {what}: {_reason(text)}",
            advice="Store credentials for it, in the browser or with `ropewalk env credentials set`, and name them in "
            "the environment.",
            field="credentials",
        )
    if "request failed" in lower or "failed to fetch" in lower or "error sending request" in lower:
        return TryAgainError(
            f"A package index could not be reached, so the packages could not be {what}: {_reason(text)}", delay=5.0
        )
    return FixItError(f"The packages could not be {what}. {_reason(text)}", advice=_advice(lower), field="pip")


def _reason(text: str) -> str:
    """Return uv's explanation without its headline, and without the names of its options."""
    _, mark, cause = text.partition("cause:")
    return " ".join((cause if mark else text.removeprefix("error:")).split())[:4000]


def _advice(lower: str) -> str:
    if "not found in the package registry" in lower:
        return "Check how the package is called; if it is on a private index, give its extra_index_urls."
    if "python>=" in lower or "python<" in lower or "requested python version" in lower:
        return "Choose a version of Python that all packages support (python=), or other versions of the packages."
    if "matching platform" in lower or "no usable wheels" in lower:
        return "Choose a version that has a wheel for this platform, or leave the package out."
    if "no version of" in lower:
        return "Ask for a version that exists; the log of the build shows what was tried."
    if "failed to build" in lower:
        return "Choose a version that has a wheel; the log has the output of its build."
    return "Loosen one of the requirements that it names: they cannot be had together."


_CULPRITS = re.compile(
    r"you require ([A-Za-z0-9._-]+)|failed to (?:build|download and build) `([A-Za-z0-9._-]+)", re.IGNORECASE
)


def _without_culprit(ask: _Ask, spec: EnvironmentSpec, error: FixItError) -> _Ask | None:
    """Return *ask* with the package loosened, then left out, that the resolver names; None: it has to be there."""
    droppable = {normal_name(name) for name in spec.droppable}
    found = (normal_name(next(filter(None, match.groups()))) for match in _CULPRITS.finditer(error.message))
    name = next((each for each in found if each in droppable), None)
    old = next((each for each in ask.requirements if requirement_name(each) == name), None)
    if name is None or old is None:
        return None
    pinned = old.partition("==")[2]
    others = tuple(each for each in ask.requirements if each != old)
    known = tuple(each for each in ask.differences if each.name != name)
    here = pinned or next((each.here for each in ask.differences if each.name == name), None)
    if pinned:
        why = f"There is no {pinned} of it for nodes; the newest one is taken."
        return replace(
            ask,
            requirements=(*others, name),
            differences=(*known, Difference(name=name, level="warning", here=here, why=why)),
        )
    why = "There is none of it for the platform of the nodes; it is left out."
    gone = Difference(name=name, level="warning", here=here, why=why)
    return replace(ask, requirements=others, differences=(*known, gone))
