"""The machine that an image is for, as each tool calls it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from ropewalk.errors import InputError

__all__ = ["Platform"]

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_UV = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
"""manylinux_2_28 is what glibc 2.28 (Debian 10, RHEL 8) and later run, so any slim image of today."""
_CONDA = {"amd64": "linux-64", "arm64": "linux-aarch64"}


@dataclass(frozen=True, slots=True)
class Platform:
    """Linux on one architecture, which is all that clusters run on."""

    architecture: str

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``linux/amd64`` or ``linux/arm64``.

        Raises:
            InputError: Nodes cannot run on it.
        """
        system, _, architecture = text.partition("/")
        if system != "linux" or architecture not in _UV:
            known = " and ".join(f"linux/{each}" for each in _UV)
            raise InputError(f"{text[:60]!r} is no platform of nodes.", advice=f"There are {known}.", field="platform")
        return cls(architecture)

    @property
    def uv(self) -> str:
        return _UV[self.architecture]

    @property
    def conda(self) -> str:
        return _CONDA[self.architecture]

    @property
    def is_host(self) -> bool:
        """Whether its programs can run here."""
        return sys.platform == "linux" and _MACHINES.get(platform.machine().lower()) == self.architecture

    def __str__(self) -> str:
        return f"linux/{self.architecture}"
