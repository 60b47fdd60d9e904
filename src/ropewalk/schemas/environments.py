"""Software environments: what they are made of, their versions and builds, and what two of them differ in."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ropewalk.schemas.common import ErrorBody, Line, Schema, Slug

MAX_PACKAGES = 5000
"""Lines of one environment; the largest that people have are some hundreds."""
MAX_WHEEL = 512 * 2**20
"""Bytes of one uploaded wheel. Wheels of people's own code have kilobytes, the largest on public indexes this much."""

_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,3})?")
_NORMAL = re.compile(r"[-_.]+")
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_ENV = re.compile(r"ROPEWALK_.*|LD_PRELOAD|PYTHONHOME")
CREDENTIALS = re.compile(r"://[^/\s]*@|://[^/\s]+/t/[^/\s]+/")
"""A user name or password in an address, or a token as anaconda.org has them."""

Platform = Literal["linux/amd64", "linux/arm64"]
"""What nodes run on, as container registries call it."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
WheelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.!+-]{1,200}\.whl$")]


def normal_name(name: str) -> str:
    """Return the name of a Python package as indexes compare it (PEP 503)."""
    return _NORMAL.sub("-", name).lower()


def requirement_name(requirement: str) -> str | None:
    """Return the normal name of what a requirement asks for; None: it is none."""
    match = _REQUIREMENT.fullmatch(requirement)
    return None if match is None else normal_name(match[1])


def _requirement(value: str) -> str:
    value = value.strip()
    if value.startswith("-"):
        raise ValueError(
            f"{value[:60]!r} is an option and not a requirement: use index_url, extra_index_urls or wheels for it"
        )
    match = _REQUIREMENT.fullmatch(value)
    if match is None or (match[3] and match[3][0] not in "@=<>!~;("):
        raise ValueError(f"{value[:80]!r} is not a requirement: write it as pip takes it, for example 'pandas>=2'")
    return _without_password(value)


def _without_password(value: str) -> str:
    if CREDENTIALS.search(value):
        # Not shown: it holds a password.
        raise ValueError(
            "an address holds a user name or password, or a token: take it out, and store it as credentials instead"
        )
    return value


def covers(stored: str, url: str) -> bool:
    """Whether credentials for the address *stored* are meant for *url*: the same, or below it."""
    base = stored.rstrip("/")
    return url.rstrip("/") == base or url.startswith(base + "/")


def _index(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("the address of a package index begins with https:// or http://")
    return _without_password(value)


def _image(value: str) -> str:
    if value.split() != [value]:
        raise ValueError("the name of an image has no spaces; give one such as registry.example.com/team/dask:1")
    return value


Requirement = Annotated[Line, Field(min_length=1, max_length=1000), AfterValidator(_requirement)]
IndexUrl = Annotated[Line, Field(max_length=1000), AfterValidator(_index)]


class CondaSpec(Schema):
    """Packages from conda channels."""

    channels: Annotated[list[Annotated[Line, Field(min_length=1, max_length=500)]], Field(max_length=20)] = Field(
        default_factory=lambda: ["conda-forge"], description="Names or addresses, the first one comes first."
    )
    dependencies: Annotated[
        list[Annotated[Line, Field(min_length=1, max_length=500)]], Field(max_length=MAX_PACKAGES)
    ] = Field(default_factory=list)
    matters: Annotated[list[str], Field(max_length=MAX_PACKAGES)] = Field(
        default_factory=list,
        description="For package sync: names of what the user asked for, and of Python packages. What becomes of the "
        "others, which only came along with them, is told in the log alone.",
    )

    _no_password = field_validator("channels", "dependencies")(lambda v: [_without_password(each) for each in v])


class LocalWheel(Schema):
    """A wheel that was uploaded: people's own code."""

    filename: WheelName
    sha256: Sha256
    size: Annotated[int, Field(gt=0, le=MAX_WHEEL)]

    @property
    def name(self) -> str:
        """Normal name of the package in it."""
        return normal_name(self.filename.split("-")[0])

    @property
    def version(self) -> str:
        return self.filename.split("-")[1] if self.filename.count("-") >= 4 else ""


class EnvironmentSpec(Schema):
    """What an environment is made of. Equal ones have the same :attr:`hash`, and are built once.

    It never holds a secret: credentials of private indexes are stored apart and named here.
    """

    python: str | None = Field(None, description="Version, such as `3.12`; null: the server's own.")
    conda: CondaSpec | None = None
    pip: Annotated[list[Requirement], Field(max_length=MAX_PACKAGES)] = Field(default_factory=list)
    index_url: IndexUrl | None = Field(None, description="Package index in place of the server's usual one.")
    extra_index_urls: Annotated[list[IndexUrl], Field(max_length=20)] = Field(default_factory=list)
    credentials: Annotated[list[Slug], Field(max_length=20)] = Field(
        default_factory=list, description="Names of stored credentials of private indexes and channels."
    )
    wheels: Annotated[list[LocalWheel], Field(max_length=500)] = Field(
        default_factory=list, description="Uploaded wheels; each is installed."
    )
    container: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_image)] | None = Field(
        None, description="An image. Alone it is used as it is; with packages it is what they are put upon."
    )
    post_build: Annotated[list[Annotated[str, Field(min_length=1, max_length=10_000)]], Field(max_length=100)] = Field(
        default_factory=list, description="Commands of a shell that run after the packages are installed."
    )
    environ: dict[str, Annotated[str, Field(max_length=10_000)]] = Field(
        default_factory=dict, description="Environment variables of nodes. Every member sees them: no secrets."
    )
    exact: bool = Field(
        False, description="`pip` and `wheels` say everything: what they depend on is not added. For package sync."
    )
    droppable: Annotated[list[str], Field(max_length=MAX_PACKAGES)] = Field(
        default_factory=list,
        description="Names of packages that are left out, with a warning, where there is none for the platform.",
    )

    @field_validator("python")
    @classmethod
    def _python(cls, value: str | None) -> str | None:
        if value is not None and not _PYTHON.fullmatch(value):
            raise ValueError(f"{value[:20]!r} is no version of Python: give one such as 3.12 or 3.12.4")
        return value

    @field_validator("environ")
    @classmethod
    def _environ(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _ENV_NAME.fullmatch(name) or _RESERVED_ENV.fullmatch(name):
                raise ValueError(f"{name[:60]!r} cannot be used as the name of an environment variable")
            if "\0" in text:
                raise ValueError(f"the value of {name[:60]!r} contains a NUL character")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.pip or self.wheels or self.container or (self.conda and self.conda.dependencies)):
            raise ValueError("pip: give at least one of pip, conda, wheels and container")
        names = [wheel.name for wheel in self.wheels]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"wheels: there are two of {double}")
        return self

    @property
    def as_it_is(self) -> bool:
        """Whether it is nothing but a container image."""
        added = self.pip or self.wheels or self.post_build or (self.conda and self.conda.dependencies)
        return self.container is not None and not added

    @property
    def hash(self) -> str:
        """Hash of the canonical form: SHA-256 in hexadecimal. The order of packages does not matter, nor case."""
        value = self.model_dump(mode="json", exclude_defaults=True)
        value["pip"] = sorted({" ".join(each.split()) for each in self.pip}, key=str.lower)
        value["wheels"] = sorted((wheel.name, wheel.sha256) for wheel in self.wheels)
        value["droppable"] = sorted(set(self.droppable))
        if self.conda:
            value["conda"] = {"channels": self.conda.channels, "dependencies": sorted(self.conda.dependencies)}
            if self.conda.matters:
                value["conda"]["matters"] = sorted(self.conda.matters)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


class LockedPackage(Schema):
    """One package that a specification was resolved to."""

    name: str
    version: str
    manager: Literal["pip", "conda"] = "pip"
    hashes: list[str] = Field(default_factory=list, description="`sha256:…` of every file that will do.")
    url: str | None = Field(None, description="Where it is from, if not from an index.")
    build: str | None = Field(None, description="Build string of a conda package.")


class Difference(Schema):
    """What could not be made as it was asked for, or as it is on the user's machine."""

    name: str
    level: Literal["error", "warning"]
    here: str | None = Field(None, description="Version that was asked for.")
    there: str | None = Field(None, description="Version that there is; null: none.")
    why: str = Field(description="A sentence.")


class Lock(Schema):
    """Everything that an environment consists of on one platform; two locks with equal :attr:`hash` are the same."""

    python: str = Field(description="Version of Python: what was asked for, at least major and minor.")
    platform: Platform
    packages: list[LockedPackage]
    differences: list[Difference] = Field(default_factory=list)

    @property
    def hash(self) -> str:
        """SHA-256 of all but the differences, in hexadecimal."""
        value = self.model_dump(mode="json", exclude={"differences"})
        value["packages"].sort(key=lambda package: (package["manager"], package["name"]))
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class BuildState(StrEnum):
    """State of a build, and of a version: that of its first good build, or else of its last."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (BuildState.READY, BuildState.FAILED)


class EnvironmentBuild(Schema):
    """One version, made for one place where clusters run."""

    id: str
    environment: str
    version: int
    target: str = Field(description="`local`, or id of the cloud account whose registry has the image.")
    platform: Platform
    state: BuildState
    reason: str | None = Field(description="Why it failed, or what is tried again.")
    image: str | None = Field(None, description="Reference of the image, by digest.")
    differences: list[Difference] = Field(default_factory=list)
    reused: bool = Field(False, description="Everything was there already.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    log_size: int = Field(description="Bytes of its log so far.")
    size: int | None = Field(None, description="Bytes of what was built: on disk, or of the layers in a registry.")
    error: ErrorBody | None = Field(None, description="Why it failed, in its parts: what and why, advice, field.")


class EnvironmentVersion(Schema):
    id: str
    environment: str
    number: int
    spec: EnvironmentSpec
    spec_hash: str
    state: BuildState
    reason: str | None
    creator: str
    created_at: datetime
    packages: list[LockedPackage] = Field(description="What it was resolved to, for the place built last.")
    builds: list[EnvironmentBuild]


class Environment(Schema):
    """A name that points to the newest version that could be built."""

    id: str
    name: str
    account: str
    private: bool = Field(description="Only its creator sees and uses it.")
    managed: bool = Field(description="Made by package sync, and removed when unused.")
    creator: str
    version: int | None = Field(description="Number of the newest good version; null: none was built yet.")
    latest: int = Field(description="Number of the newest version.")
    state: BuildState = Field(description="Of the newest version.")
    reason: str | None
    created_at: datetime
    updated_at: datetime
    used_at: datetime | None = Field(None, description="When the newest cluster with it was made; null: none was.")
    clusters: list[str] = Field(default_factory=list, description="Names of clusters that live and use it.")
    size: int | None = Field(None, description="Bytes of the newest good version, where that is known.")


class EnvironmentDetail(Environment):
    build: str | None = Field(
        None, description="In the answer to a wish: id of its build for where the account's clusters run."
    )
    versions: list[EnvironmentVersion] = Field(description="Newest first.")


class EnvironmentCreate(Schema):
    """A new environment, or a new version of one."""

    name: Slug
    spec: EnvironmentSpec
    private: bool | None = Field(None, description="Null: as it is; a new one is seen by all members.")
    managed: bool = Field(False, description="For package sync.")
    platform: Platform | None = Field(
        None,
        description="What it is built for now; null: what nodes run on. For others it is when a cluster needs them.",
    )
    force_rebuild: bool = Field(False, description="Resolve and build also if nothing was changed.")


class EnvironmentDiff(Schema):
    """What the packages of two versions differ in."""

    before: int
    after: int
    added: list[LockedPackage]
    removed: list[LockedPackage]
    changed: list[tuple[LockedPackage, LockedPackage]] = Field(description="Before and after.")
    spec: dict[str, tuple[str | None, str | None]] = Field(description="Other fields that differ: before and after.")


class LogPart(Schema):
    """A piece of a build's log."""

    offset: int = Field(description="Bytes before it.")
    next: int = Field(description="Pass it to get what follows.")
    text: str
    complete: bool = Field(description="Nothing more will follow.")


class WheelsWanted(Schema):
    wheels: Annotated[list[LocalWheel], Field(max_length=500)]


class IndexCredentials(Schema):
    """Credentials of a private index: that there are some, and for what."""

    name: str
    url: str
    updated_at: datetime


class IndexCredentialsSet(Schema):
    """Credentials of a private index; stored encrypted, never returned."""

    url: IndexUrl = Field(description="Address of the index; they are sent to no other host.")
    username: Annotated[Line, Field(max_length=500)] = Field("__token__", repr=False)
    password: Annotated[str, Field(min_length=1, max_length=10_000)] = Field(repr=False)
