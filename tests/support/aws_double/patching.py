"""Replacing functions of ministack, loudly when they are not there."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any


class ChangedUpstreamError(Exception):
    """This ministack has no such name: the double must be adapted to it."""


def replace(module: ModuleType, name: str, make: Callable[[Any], Any]) -> None:
    """Set ``module.name`` to ``make(original)``."""
    if not hasattr(module, name):
        raise ChangedUpstreamError(f"{module.__name__}.{name} does not exist in this version of ministack")
    setattr(module, name, make(getattr(module, name)))


def replace_item(table: MutableMapping[str, Any], key: str, make: Callable[[Any], Any]) -> None:
    """Set ``table[key]`` to ``make(original)``."""
    if key not in table:
        raise ChangedUpstreamError(f"this version of ministack does not know {key}")
    table[key] = make(table[key])


def demand(module: ModuleType, *names: str) -> None:
    """Fail unless the module has all the names, which are used and not replaced."""
    for name in names:
        replace(module, name, lambda original: original)
