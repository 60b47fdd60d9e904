from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.aws.building import Builder, builders, inventory
from tests.support.ministack import Double


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    async for made in builders(aws):
        yield made


async def test_one_run_makes_a_complete_set(builder: Builder) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    builder.infrastructure.require()
    print(*builder.resources, sep="\n")
    print(builder.double.calls())
    assert builder.infrastructure.public
    await builder.run(builder.teardown())
    assert builder.stored == {}
    assert inventory(builder.double) == before
