"""Which nodes Fargate can run, and which options clusters in AWS accounts have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ropewalk.backends.port import NodeShape
from ropewalk.errors import FixItError
from ropewalk.schemas.clusters import GIB, NodeRole

__all__ = ["FREE_STORAGE", "SIZES", "AwsOptions", "Size", "fit", "parse_options"]

FREE_STORAGE = 20
"""GiB of disk that every Fargate task has without asking ("Fargate task ephemeral storage" in AWS's documentation)."""

MIB = 2**20
UNITS_PER_CPU = 1024
"""AWS counts CPUs in units of 1/1024."""


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A size that Fargate offers: CPU units (1024 a core) and MiB of memory."""

    cpu: int
    memory: int

    def __str__(self) -> str:
        return f"{self.cpu / UNITS_PER_CPU:g} CPU with {self.memory / 1024:g} GiB"


def _sizes() -> tuple[Size, ...]:
    # "Task CPU and memory" in "Amazon ECS task definition parameters for Fargate": CPU units, then GiB from, to, step.
    rows = ((512, 1, 4, 1), (1024, 2, 8, 1), (2048, 4, 16, 1), (4096, 8, 30, 1), (8192, 16, 60, 4), (16384, 32, 120, 8))
    smallest = [Size(256, memory) for memory in (512, 1024, 2048)]
    others = [Size(cpu, gib * 1024) for cpu, least, most, step in rows for gib in range(least, most + 1, step)]
    return (*smallest, *others)


SIZES = _sizes()
"""Every size, smallest CPU first."""


def fit(shape: NodeShape, role: NodeRole) -> Size:
    """Return the size that *shape* means.

    AWS says GB where it means GiB, and so do people: ``"16 GB"`` is taken for 16 GiB.

    Raises:
        FixItError: Fargate has no such size; names the nearest ones.
    """
    if shape.gpu:
        raise FixItError(
            "Fargate has no GPUs.",
            field=f"{role}_gpu",
            advice=f"Leave {role}_gpu out, or use a cloud account of kind kubernetes whose nodes have GPUs.",
        )
    size = Size(round(shape.cpu * UNITS_PER_CPU), _mebibytes(shape.memory))
    if size in SIZES:
        return size
    cpus = {each.cpu for each in SIZES}
    field = "memory" if size.cpu in cpus else "cpu"
    raise FixItError(
        f"Fargate has no {role} with {shape.cpu:g} CPU and {shape.memory / GIB:.4g} GiB of memory.",
        field=f"{role}_{field}",
        advice=f"The nearest sizes are: {'; '.join(map(str, nearest(size)))}.",
        details={"nearest": [{"cpu": s.cpu / UNITS_PER_CPU, "memory": s.memory * MIB} for s in nearest(size)]},
    )


def nearest(size: Size) -> list[Size]:
    """Return the next size that holds all that *size* asks for, and the largest that asks for no more of anything."""
    above = [each for each in SIZES if each.cpu >= size.cpu and each.memory >= size.memory]
    below = [each for each in SIZES if each.cpu <= size.cpu and each.memory <= size.memory]
    found = [max(below)] if below else []
    found += [min(above)] if above else []
    return found or [min(SIZES, key=lambda each: abs(each.memory - size.memory) + abs(each.cpu - size.cpu))]


def _mebibytes(memory: int) -> int:
    decimal, rest = divmod(memory, 10**9)
    return decimal * 1024 if not rest else -(-memory // MIB)


class AwsOptions(BaseModel):
    """What `backend_options` of a cluster in an AWS account may say."""

    model_config = ConfigDict(extra="forbid")

    region: str | None = Field(None, description="Only to make sure of it: the region of the cloud account.")
    architecture: Literal["X86_64", "ARM64"] | None = Field(
        None, description="Of the processors, and so of the image; null: that of the cloud account."
    )
    ephemeral_storage: Annotated[int, Field(ge=FREE_STORAGE + 1, le=200)] | None = Field(
        None, description="GiB of disk of every node, 21 to 200; null: the 20 that are free."
    )


def parse_options(options: Mapping[str, Any], region: str) -> AwsOptions:
    """Read `backend_options`.

    Raises:
        FixItError: one of them is unknown or wrong; names it.
    """
    try:
        parsed = AwsOptions.model_validate(dict(options))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        name = str(first["loc"][0])[:60]
        if first["type"] == "extra_forbidden":
            known = ", ".join(AwsOptions.model_fields)
            raise _wrong(
                name, f"Clusters in AWS accounts have no backend option {name!r}.", f"There are: {known}."
            ) from None
        raise _wrong(name, f"The backend option {name} is wrong: {first['msg']}.", None) from None
    if parsed.region not in (None, region):
        raise _wrong(
            "region",
            f"This cloud account is in the region {region}, not in {parsed.region[:30] if parsed.region else ''}.",
            "Leave region out, or give the cloud account the other region with `ropewalk cloud-account set aws`.",
        )
    return parsed


def _wrong(name: str, message: str, advice: str | None) -> FixItError:
    return FixItError(message, field=f"backend_options.{name}", advice=advice)
