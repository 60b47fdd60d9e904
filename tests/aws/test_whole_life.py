"""A cloud account lives under enforcement with the policy that Ropewalk prints, and misses each action left out.

Life is: prepare, launch, watch, logs, stop, teardown. That the check names each missing action before is proven in
``test_check.py``; here its sentence is compared with what then happens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ropewalk.backends.aws.backend import AwsBackend
from ropewalk.backends.port import Answer, LaunchResult, NodeHandle, Sighting
from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.aws import AwsPeering, AwsSettings
from ropewalk.schemas.aws_permissions import BY_ACTION, PERMISSIONS, Feature, Permission, Phase
from ropewalk.schemas.aws_policy import policy
from tests.aws.building import PLACE, Builder, building, inventory
from tests.conformance import harness
from tests.support import aws_world
from tests.support.ministack import ACCOUNT, REGION, Double
from tests.support.waiting import eventually
from tests.unit.test_aws_permissions import PAGE

PEER_CIDR = "10.88.0.0/16"
PRIVATE_ONLY = {"ec2:DescribeAddresses", "ec2:DeleteNatGateway", "ec2:ReleaseAddress"}
PEERING_ONLY = {"ec2:AcceptVpcPeeringConnection", "ec2:DeleteVpcPeeringConnection"}
NEVER_DENIED = {"sts:GetCallerIdentity"}
SELDOM = {
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteRoute",
    "ec2:DisassociateRouteTable",
    "ecr:BatchDeleteImage",
    "ecr:ListImages",
    "iam:DeleteRolePolicy",
    "iam:DeleteServiceLinkedRole",
    "iam:GetServiceLinkedRoleDeletionStatus",
    "iam:ListRolePolicies",
}
"""Removals that are only used in special cases."""


def lived() -> list[str]:
    """Return the actions that a life needs: required ones, and those that remove what it made."""
    found = [item for item in PERMISSIONS if item.required or item.phases == (Phase.TEARDOWN,)]
    useless = NEVER_DENIED | SELDOM
    return [item.action for item in found if set(item.phases) != {Phase.IMAGES} and item.action not in useless]


def feature_of(permission: Permission) -> Feature | None:
    """Return what has to be switched on for an action to be used at all."""
    if permission.action in PRIVATE_ONLY:
        return Feature.PRIVATE
    return Feature.PEERING if permission.action in PEERING_ONLY else permission.feature


def settings_for(aws: Double, feature: Feature | None) -> AwsSettings:
    changes: dict[str, Any] = {"log_retention_days": 7, "private_subnets": feature is Feature.PRIVATE}
    if feature is Feature.PEERING:
        peer = aws.client("ec2").create_vpc(CidrBlock=PEER_CIDR)["Vpc"]["VpcId"]
        changes["peering"] = [AwsPeering(vpc_id=peer, cidr=PEER_CIDR, region=None, owner_id=None)]
    return aws_world.settings(**changes)


class Life:
    """A cloud account from its preparation to its end; remembers which step failed with what."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.failed: dict[str, BackendError] = {}

    async def step(self, name: str, work: Callable[[], Awaitable[object]]) -> bool:
        try:
            await work()
        except BackendError as exc:
            self.failed[name] = exc
            return False
        return True

    async def live(self) -> None:
        """Go through all steps; one that fails is noted, and what needs it left out."""
        self.builder.double.set(nat_available_after=0.0)
        if await self.step("prepare", self.builder.persist):
            async with self.backend() as backend:
                await self.run(backend)
        await self.step("teardown", self.builder.persist_teardown)

    async def run(self, backend: AwsBackend) -> None:
        started: list[LaunchResult] = []

        async def launch() -> None:
            started.extend(await backend.launch(harness.request("s", cluster=PLACE.cloud_account)))
            if started[0].error:
                raise started[0].error

        scheduler = harness.handle("s", PLACE.cloud_account)
        if not await self.step("launch", launch):
            return
        await self.step("observe", lambda: self.address(backend, scheduler))
        await self.step("inventory", backend.inventory)
        await self.step("logs", lambda: self.logs(backend, started[0].cloud_id or ""))
        if await self.step("stop", lambda: backend.stop([scheduler])):
            await self.step("gone", lambda: harness.until(backend, scheduler, Answer.GONE))

    async def address(self, backend: AwsBackend, scheduler: NodeHandle) -> None:
        """Wait for the scheduler's address; what keeps it unknown is told as the reason."""

        async def told() -> Sighting | None:
            seen = (await backend.observe([scheduler])).sightings[scheduler.name]
            return seen if seen.address or "may not use" in (seen.reason or "") else None

        seen = await eventually(told)
        if not seen.address:
            raise FixItError(str(seen.reason))

    async def logs(self, backend: AwsBackend, arn: str) -> None:
        group = self.builder.infrastructure.log_group
        stream = f"ropewalk/node/{arn.rpartition('/')[2]}"
        logs = self.builder.double.client("logs")
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        event = {"timestamp": int(time.time() * 1000), "message": "hello"}
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])

        async def read() -> str:
            return (await backend.logs(harness.handle("s", PLACE.cloud_account))).text

        assert await eventually(read) == "hello\n"

    async def touch(self, phases: Sequence[Phase], rights: Sequence[str]) -> None:
        """Go through some phases only, each on its own, with all rights for what has to be there before."""
        self.builder.double.set(nat_available_after=0.0)
        if Phase.SETUP in phases:
            await self.step("prepare", self.builder.persist)
        self.builder.double.set_policy(None)
        await self.builder.persist()
        self.builder.double.set_policy(rights)
        if {Phase.RUN, Phase.LOGS} & set(phases):
            async with self.backend() as backend:
                await self.run(backend)
        if Phase.TEARDOWN in phases:
            await self.touch_teardown(rights)

    async def touch_teardown(self, rights: Sequence[str]) -> None:
        """Remove what a cluster left, too."""
        self.builder.double.set_policy(None)
        async with self.backend() as backend:
            results = await backend.launch(harness.request("s2", cluster=PLACE.cloud_account))
            assert results[0].error is None
        self.builder.double.set_policy(rights)
        await self.step("teardown", self.builder.persist_teardown)

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[AwsBackend]:
        builder = self.builder
        backend = AwsBackend(
            builder.place,
            builder.settings,
            builder.credentials,
            builder.resources,
            endpoint_url=builder.double.endpoint,
            grace=0.0,
        )
        try:
            yield backend
        finally:
            await backend.close()

    def naming(self, action: str) -> list[str]:
        """Return the steps that failed and said so."""
        return [step for step, error in self.failed.items() if action in f"{error} {error.details}"]


@pytest.mark.parametrize("feature", [None, Feature.PRIVATE, Feature.PEERING])
@pytest.mark.parametrize("scoped", [False, True], ids=["plain", "scoped"])
async def test_the_printed_policy_is_enough_and_nothing_is_left(
    aws: Double, feature: Feature | None, scoped: bool
) -> None:
    settings = settings_for(aws, feature)
    before = inventory(aws)
    async with building(aws, policy(scoped=scoped, region=REGION, account=ACCOUNT), settings=settings) as builder:
        life = Life(builder)
        await life.live()
    assert {step: str(error) for step, error in life.failed.items()} == {}
    assert inventory(aws) == before


@pytest.mark.parametrize("feature", [None, Feature.PRIVATE])
async def test_the_page_of_the_reference_product_is_enough_for_all_but_the_teardown(
    aws: Double, feature: Feature | None
) -> None:
    aws.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
    async with building(aws, PAGE, settings=settings_for(aws, feature)) as builder:
        life = Life(builder)
        await life.live()
    assert set(life.failed) == {"teardown"}
    assert isinstance(life.failed["teardown"], FixItError)


@pytest.mark.parametrize("action", lived())
async def test_without_an_action_that_is_needed_a_step_fails_and_names_it(aws: Double, action: str) -> None:
    permission = BY_ACTION[action]
    settings = settings_for(aws, feature_of(permission))
    rest = [each for each in BY_ACTION if each != action]
    async with building(aws, rest, settings=settings) as builder:
        life = Life(builder)
        await life.touch(permission.phases, rest)
    assert life.failed
    assert set(life.naming(action)) == set(life.failed), {step: str(error) for step, error in life.failed.items()}
    assert all(isinstance(error, FixItError) for error in life.failed.values())


@pytest.mark.parametrize("feature", [None, Feature.PRIVATE, Feature.PEERING])
async def test_without_what_is_not_needed_all_but_the_teardown_succeeds(aws: Double, feature: Feature | None) -> None:
    aws.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
    settings = settings_for(aws, feature)
    needed = [item.action for item in PERMISSIONS if item.required]
    async with building(aws, needed, settings=settings) as builder:
        life = Life(builder)
        await life.live()
    assert set(life.failed) == {"teardown"}
    assert isinstance(life.failed["teardown"], FixItError)
