"""How pages write sizes, money and times."""

from __future__ import annotations

from datetime import datetime

from ropewalk.schemas.clusters import GIB

__all__ = ["amount", "duration", "memory", "money", "number", "thousands"]

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def number(value: float) -> str:
    """Return a number without needless digits: ``4`` or ``0.5``."""
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def thousands(value: int) -> str:
    """Return a count that people can read: ``12,345``."""
    return f"{value:,}"


def amount(value: float) -> str:
    """Return a large number as people read it: ``1,234.5``; with more digits where there would be none to see."""
    return f"{value:,.{1 if value == 0 or value >= 0.1 else 4}f}"


def memory(size: int) -> str:
    """Return bytes as people read them: ``4 GiB`` or ``512 MiB``."""
    return f"{number(round(size / GIB, 1))} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def money(amount: float, currency: str) -> str:
    """Return an amount: ``$1,001.20`` or ``1,001.20 EUR``; with more digits where there would be none to see."""
    digits = 2 if amount == 0 or amount >= 0.1 else 4
    return f"${amount:,.{digits}f}" if currency == "USD" else f"{amount:,.{digits}f} {currency}"


def duration(since: datetime, until: datetime) -> str:
    """Return the time between two moments in its two largest units: ``2 h 5 min``."""
    seconds = max(0, int((until - since).total_seconds()))
    parts = []
    for size, unit in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
