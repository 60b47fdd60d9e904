"""Arguments of a cluster: where they come from, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.config
import numpy as np
import pytest

from ropewalk.client import config
from ropewalk.client.options import (
    UNSET,
    build_request,
    check_spec,
    parse_scale,
    parse_seconds,
    parse_wait,
    random_name,
)
from ropewalk.errors import InputError
from ropewalk.schemas.clusters import ClusterDetail
from ropewalk.schemas.common import SLUG
from tests.support.client import cluster, dask_config_restored


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with dask_config_restored(), dask.config.set({"ropewalk": config.defaults()["ropewalk"]}):
        yield


def sent(**arguments: Any) -> dict[str, Any]:
    return build_request(arguments).model_dump(exclude_unset=True)


def test_what_is_not_given_is_not_sent() -> None:
    assert sent(n_workers=None, worker_cpu=None, idle_timeout=UNSET, tags=None) == {}


def test_what_is_not_given_comes_from_the_configuration() -> None:
    with dask.config.set({"ropewalk.cluster.worker_memory": "2 GiB", "ropewalk.cluster.idle-timeout": "1 hour"}):
        assert sent(worker_memory=None, idle_timeout=UNSET) == {"worker_memory": 2 * 2**30, "idle_timeout": 3600}
        assert sent(worker_memory="1 GiB", idle_timeout=60) == {"worker_memory": 2**30, "idle_timeout": 60}


def test_none_means_never_for_timeouts_and_overrides_the_configuration() -> None:
    with dask.config.set({"ropewalk.cluster.idle_timeout": "1 hour"}):
        assert sent(idle_timeout=None, cluster_timeout=None) == {"idle_timeout": None, "cluster_timeout": None}


class OfATest:
    """Stands for a worker class in an installed module."""


def test_a_worker_class_is_sent_as_its_import_path() -> None:
    assert sent(worker_class=OfATest) == {"worker_class": f"{__name__}.OfATest"}


def test_a_worker_class_of_the_program_itself_is_refused() -> None:
    with pytest.raises(InputError, match="which workers cannot import") as caught:
        build_request({"worker_class": type("Mine", (), {"__module__": "__main__"})})
    assert caught.value.field == "worker_class"


@pytest.mark.parametrize(("given", "expected"), [(3, 3), ([1, 5], (1, 5)), ((0, 2), (0, 2)), (np.int64(7), 7)])
def test_numbers_of_workers(given: Any, expected: Any) -> None:
    assert sent(n_workers=given) == {"n_workers": expected}
    assert parse_scale(given).n_workers == expected


@pytest.mark.parametrize("value", [-1, 10_001, 1.5, True, "4", [3, 1], [1], [1, 2, 3], [1, "x"], {}, [True, 2]])
def test_wrong_numbers_of_workers_are_refused(value: Any) -> None:
    for refuse in (lambda: build_request({"n_workers": value}), lambda: parse_scale(value)):
        with pytest.raises(InputError) as caught:
            refuse()
        assert caught.value.field == "n_workers"
        assert "n_workers=" in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("worker_cpu", 0),
        ("worker_cpu", 1.5),
        ("worker_cpu", float("nan")),
        ("worker_cpu", "many"),
        ("worker_memory", "4 apples"),
        ("worker_memory", 0),
        ("worker_memory", "1000 TiB"),
        ("worker_gpu", -1),
        ("worker_class", "not a path"),
        ("worker_options", ["x"]),
        ("scheduler_memory", True),
        ("environ", {"ROPEWALK_X": "1"}),
        ("environ", {"A": 1}),
        ("idle_timeout", 0),
        ("idle_timeout", "soon"),
        ("cluster_timeout", "9 years"),
        ("tags", {"": "x"}),
        ("configuration", "Not A Slug"),
        ("software", "x" * 201),
        ("name", "UPPER"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        build_request({argument: value})
    assert caught.value.field == argument
    assert argument in str(caught.value)


@pytest.mark.parametrize("argument", ["environ", "worker_options", "scheduler_options", "backend_options"])
@pytest.mark.parametrize("value", [{"PASSWORD": object()}, {"PASSWORD": float("nan")}, {1: {"x": {2}}}])
def test_values_that_may_be_secrets_are_not_shown(argument: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        build_request({argument: {"KEY": "hunter2", **value}})
    assert caught.value.field == argument
    assert "hunter2" not in str(caught.value)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        build_request({"worker_memory": "x" * 10_000})
    assert len(str(caught.value)) < 400


def test_a_template_keeps_only_what_is_given_in_plain_units() -> None:
    assert check_spec({"worker_memory": "2 GiB", "idle_timeout": None, "n_workers": [1, 2]}) == {
        "worker_memory": 2 * 2**30,
        "idle_timeout": None,
        "n_workers": [1, 2],
    }


@pytest.mark.parametrize("user", ["ada", "a" * 40, "abcdefghijklmnopqrstuvwxyzabc-d"])
def test_names_that_are_made_up_are_valid_and_differ(user: str) -> None:
    first, second = random_name(user), random_name(user)
    assert SLUG.fullmatch(first)
    assert first != second


@pytest.mark.parametrize(("value", "seconds"), [("5 minutes", 300), (2, 2), ("1h", 3600), (0.5, 0.5)])
def test_durations(value: Any, seconds: float) -> None:
    assert parse_seconds(value, "timeout") == seconds


@pytest.mark.parametrize("value", ["soon", 0, -1, None, True, "inf"])
def test_wrong_durations_are_refused(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse_seconds(value, "timeout")
    assert caught.value.field == "timeout"


@pytest.mark.parametrize(
    ("wait", "n_workers", "expected"),
    [
        (True, 4, 4),
        (False, 4, 0),
        (None, 4, 0),
        (0.3, 4, 2),
        (0.3, 10, 3),
        (0.3, 0, 0),
        (1.0, 4, 4),
        (1, 4, 1),
        (0.01, 4, 1),
        (np.float64(0.5), 4, 2),
    ],
)
def test_how_many_workers_a_start_waits_for(wait: Any, n_workers: int, expected: int) -> None:
    assert parse_wait(wait).of(ClusterDetail.model_validate(cluster(n_workers=n_workers))) == expected


def test_an_adaptive_cluster_waits_for_its_minimum() -> None:
    detail = ClusterDetail.model_validate(cluster(n_workers=2, minimum=2, maximum=8))
    assert parse_wait(True).of(detail) == 2
    assert parse_wait(5).of(detail) == 5


def test_waiting_for_more_than_there_will_be_is_refused() -> None:
    with pytest.raises(InputError, match="more than the 2 workers"):
        parse_wait(3).of(ClusterDetail.model_validate(cluster(n_workers=2)))


@pytest.mark.parametrize("value", [-1, 1.5, "all", [1], float("nan")])
def test_wrong_wait_for_workers_are_refused(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse_wait(value)
    assert caught.value.field == "wait_for_workers"
