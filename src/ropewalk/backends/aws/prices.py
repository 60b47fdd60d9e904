"""What Fargate costs, from a table with source and date (``prices.json``): cost is shown without asking AWS.

Bills are made by AWS; these figures leave out traffic, logs, discounts and taxes.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from ropewalk.backends.aws.shapes import FREE_STORAGE, Size

__all__ = ["DEFAULT_REGION", "hourly", "known_regions", "note"]

DEFAULT_REGION = "us-east-1"
"""Its prices stand for regions that the table does not have."""


@cache
def _table() -> Any:
    text = resources.files("ropewalk.backends.aws").joinpath("prices.json").read_text("utf-8")
    return json.loads(text)


def known_regions() -> frozenset[str]:
    """Return the regions that the table has."""
    return frozenset(_table()["regions"])


def hourly(
    size: Size, region: str, *, arm: bool = False, spot: bool = False, storage: int | None = None, public: bool = True
) -> tuple[float, str]:
    """Return the price per hour of one task and its currency.

    Args:
        size: CPU and memory; idle ones cost the same.
        region: AWS region.
        arm: On Graviton processors.
        spot: On Fargate Spot, whose price is estimated.
        storage: GiB of ephemeral storage; None: what is free.
        public: It has a public IPv4 address, which costs, too.
    """
    table = _table()
    prices = table["regions"].get(region) or table["regions"][DEFAULT_REGION]
    vcpu, gb = _arm(table, prices) if arm else (prices["vcpu_hour"], prices["gb_hour"])
    computing = size.cpu / 1024 * vcpu + size.memory / 1024 * gb
    computing *= table["spot_factor"] if spot else 1
    beyond = max(0, (storage or FREE_STORAGE) - FREE_STORAGE) * table["storage_gb_hour"]
    return computing + beyond + (table["public_address_hour"] if public else 0), table["currency"]


def _arm(table: Any, prices: Any) -> tuple[float, float]:
    """Return what a vCPU and a GB cost on Graviton: what the region lists, else a fifth less."""
    factor = table["arm_factor"]
    vcpu = prices.get("arm_vcpu_hour", prices["vcpu_hour"] * factor)
    return vcpu, prices.get("arm_gb_hour", prices["gb_hour"] * factor)


def note(region: str, *, spot: bool = False) -> str:
    """Return what is to be known about these prices, as sentences."""
    table = _table()
    checked = (table["regions"].get(region) or table["regions"][DEFAULT_REGION]).get("checked")
    source = f"compared with: {checked}" if checked else f"of {table['date']}, not compared with a second source"
    text = f"List prices ({source}) without traffic, logs, discounts and taxes."
    if region not in table["regions"]:
        text += f" The region {region} is not in the price list: prices of {DEFAULT_REGION} are shown."
    if spot:
        off = round(100 * (1 - table["spot_factor"]))
        text += f" Spot prices move; {off} % off the normal price is an estimate."
    return text
