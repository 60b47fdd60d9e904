"""A private double of AWS for each test process; every test starts with empty AWS accounts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ministack import Double, NoDoubleError, running


@pytest.fixture(scope="session")
def aws_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    """A double whose tasks run nothing: they have states and addresses, as the settings of the double say."""
    try:
        with running(tmp_path_factory.mktemp("aws-double")) as double:
            yield double
    except NoDoubleError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def aws(aws_double: Double) -> Double:
    """AWS with nothing in it: enforces policies and rate limits, counts calls, fails on demand."""
    aws_double.reset()
    return aws_double
