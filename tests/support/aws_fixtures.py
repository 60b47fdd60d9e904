"""Fixtures: a private double of AWS for each test process; every test starts with empty AWS accounts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import engine
from tests.support.ministack import Double, NoDoubleError, running
from tests.support.waiting import wait_until

__all__ = ["aws", "aws_double", "aws_tasks", "container_double", "container_engine"]


@pytest.fixture(scope="session")
def aws_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    """A double whose tasks run nothing: they have states and addresses, as the settings of the double say."""
    try:
        with running(tmp_path_factory.mktemp("aws-double")) as double:
            yield double
    except NoDoubleError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def container_engine() -> Iterator[engine.Engine]:
    """A container engine of this test process."""
    try:
        with engine.running() as found:
            yield found
    except engine.NoEngineError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def container_double(container_engine: engine.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    """A double whose tasks are containers; their addresses, private and public, can be reached from the test."""
    try:
        with running(tmp_path_factory.mktemp("aws-containers"), container_engine) as double:
            yield double
    except NoDoubleError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def aws(aws_double: Double) -> Double:
    """AWS with nothing in it: enforces policies and rate limits, counts calls, fails on demand."""
    aws_double.reset()
    return aws_double


@pytest.fixture
def aws_tasks(container_double: Double, container_engine: engine.Engine) -> Iterator[Double]:
    """As :func:`aws`, but tasks are real containers, of the image ``tests.support.engine.IMAGE``."""
    container_double.reset()
    yield container_double
    container_double.reset()
    # What was just being started is removed by whoever started it.
    wait_until(lambda: not container_engine.containers())
