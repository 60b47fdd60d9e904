"""What Fargate costs."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from ropewalk.backends.aws import prices
from ropewalk.backends.aws.shapes import Size

ONE = Size(1024, 4096)


def test_a_task_costs_its_cpu_memory_and_address() -> None:
    # AWS's own figures for us-east-1: 0.04048 a vCPU and hour, 0.004445 a GB and hour, 0.005 an address and hour.
    price, currency = prices.hourly(ONE, "us-east-1")
    assert (round(price, 6), currency) == (round(0.04048 + 4 * 0.004445 + 0.005, 6), "USD")


def test_a_private_task_pays_no_address() -> None:
    public, _ = prices.hourly(ONE, "us-east-1")
    private, _ = prices.hourly(ONE, "us-east-1", public=False)
    assert public - private == pytest.approx(0.005)


def test_arm_costs_what_aws_lists() -> None:
    arm, _ = prices.hourly(ONE, "us-east-1", arm=True, public=False)
    assert arm == pytest.approx(0.03238 + 4 * 0.00356, rel=1e-3)


def test_arm_costs_what_its_region_lists_where_that_is_not_a_fifth_less() -> None:
    # AWS's price list for Mumbai of 2026-09: 0.02383 a vCPU and hour on ARM, 0.04256 on x86.
    arm, _ = prices.hourly(ONE, "ap-south-1", arm=True, public=False)
    assert arm == pytest.approx(0.02383 + 4 * 0.00261)


def test_spot_is_an_estimate_and_says_so() -> None:
    normal, _ = prices.hourly(ONE, "us-east-1", public=False)
    spot, _ = prices.hourly(ONE, "us-east-1", spot=True, public=False)
    assert spot == pytest.approx(0.3 * normal)
    assert "estimate" in prices.note("us-east-1", spot=True)
    assert "estimate" not in prices.note("us-east-1")


def test_only_storage_beyond_the_free_costs() -> None:
    free, _ = prices.hourly(ONE, "us-east-1")
    paid, _ = prices.hourly(ONE, "us-east-1", storage=120)
    assert paid - free == pytest.approx(100 * 0.000111)


def test_regions_differ() -> None:
    assert prices.hourly(ONE, "eu-central-1") != prices.hourly(ONE, "us-east-1")


def test_an_unknown_region_has_the_prices_of_another_and_says_so() -> None:
    assert prices.hourly(ONE, "mars-north-1") == prices.hourly(ONE, "us-east-1")
    assert "mars-north-1 is not in the price list" in prices.note("mars-north-1")
    assert "not in the price list" not in prices.note("us-east-1")


def test_prices_say_what_they_were_compared_with() -> None:
    assert "compared with: Price List API, 2026-10" in prices.note("ap-south-1")
    assert "not compared with a second source" in prices.note("eu-north-1")


def test_the_table_names_its_source_and_date() -> None:
    table = json.loads(resources.files("ropewalk.backends.aws").joinpath("prices.json").read_text())
    assert table["source"]
    unchecked = [region for region, entry in table["regions"].items() if "checked" not in entry]
    assert all(table["date"] in prices.note(region) for region in unchecked)
    assert all({"vcpu_hour", "gb_hour"} <= set(entry) for entry in table["regions"].values())
    assert prices.known_regions() == set(table["regions"])
