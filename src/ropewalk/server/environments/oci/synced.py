"""A user's conda environment made again for nodes: as it is where that can be, and told where it cannot.

Every package is pinned. What a channel has no longer, or has for other platforms only, is let go step by step: first
the builds, then versions of what only came along, at last those of all that tasks do not stand or fall with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropewalk.errors import FixItError
from ropewalk.schemas.environments import CondaSpec, Difference, EnvironmentSpec, LockedPackage
from ropewalk.server.environments.oci.channels import Channels, explain, rattler
from ropewalk.server.environments.oci.conda import name_of, solved, subdirs
from ropewalk.server.environments.oci.platform import Platform

__all__ = ["synchronised"]


@dataclass(frozen=True, slots=True)
class _Pin:
    """One package of the user's."""

    name: str
    version: str
    build: str | None
    """None: the user's platform is another one, and so are builds."""
    critical: bool
    """Scheduler, workers and client exchange what it makes: it has to be the same."""
    matters: bool

    def text(self, *, build: bool) -> str:
        return f"{self.name} =={self.version}" + (f" {self.build}" if build and self.build else "")


@dataclass(slots=True)
class _Offer:
    """What the channels have for the platform."""

    channels: list[str] = field(default_factory=list)
    """Those that can be read."""
    unread: list[Difference] = field(default_factory=list)
    versions: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """Version and build by name."""

    def has(self, pin: _Pin, *, build: bool) -> bool:
        found = self.versions.get(pin.name, set())
        if build and pin.build:
            return (pin.version, pin.build) in found
        return any(version == pin.version for version, _ in found)


async def synchronised(
    spec: EnvironmentSpec, platform: Platform, channels: Channels, say: Callable[[str], None]
) -> tuple[list[LockedPackage], list[Difference]]:
    """Return the packages for *platform* that come closest to those of *spec*, and what differs that matters.

    Raises:
        FixItError: Something that has to be the same is not to be had, or nothing fits; lists all of it.
        TryAgainError: A channel does not answer.
    """
    conda = spec.conda or CondaSpec()
    pins = _pins(conda, set(spec.droppable))
    gateway = channels.gateway(conda.channels)
    offer = await _offer(conda, pins, platform, gateway)
    _demand_critical(pins, offer, platform)
    found = await _solved(pins, offer, str(spec.python), platform, gateway, say)
    return found, _differences(pins, found, offer, platform, say)


def _pins(conda: CondaSpec, droppable: set[str]) -> list[_Pin]:
    pins = []
    for each in conda.dependencies:
        name, _, rest = each.partition(" ==")
        version, _, build = rest.partition(" ")
        name = name_of(name)
        pins.append(_Pin(name, version, build or None, name not in droppable, name in conda.matters))
    return pins


async def _offer(conda: CondaSpec, pins: Sequence[_Pin], platform: Platform, gateway: Any) -> _Offer:
    """Ask each channel by itself: one that refuses is no reason to do without the others."""
    library, offer = rattler(), _Offer()
    names = [pin.name for pin in pins]
    for channel in conda.channels:
        try:
            parts = await gateway.query(
                [channel], subdirs(platform), names, recursive=False, channel_relations="disabled"
            )
        except (library.exceptions.GatewayError, library.exceptions.FetchRepoDataError, OSError) as exc:
            error = explain(exc, [channel])
            if not isinstance(error, FixItError):
                raise error from None
            why = f"{error.message} Its packages are taken from other channels, or left out. {error.advice}"
            offer.unread.append(Difference(name=channel, level="warning", why=why))
            continue
        offer.channels.append(channel)
        for record in (each for part in parts for each in part):
            known = offer.versions.setdefault(record.name.normalized, set())
            known.add((str(record.version), str(record.build)))
    return offer


def _demand_critical(pins: Sequence[_Pin], offer: _Offer, platform: Platform) -> None:
    missing = [pin for pin in pins if pin.critical and not offer.has(pin, build=False)]
    if not missing:
        return
    unread = "".join(f" {each.why}" for each in offer.unread)
    names = ", ".join(f"{pin.name} {pin.version}" for pin in missing)
    raise FixItError(
        f"Your channels have no {names} for {platform}, and tasks need the same version on both sides.{unread}",
        advice="Install versions that there are for it, or name a software environment.",
        field="conda",
        details={"missing": [pin.name for pin in missing]},
    )


async def _solved(
    pins: Sequence[_Pin], offer: _Offer, python: str, platform: Platform, gateway: Any, say: Callable[[str], None]
) -> list[LockedPackage]:
    error: FixItError | None = None
    for what, wanted in _tries(pins, offer):
        try:
            asked = wanted if any(name_of(each) == "python" for each in wanted) else [*wanted, f"python {python}.*"]
            return await solved(asked, offer.channels, platform, gateway, strict=False)
        except FixItError as exc:
            say(f"With {what}: {exc.message}")
            error = exc
    raise error or FixItError("None of your conda channels can be read.", field="conda")


def _tries(pins: Sequence[_Pin], offer: _Offer) -> list[tuple[str, list[str]]]:
    """Return what to ask for, the closest first."""
    if not offer.channels:
        return []
    there = [pin for pin in pins if offer.has(pin, build=False)]
    # Another version of what the user asked for is better than none; what only came along comes along again.
    others = [pin.name for pin in pins if pin not in there and pin.matters and pin.name in offer.versions]
    wanted = [pin for pin in there if pin.matters or pin.critical]
    loose = [pin.text(build=False) if pin.critical else pin.name for pin in wanted]
    tries = [
        ("the very builds", [*(pin.text(build=offer.has(pin, build=True)) for pin in there), *others]),
        ("the same versions", [*(pin.text(build=False) for pin in there), *others]),
        ("the same versions of what matters", [*(pin.text(build=False) for pin in wanted), *others]),
        ("the same versions of what has to be the same", [*loose, *others]),
    ]
    return [each for number, each in enumerate(tries) if number == 0 or each[1] != tries[number - 1][1]]


def _differences(
    pins: Sequence[_Pin], found: Sequence[LockedPackage], offer: _Offer, platform: Platform, say: Callable[[str], None]
) -> list[Difference]:
    there: Mapping[str, LockedPackage] = {package.name: package for package in found}
    differences = list(offer.unread)
    for pin in pins:
        why = _why(pin, there.get(pin.name), offer, platform)
        if why is None:
            continue
        if not (pin.matters or pin.critical):
            say(f"{pin.name} {pin.version}: {why}")
            continue
        got = there.get(pin.name)
        version = None if got is None else got.version
        differences.append(Difference(name=pin.name, level="warning", here=pin.version, there=version, why=why))
    return differences


def _why(pin: _Pin, got: LockedPackage | None, offer: _Offer, platform: Platform) -> str | None:
    """Return in what *got* is not the package of the user's; None: it is."""
    if got is None:
        if pin.name in offer.versions:
            return "Nothing on the nodes needs it; it is left out."
        return f"Your channels have none of it for {platform}; it is left out."
    if got.version != pin.version:
        reason = "does not go with the others there" if offer.has(pin, build=False) else "is not on your channels"
        return f"{pin.version} {reason} for {platform}; {got.version} is taken."
    if pin.build and got.build != pin.build:
        return f"Its build {pin.build} is not to be had any more; {got.build} is taken."
    return None
