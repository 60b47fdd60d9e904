"""The form of how hosted clusters run: labels for people, and the way between text and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.schemas.cloud_accounts import HostedSettings, Isolate

__all__ = ["FIELDS", "Field", "typed", "wish_of"]


@dataclass(frozen=True)
class Field:
    """One input."""

    name: str
    label: str
    group: str
    choices: tuple[str, ...] = ()
    check: bool = False

    @property
    def hint(self) -> str:
        """What it means, as the reference says it."""
        return (HostedSettings.model_fields[self.name].description or "").replace("`", "").replace("null:", "empty:")


FIELDS = (
    Field("core_hour_price", "Price of a core and hour", "Prices"),
    Field("gib_hour_price", "Price of a GiB of memory and hour", "Prices"),
    Field("currency", "Currency", "Prices"),
    Field("listen_host", "Address of nodes", "Reach"),
    Field("contact_host", "Address that clients use", "Reach"),
    Field("log_retention_days", "Days that logs are kept", "Logs"),
    Field("log_limit_mib", "MiB of one node's log", "Logs"),
    Field("isolation", "A user of its own for each account", "Isolation and limits", tuple(Isolate)),
    Field("uid_base", "First user id", "Isolation and limits"),
    Field("uid_count", "Number of user ids", "Isolation and limits"),
    Field("process_limit", "Processes of a node", "Isolation and limits"),
    Field("cpu_quota", "Hold nodes to their cores", "Isolation and limits", check=True),
)


def typed(settings: HostedSettings) -> dict[str, str]:
    """Return what the form shows."""
    return {name: _text(value) for name, value in settings.model_dump(mode="json").items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def wish_of(values: Mapping[str, str]) -> dict[str, Any]:
    """Return what is wished, for the schema to check. What is left empty gets its default."""
    wish: dict[str, Any] = {name: text.strip() for name, text in values.items() if text.strip()}
    return {**wish, "cpu_quota": bool(wish.get("cpu_quota"))}
