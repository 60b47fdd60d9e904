"""The printed policies are enough for what they are printed for; AWS enforces them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.aws_permissions import Phase
from ropewalk.schemas.aws_policy import policy
from tests.aws.building import Builder, building, inventory, shape
from tests.aws.test_prepare import COMPLETE
from tests.support.ministack import ACCOUNT, REGION, Double

PRIVATE = AwsSettings(region=REGION, private_subnets=True)
SCOPED = policy(scoped=True, region=REGION, account=ACCOUNT)


@pytest.fixture
async def scoped(aws: Double) -> AsyncIterator[Builder]:
    async with building(aws, SCOPED) as made:
        yield made


async def test_rights_to_our_names_and_tags_are_enough_to_prepare_and_to_leave_nothing(scoped: Builder) -> None:
    before = inventory(scoped.double)
    await scoped.run(scoped.prepare())
    scoped.infrastructure.require()
    assert shape(inventory(scoped.double) - before) == COMPLETE
    assert scoped.notes() == []
    await scoped.run(scoped.teardown())
    assert inventory(scoped.double) == before


async def test_they_are_enough_for_private_subnets(scoped: Builder) -> None:
    scoped.settings = PRIVATE
    before = inventory(scoped.double)
    await scoped.run(scoped.prepare())
    scoped.infrastructure.require()
    await scoped.run(scoped.teardown())
    assert inventory(scoped.double) == before


async def test_the_policy_of_setup_is_enough_to_prepare_and_not_to_tear_down(aws: Double) -> None:
    async with building(aws, policy([Phase.SETUP])) as builder:
        await builder.run(builder.prepare())
        builder.infrastructure.require()
        with pytest.raises(FixItError, match="may not use"):
            await builder.run(builder.teardown())


async def test_the_policies_of_setup_and_teardown_are_enough_to_leave_nothing(aws: Double) -> None:
    async with building(aws, policy([Phase.SETUP, Phase.TEARDOWN])) as builder:
        before = inventory(aws)
        await builder.run(builder.prepare())
        await builder.run(builder.teardown())
        assert inventory(aws) == before
