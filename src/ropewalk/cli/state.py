"""What the options of the program itself said; one process runs one command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class State:
    """``debug``: show tracebacks. ``json``: the command writes JSON, and so do errors."""

    debug: bool = False
    json: bool = False


current = State()
