"""Why a thing in EC2 that exists is no good any more: what people change by hand."""

from __future__ import annotations

from collections.abc import Callable

from ropewalk.backends.aws.ec2 import Item
from ropewalk.backends.aws.firewall import covers
from ropewalk.backends.aws.network import EVERYWHERE
from ropewalk.backends.aws.routes import route_to
from ropewalk.backends.aws.work import Work
from ropewalk.backends.port import SCHEDULER_PORT

__all__ = ["unfit"]


def unfit(work: Work, kind: str, item: Item) -> str | None:
    """Return what is wrong with a thing that Ropewalk made, to follow its name; None: nothing."""
    look = _LOOKS.get(kind)
    return look(work, item) if look else None


def _gateway(work: Work, item: Item) -> str | None:
    vpcs = work.known_ids("vpc")
    attached = [attachment.get("VpcId") for attachment in item.get("Attachments") or ()]
    return None if not vpcs or set(vpcs) & set(attached) else "is not attached to the VPC any more"


def _table(work: Work, item: Item) -> str | None:
    """A table needs a way out that works, and the subnets of its part."""
    part = work.remembered("route_table", item["RouteTableId"]).get("part", "public")
    way = route_to(item, EVERYWHERE)
    if way is None or way.get("State") == "blackhole":
        return "has no working route to the internet any more"
    used = {association.get("SubnetId") for association in item.get("Associations") or ()}
    public = part == "public"
    subnets = [one.id for one in work.known("subnet") if bool(one.details.get("public")) is public]
    lost = [id_ for id_ in subnets if id_ not in used]
    return f"is not the table of {', '.join(lost)} any more" if lost else None


def _group(work: Work, item: Item) -> str | None:
    id_, rules = item["GroupId"], item.get("IpPermissions") or ()
    if not any(pair.get("GroupId") == id_ for rule in rules for pair in rule.get("UserIdGroupPairs") or ()):
        return "does not let nodes reach each other any more"
    opened = {one.get("CidrIp") for rule in rules if covers(rule, SCHEDULER_PORT) for one in rule.get("IpRanges") or ()}
    opened |= {
        one.get("CidrIpv6") for rule in rules if covers(rule, SCHEDULER_PORT) for one in rule.get("Ipv6Ranges") or ()
    }
    shut = [source for source in work.remembered("security_group", id_).get("allow") or () if source not in opened]
    return f"does not let {', '.join(shut)} in at port {SCHEDULER_PORT} any more" if shut else None


def _nat(_work: Work, item: Item) -> str | None:
    return None if item["State"] in {"available", "pending"} else f"is {item['State']}"


_LOOKS: dict[str, Callable[[Work, Item], str | None]] = {
    "internet_gateway": _gateway,
    "route_table": _table,
    "security_group": _group,
    "nat_gateway": _nat,
}
