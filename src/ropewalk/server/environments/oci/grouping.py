"""Which packages share a layer. Pure.

A layer is sent whole when anything in it changes, so what changes seldom is kept from what changes often: large
packages have a layer each, the others share one, and people's own code comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Group", "Sized", "split"]

HEAVY_BYTES = 10 * 2**20
"""From which a package is worth a layer of its own: some 3 MB compressed, a second of sending."""
MOST_HEAVY = 16
"""Layers of that kind; images may have 127, and each costs its pull a round trip."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A package with the bytes of its files."""

    name: str
    size: int
    own: bool = False
    """People's own code, which changes most."""
    interpreter: bool = False
    """Python, or what it needs: changes least."""


@dataclass(frozen=True, slots=True)
class Group:
    """Packages that share a layer."""

    title: str
    names: tuple[str, ...]


def split(packages: Sequence[Sized]) -> list[Group]:
    """Return the layers of *packages*, in the order in which they lie upon each other: the most stable first."""
    others = [each for each in packages if not each.own and not each.interpreter]
    interpreter = tuple(sorted(each.name for each in packages if each.interpreter))
    large = sorted((each for each in others if each.size >= HEAVY_BYTES), key=lambda each: (-each.size, each.name))
    heavy = {each.name for each in large[:MOST_HEAVY]}
    groups = [Group("interpreter", interpreter)] if interpreter else []
    groups += [Group(name, (name,)) for name in sorted(heavy)]
    light = tuple(sorted(each.name for each in others if each.name not in heavy))
    own = tuple(sorted(each.name for each in packages if each.own))
    if light:
        groups.append(Group(f"{len(light)} packages", light))
    if own:
        groups.append(Group(f"own code: {', '.join(own)}", own))
    return groups
