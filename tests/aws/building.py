"""Prepare and teardown as the server runs them: each resource is stored when it is yielded, and a kill is a kill."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.aws.inspection import inspect
from ropewalk.backends.aws.patience import Patience
from ropewalk.backends.aws.prepare import prepare
from ropewalk.backends.aws.teardown import teardown
from ropewalk.backends.port import Place, Resource
from ropewalk.errors import TryAgainError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus
from tests.support.ministack import ACCOUNT, REGION, Double

PLACE = Place("in-test", "ca-a2b3c4d5e6f7", "team")
OTHER_PLACE = Place("in-test", "ca-zzzzzzzzzzzz", "other-team")
CALLER = "203.0.113.7"

QUICK = Patience(first=0.02, longest=0.2)
"""Waits for the double, whose things take a fraction of a second."""


def hasty() -> Patience:
    """Return a patience whose minute takes a second: for what never comes, which is waited for to the end."""
    return Patience(sleep=lambda seconds: asyncio.sleep(seconds / 60))


class KilledError(Exception):
    """The server was killed here."""


def impatient() -> Patience:
    """Return a patience that is over at once."""

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    return Patience(sleep=sleep)


@dataclass
class Builder:
    """One cloud account on the double: its key, its settings, and what the server has stored of it."""

    double: Double
    credentials: AwsCredentials
    settings: AwsSettings = field(default_factory=lambda: AwsSettings(region=REGION))
    place: Place = PLACE
    patience: Patience = QUICK
    stored: dict[tuple[str, str], Resource] = field(default_factory=dict)
    _open: dict[str, Aws] = field(default_factory=dict)

    def aws(self, region: str | None = None) -> Aws:
        region = region or self.settings.region
        if region not in self._open:
            self._open[region] = Aws(self.credentials, region, endpoint_url=self.double.endpoint)
        return self._open[region]

    async def close(self) -> None:
        for aws in self._open.values():
            await aws.close()

    @property
    def resources(self) -> list[Resource]:
        return list(self.stored.values())

    @property
    def infrastructure(self) -> Infrastructure:
        return Infrastructure(self.settings, self.resources)

    def ids(self, kind: str) -> list[str]:
        return sorted(id_ for other, id_ in self.stored if other == kind)

    def one(self, kind: str) -> Resource:
        (found,) = [resource for resource in self.resources if resource.kind == kind]
        return found

    def notes(self) -> list[str]:
        return [str(resource.details["note"]) for resource in self.resources if resource.details.get("note")]

    def prepare(self) -> AsyncIterator[Resource]:
        return prepare(
            self.aws(),
            self.place,
            self.settings,
            self.resources,
            caller_address=CALLER,
            elsewhere=self.aws,
            patience=self.patience,
        )

    def teardown(self) -> AsyncIterator[Resource]:
        return teardown(
            self.aws(), self.place, self.settings, self.resources, elsewhere=self.aws, patience=self.patience
        )

    async def run(
        self,
        stream: AsyncIterator[Resource],
        *,
        kill_before: int | None = None,
        kill_after: int | None = None,
        kill_at: str = "",
    ) -> list[Resource]:
        """Store what the stream yields; be killed before or after the *n*-th was stored, or before one of a kind."""
        seen: list[Resource] = []
        try:
            async for resource in stream:
                seen.append(resource)
                if len(seen) - 1 == kill_before or resource.kind == kill_at:
                    raise KilledError
                self._store(resource)
                if len(seen) - 1 == kill_after:
                    raise KilledError
        finally:
            await stream.aclose()  # type: ignore[attr-defined] # it is a generator
        return seen

    def _store(self, resource: Resource) -> None:
        if resource.gone:
            self.stored.pop((resource.kind, resource.id), None)
        else:
            self.stored[resource.kind, resource.id] = resource

    async def persist(self, *, times: int = 40) -> int:
        """Prepare until nothing is to be tried again, as the server does; return how often it took."""
        for attempt in range(times):
            try:
                await self.run(self.prepare())
            except TryAgainError:
                continue
            return attempt + 1
        raise AssertionError(f"not prepared after {times} attempts")

    async def persist_teardown(self, *, times: int = 40) -> int:
        for attempt in range(times):
            try:
                await self.run(self.teardown())
            except TryAgainError:
                continue
            return attempt + 1
        raise AssertionError(f"not torn down after {times} attempts")

    async def failures(self) -> list[CheckItem]:
        found = await inspect(self.aws(), self.place, self.settings, self.resources)
        return [item for item in found if item.status in {CheckStatus.FAILED, CheckStatus.WARNING}]

    def change(self, **settings: Any) -> None:
        """Change settings, as the team would."""
        self.settings = self.settings.model_copy(update=settings)


@contextlib.asynccontextmanager
async def building(
    double: Double, policy: Mapping[str, Any] | Sequence[str] | None = None, **facts: Any
) -> AsyncIterator[Builder]:
    """Yield a builder whose key has all rights, or just those of *policy*."""
    double.set(throttle=False)  # the test's own looks would be throttled, too
    builder = Builder(double, facts.pop("credentials", None) or double.make_user(policy), **facts)
    try:
        yield builder
    finally:
        await builder.close()


def inventory(double: Double, region: str = REGION, account: str = ACCOUNT) -> set[str]:
    """Name everything in an AWS account, as its owner sees it."""
    return {*_ec2(double, region, account), *_named(double, region, account)}


def _ec2(double: Double, region: str, account: str) -> list[str]:
    ec2 = double.client("ec2", region, account)
    vpcs = [item["VpcId"] for item in ec2.describe_vpcs()["Vpcs"]]
    names = [*vpcs, *(item["SubnetId"] for item in ec2.describe_subnets()["Subnets"])]
    names += [item["InternetGatewayId"] for item in ec2.describe_internet_gateways()["InternetGateways"]]
    for table in ec2.describe_route_tables()["RouteTables"]:
        routes = sorted(str(sorted(route.items())) for route in table["Routes"])
        uses = sorted(association.get("SubnetId", "main") for association in table["Associations"])
        names.append(f"{table['RouteTableId']} {routes} {uses}")
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        names.append(f"{group['GroupId']} {group['IpPermissions']}")
    names += [item["AllocationId"] for item in ec2.describe_addresses()["Addresses"]]
    gateways = ec2.describe_nat_gateways()["NatGateways"]
    names += [item["NatGatewayId"] for item in gateways if item["State"] != "deleted"]
    peerings = ec2.describe_vpc_peering_connections()["VpcPeeringConnections"]
    names += [item["VpcPeeringConnectionId"] for item in peerings if item["Status"]["Code"] != "deleted"]
    names += [item["NetworkInterfaceId"] for item in ec2.describe_network_interfaces()["NetworkInterfaces"]]
    return names


def _named(double: Double, region: str, account: str) -> list[str]:
    def client(service: str) -> Any:
        return double.client(service, region, account)

    names: list[str] = [str(arn) for arn in client("ecs").list_clusters()["clusterArns"]]
    names += client("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
    names += client("ecs").list_task_definitions(status="INACTIVE")["taskDefinitionArns"]
    for role in client("iam").list_roles()["Roles"]:
        attached = client("iam").list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
        names.append(f"{role['Arn']} {sorted(policy['PolicyArn'] for policy in attached)}")
    names += [item["repositoryArn"] for item in client("ecr").describe_repositories()["repositories"]]
    names += [item["logGroupName"] for item in client("logs").describe_log_groups()["logGroups"]]
    return names


def shape(names: Iterable[str]) -> Counter[str]:
    """Count what is in an inventory by kind, whatever it is called."""
    return Counter(re.sub(r"^(arn:[^:]*:[^:]*|[a-z]+(?=-)|/).*", r"\1", name) for name in names)


def contents(double: Double, vpc_id: str) -> dict[str, Any]:
    """Describe a VPC as its owner sees it: with what is in it."""
    ec2 = double.client("ec2")
    inside: dict[str, Any] = {"Filters": [{"Name": "vpc-id", "Values": [vpc_id]}]}
    return {
        "subnets": ec2.describe_subnets(**inside)["Subnets"],
        "tables": ec2.describe_route_tables(**inside)["RouteTables"],
        "groups": ec2.describe_security_groups(**inside)["SecurityGroups"],
    }
