"""Blocks of addresses: how a VPC's are divided, from where schedulers are reached, what must not overlap. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["PARTS", "block", "ingress", "problems", "subnet_blocks"]

PARTS = ("public-a", "public-b", "private-a", "private-b")
"""The subnets of a VPC, in the order of their addresses. Room for private ones is always kept, so that asking for them
later changes nothing else."""

# "VPC CIDR blocks" (VPC user guide): a VPC is /16 to /28, and so are subnets; four of them make /26 the smallest.
_LARGEST, _SMALLEST = 16, 26

Block = IPv4Network | IPv6Network


def block(text: str, field: str) -> Block:
    """Return a block of addresses; host bits are ignored, as AWS does."""
    try:
        return ip_network(text, strict=False)
    except ValueError as exc:
        raise FixItError(
            f"{text} is not a block of addresses: {exc}.", advice="Write it like 10.77.0.0/16.", field=field
        ) from exc


def subnet_blocks(vpc_cidr: str) -> dict[str, str]:
    """Return the quarter of the VPC that each subnet has, by its part."""
    quarters = block(vpc_cidr, "vpc_cidr").subnets(prefixlen_diff=2)
    return {part: str(quarter) for part, quarter in zip(PARTS, quarters, strict=True)}


def ingress(settings: AwsSettings, caller_address: str | None) -> list[str]:
    """Return from where schedulers may be reached, in canonical spelling: as set, else from the address that asked."""
    if settings.allow_ingress_from:
        return sorted({str(block(text, "allow_ingress_from")) for text in settings.allow_ingress_from})
    return [str(ip_network(ip_address(caller_address)))] if caller_address else []


def problems(settings: AwsSettings) -> Iterator[FixItError]:
    """Yield what is wrong with the blocks in the settings, naming their fields."""
    known: list[tuple[str, Block]] = []
    for field, text in _named(settings):
        try:
            known.append((field, block(text, field)))
        except FixItError as error:
            yield error
    yield from (_unfit(found) for field, found in known if field == "vpc_cidr" and not _fit(found))
    yield from _overlaps([(field, found) for field, found in known if field != "allow_ingress_from"])


def _named(settings: AwsSettings) -> Iterator[tuple[str, str]]:
    if not (settings.vpc_id or settings.subnet_ids):
        yield "vpc_cidr", settings.vpc_cidr
    yield from ((f"peering.{number}.cidr", peer.cidr) for number, peer in enumerate(settings.peering))
    yield from (("allow_ingress_from", text) for text in settings.allow_ingress_from)


def _fit(found: Block) -> bool:
    return found.version == 4 and _LARGEST <= found.prefixlen <= _SMALLEST


def _unfit(found: Block) -> FixItError:
    return FixItError(
        f"A VPC cannot have the addresses {found}.",
        advice=f"Use an IPv4 block between /{_LARGEST} and /{_SMALLEST}, for example 10.77.0.0/16.",
        field="vpc_cidr",
    )


def _overlaps(known: list[tuple[str, Block]]) -> Iterator[FixItError]:
    for number, (field, found) in enumerate(known):
        for other_field, other in known[:number]:
            if found.overlaps(other):
                yield FixItError(
                    f"The addresses {found} ({field}) overlap with {other} ({other_field}): VPCs with overlapping "
                    "addresses cannot be peered.",
                    advice=f"Choose other addresses for one of them, most easily for {other_field}.",
                    field=field,
                )
