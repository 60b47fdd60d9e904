from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import spawners


@pytest.fixture(scope="package", autouse=True)
def no_warm_parent_left() -> Iterator[None]:
    yield
    spawners.close_all()
