"""What a prepared cloud account costs while no cluster runs: nothing, unless it has a NAT gateway."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from ropewalk.schemas.aws import AwsSettings

__all__ = ["MONTH", "address_monthly_cost", "gateway_monthly_cost", "monthly_cost", "note"]

MONTH = 730
"""Hours of a month, as AWS counts them in its price calculator."""

_TRAFFIC = "Data through a NAT gateway, traffic to the internet, stored images and logs come on top, by use."


@cache
def _table() -> Any:
    text = resources.files("ropewalk.backends.aws").joinpath("network_prices.json").read_text("utf-8")
    return json.loads(text)


def gateway_monthly_cost(region: str) -> float:
    """Return what one NAT gateway costs a month, in USD, without its address."""
    table = _table()
    hourly = table["nat_gateway_hour"].get(region) or table["nat_gateway_hour"]["elsewhere"]
    return round(float(hourly) * MONTH, 2)


def address_monthly_cost() -> float:
    """Return what one public IPv4 address costs a month, in USD."""
    return round(float(_table()["public_address_hour"]) * MONTH, 2)


def monthly_cost(settings: AwsSettings) -> tuple[float, str, str]:
    """Return what the cloud account costs a month while no cluster runs, the currency, and why, as sentences."""
    if not settings.private_subnets or settings.vpc_id or settings.subnet_ids:
        return 0.0, "USD", "What is made costs nothing while no cluster runs."
    gateway, address = gateway_monthly_cost(settings.region), address_monthly_cost()
    text = (
        f"Private subnets need a NAT gateway ({gateway:.2f} USD a month) with a public address ({address:.2f} USD), "
        f"whether or not a cluster runs. {note(settings.region)}"
    )
    return round(gateway + address, 2), "USD", text


def note(region: str) -> str:
    """Return where the prices come from, and what they leave out."""
    table = _table()
    known = region in table["nat_gateway_hour"]
    checked = "" if region in table["checked"] or not known else ", not compared with a second source"
    other = "" if known else f" The region {region} is not in the price list, so the highest price of it is shown."
    return f"List prices of {table['date']}{checked}, without taxes.{other} {_TRAFFIC}"
