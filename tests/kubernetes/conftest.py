from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kube_plane import Plane
from tests.support.kube_space import Space


@pytest.fixture
def space(plane: Plane) -> Iterator[Space]:
    """A namespace of the test's own, with what ``ropewalk kubernetes manifest`` prints in it."""
    made = Space(plane)
    yield made
    made.remove()
