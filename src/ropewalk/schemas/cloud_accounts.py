"""Where an account's clusters run."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from ropewalk.schemas.common import Schema


class CloudKind(StrEnum):
    HOSTED = "hosted"
    AWS = "aws"
    KUBERNETES = "kubernetes"


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CheckItem(Schema):
    """One thing that a check looked at."""

    name: str
    status: CheckStatus
    message: str = Field(description="What was found, and what breaks without it.")
    advice: str | None = None


class CheckReport(Schema):
    """What a check found; it changes nothing in the cloud."""

    checked_at: datetime
    items: list[CheckItem]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(item.status is not CheckStatus.FAILED for item in self.items)


class CloudAccount(Schema):
    """A cloud account without its credentials, which no API returns."""

    kind: CloudKind
    backend: str = Field(description="The code that drives it: local, aws or kubernetes.")
    settings: dict[str, Any]
    has_credentials: bool
    last_check: CheckReport | None
    updated_at: datetime


Price = Annotated[float, Field(ge=0, le=10_000)]


class Isolate(StrEnum):
    """Whether each account's nodes run as a user of their own."""

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


class HostedSettings(Schema):
    """What the operator decides about hosted clusters on this machine (backend `local`).

    Prices are what accounts are shown as cost: an internal rate of the operator's choosing, 0 by default.
    """

    listen_host: str = Field(
        "127.0.0.1", description="Address that schedulers and workers listen on (always with mutual TLS)."
    )
    contact_host: str | None = Field(
        None, description="Host name or address that clients use to reach schedulers; null: the listen address."
    )
    core_hour_price: Price = Field(0.0, description="Per CPU core and hour, in `currency`.")
    gib_hour_price: Price = Field(0.0, description="Per GiB of memory and hour, in `currency`.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    log_retention_days: Annotated[float, Field(gt=0, le=3660)] = Field(
        30.0, description="How long logs of ended nodes are kept; 30 days as in the reference product."
    )
    isolation: Isolate = Field(
        Isolate.AUTO,
        description="Each account's nodes run as a user of their own: where possible (auto), or not at all without "
        "that (required), or never (off).",
    )
    uid_base: Annotated[int, Field(ge=1000, lt=2**31)] = Field(
        2_100_000_000,
        description="First of the user ids for accounts. The default is above what systemd, useradd's subordinate ids "
        "and sssd give out, and below 2**31.",
    )
    uid_count: Annotated[int, Field(ge=2, le=2**24)] = Field(
        65_536, description="How many user ids there are for accounts; one is never given to a second account."
    )
    process_limit: Annotated[int, Field(ge=32, le=2**22)] = Field(
        1024, description="Processes and threads of one node at the most, where control groups can limit them."
    )
    cpu_quota: bool = Field(
        False,
        description="A node never uses more than its cores, also when others idle; otherwise cores are its share "
        "when the machine is busy.",
    )
