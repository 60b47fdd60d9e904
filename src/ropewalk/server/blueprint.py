"""What a backend is made from: all that is stored of a cloud account, opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropewalk.backends.port import Place, Resource

__all__ = ["Blueprint"]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A backend to be; ``credentials`` are secrets and hidden."""

    backend: str
    place: Place
    settings: Mapping[str, Any]
    credentials: Mapping[str, Any] | None = field(default=None, repr=False)
    resources: Sequence[Resource] = ()
