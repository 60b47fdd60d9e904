"""What launching needs to know of the infrastructure, read from the settings and the stored resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ropewalk.backends.port import Resource
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["PREPARE", "Infrastructure", "owned"]

PREPARE = "Run `ropewalk cloud-account prepare`."

_OF_THE_TEAM = {
    "vpc": "vpc_id",
    "subnet": "subnet_ids",
    "security_group": "security_group_id",
    "ecs_cluster": "ecs_cluster",
    "execution_role": "execution_role_arn",
    "task_role": "task_role_arn",
    "repository": "repository",
    "log_group": "log_group",
}
"""Which setting names a thing of the team's own, for each kind that launching needs."""


def owned(resource: Resource) -> bool:
    """Whether Ropewalk made it."""
    return resource.details.get("owned") is not False


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """A frozen view. Properties raise FixItError when what they return was not prepared yet.

    Where a setting names something of the team's own, that is used; what was made before, and is not removed yet, is
    not.
    """

    settings: AwsSettings
    resources: Sequence[Resource]

    @property
    def subnet_ids(self) -> list[str]:
        """Subnets for nodes, one in each zone."""
        if len(found := self._subnets()) < 2:
            raise self._incomplete()
        return [subnet.id for subnet in found]

    @property
    def public(self) -> bool:
        """Whether nodes get public addresses."""
        return not self.settings.private_subnets and all(subnet.details.get("public") for subnet in self._subnets())

    @property
    def security_group_id(self) -> str:
        return self._one("security_group").id

    @property
    def cluster_arn(self) -> str:
        """ARN of the ECS cluster."""
        return self._one("ecs_cluster").id

    @property
    def spot(self) -> bool:
        """Whether the ECS cluster runs tasks on Fargate Spot."""
        return "FARGATE_SPOT" in self._one("ecs_cluster").details.get("capacity_providers", ("FARGATE_SPOT",))

    @property
    def execution_role_arn(self) -> str:
        return self._one("execution_role").id

    @property
    def task_role_arn(self) -> str:
        return self._one("task_role").id

    @property
    def repository(self) -> str:
        """URI of the ECR repository, without a tag."""
        return self._one("repository").id

    @property
    def repository_name(self) -> str:
        """Name of the ECR repository, as ECR's API wants it."""
        return str(self._one("repository").details["name"])

    @property
    def log_group(self) -> str:
        return self._one("log_group").id

    def missing(self) -> list[str]:
        """Return the kinds of which something is missing; empty when clusters can run."""
        kinds = [kind for kind in _OF_THE_TEAM if kind != "subnet" and not self._all(kind)]
        return kinds + (["subnet"] if len(self._subnets()) < 2 else [])

    def require(self) -> None:
        """Raise FixItError unless everything is there."""
        if self.missing():
            raise self._incomplete()

    def _all(self, kind: str) -> list[Resource]:
        of_the_team = bool(getattr(self.settings, _OF_THE_TEAM[kind]))
        if kind == "vpc":
            of_the_team = bool(self.settings.vpc_id or self.settings.subnet_ids)
        return [
            resource
            for resource in self.resources
            if resource.kind == kind and owned(resource) is not of_the_team and not _superfluous(resource)
        ]

    def _one(self, kind: str) -> Resource:
        found = self._all(kind)
        if kind == "security_group":
            vpcs = [None, *(vpc.id for vpc in self._all("vpc"))]
            found = [group for group in found if group.details.get("vpc_id") in vpcs]
        if found:
            return found[0]
        raise self._incomplete()

    def _subnets(self) -> list[Resource]:
        found = self._all("subnet")
        if not self.settings.subnet_ids:
            wanted = not self.settings.private_subnets
            found = [subnet for subnet in found if bool(subnet.details.get("public")) is wanted]
        return sorted(found, key=lambda subnet: (str(subnet.details.get("zone")), subnet.id))

    def _incomplete(self) -> FixItError:
        names = ", ".join(_spoken(self.missing()))
        return FixItError(f"The cloud account is not prepared: {names} missing.", advice=PREPARE)


def _superfluous(resource: Resource) -> bool:
    """Whether there is another one in its place, or nothing any more."""
    return resource.gone or bool(resource.details.get("extra"))


def _spoken(kinds: Sequence[str]) -> Iterator[str]:
    for kind in kinds:
        yield {"ecs_cluster": "ECS cluster", "vpc": "VPC", "subnet": "subnets"}.get(kind, kind.replace("_", " "))
