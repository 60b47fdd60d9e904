"""Sizes of Fargate and options of clusters in AWS accounts."""

from __future__ import annotations

from typing import Any

import pytest

from ropewalk.backends.aws.shapes import SIZES, Size, fit, nearest, parse_options
from ropewalk.backends.port import NodeShape
from ropewalk.errors import FixItError
from ropewalk.schemas.clusters import GIB, ClusterSpec, NodeRole


def test_the_defaults_of_a_cluster_fit() -> None:
    spec = ClusterSpec()
    for role in NodeRole:
        shape = NodeShape(getattr(spec, f"{role}_cpu"), getattr(spec, f"{role}_memory"))
        assert fit(shape, role) == Size(1024, 4096)


@pytest.mark.parametrize(
    ("cpu", "memory"),
    # First and last of each row of AWS's table "Task CPU and memory".
    [
        (0.25, 0.5),
        (0.25, 2),
        (0.5, 1),
        (0.5, 4),
        (1, 2),
        (1, 8),
        (2, 4),
        (2, 16),
        (4, 8),
        (4, 30),
        (8, 16),
        (8, 60),
        (16, 32),
        (16, 120),
    ],
)
def test_sizes_of_the_table_fit(cpu: float, memory: float) -> None:
    assert fit(NodeShape(cpu, int(memory * GIB)), NodeRole.WORKER) == Size(int(cpu * 1024), int(memory * 1024))


def test_there_are_as_many_sizes_as_in_the_table() -> None:
    assert len(SIZES) == len(set(SIZES)) == 3 + 4 + 7 + 13 + 23 + 12 + 12


def test_gigabytes_are_taken_for_what_aws_calls_so() -> None:
    assert fit(NodeShape(4, 16 * 10**9), NodeRole.WORKER) == Size(4096, 16 * 1024)


@pytest.mark.parametrize(
    ("cpu", "gib", "field", "names"),
    [
        (1, 1, "worker_memory", ["0.5 CPU with 1 GiB", "1 CPU with 2 GiB"]),
        (1, 16, "worker_memory", ["1 CPU with 8 GiB", "2 CPU with 16 GiB"]),
        (8, 18, "worker_memory", ["8 CPU with 16 GiB", "8 CPU with 20 GiB"]),
        (3, 10, "worker_cpu", ["2 CPU with 10 GiB", "4 CPU with 10 GiB"]),
        (64, 512, "worker_cpu", ["16 CPU with 120 GiB"]),
    ],
)
def test_a_size_that_there_is_not_names_the_nearest(cpu: float, gib: int, field: str, names: list[str]) -> None:
    with pytest.raises(FixItError) as caught:
        fit(NodeShape(cpu, gib * GIB), NodeRole.WORKER)
    assert caught.value.field == field
    assert [name in (caught.value.advice or "") for name in names] == [True] * len(names)


def test_what_is_nearest_is_always_a_size() -> None:
    for cpu in (1, 256, 300, 1024, 5000, 20_000):
        for memory in (1, 512, 5000, 200_000):
            found = nearest(Size(cpu, memory))
            assert found
            assert set(found) <= set(SIZES)


def test_gpus_are_refused_with_the_alternative() -> None:
    with pytest.raises(FixItError) as caught:
        fit(NodeShape(4, 16 * GIB, gpu=1), NodeRole.WORKER)
    assert caught.value.field == "worker_gpu"
    assert "kubernetes" in (caught.value.advice or "")


def test_options_are_read() -> None:
    options = parse_options({"region": "eu-west-1", "architecture": "ARM64", "ephemeral_storage": 100}, "eu-west-1")
    assert (options.architecture, options.ephemeral_storage) == ("ARM64", 100)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"colour": "blue"}, "backend_options.colour"),
        ({"architecture": "MIPS"}, "backend_options.architecture"),
        ({"ephemeral_storage": 20}, "backend_options.ephemeral_storage"),
        ({"ephemeral_storage": 201}, "backend_options.ephemeral_storage"),
        ({"region": "eu-west-2"}, "backend_options.region"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(FixItError) as caught:
        parse_options(options, "eu-west-1")
    assert caught.value.field == field
