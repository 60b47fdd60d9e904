"""Types that several schemas use: names, sizes, durations, the error body."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any

from dask.utils import format_bytes, parse_bytes, parse_timedelta
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""Names of accounts, users, clusters and configurations: a DNS label of at most 40 characters, so that a name
can be part of a host name (63 characters at most, RFC 1035) together with an id."""

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: controls, invisible formats (such as right-to-left marks), surrogates, line separators."""

MAX_MEMORY = 32 * 2**40
"""32 TiB, above the largest memory of any cloud instance; guards against a slipped unit."""

MAX_DURATION = 366 * 24 * 3600.0
"""A leap year in seconds; guards against a slipped unit."""


class Schema(BaseModel):
    """Base of every model: unknown fields are refused, so that a typing error is told and not ignored."""

    model_config = ConfigDict(extra="forbid", ser_json_timedelta="float")


def _slug(value: str) -> str:
    if not SLUG.fullmatch(value):
        raise ValueError(
            f"{value[:60]!r} is not a valid name: use 1 to 40 lower-case letters, digits and hyphens, "
            "beginning and ending with a letter or digit"
        )
    return value


def _bytes(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("give a size in bytes or with a unit, for example '4 GiB'")  # noqa: TRY004 - pydantic
    try:
        size = int(parse_bytes(value))
    except (ValueError, OverflowError):
        raise ValueError(f"{str(value)[:60]!r} is not a size: use bytes or a unit, for example '4 GiB'") from None
    if not 0 < size <= MAX_MEMORY:
        raise ValueError(f"{str(value)[:60]!r} is out of range: more than 0 and at most {format_bytes(MAX_MEMORY)}")
    return size


def _seconds(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("give seconds or text with a unit, for example '20 minutes'")  # noqa: TRY004 - pydantic
    try:
        seconds = float(parse_timedelta(value, default="seconds"))
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ValueError(f"{str(value)[:60]!r} is not a duration: use seconds or, for example, '20 minutes'") from None
    if not 0 < seconds <= MAX_DURATION:
        raise ValueError(f"{str(value)[:60]!r} is out of range: more than 0 seconds and at most a year")
    return seconds


def _line(value: str) -> str:
    if any(unicodedata.category(c) in _UNPRINTABLE for c in value):
        raise ValueError("control characters and line breaks are not allowed")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Line = Annotated[str, AfterValidator(_line)]
"""Text for people on one line: nothing in it can fool a terminal, a log or a page."""
Bytes = Annotated[int, BeforeValidator(_bytes)]
"""A size in bytes; text such as ``"4 GiB"`` is accepted."""
Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration in seconds; text such as ``"20 minutes"`` is accepted."""


class ErrorBody(Schema):
    """The body of every HTTP error, under the key ``error``."""

    code: str = Field(description="Stable, for programs; the codes are listed in the reference.")
    message: str = Field(description="What happened and why, for a person.")
    advice: str | None = Field(None, description="What to do next.")
    field: str | None = Field(None, description="The input field that is wrong, if one is.")
    details: dict[str, Any] = Field(default_factory=dict)
    request_id: str | None = Field(None, description="Find it in the server's log.")


class ErrorResponse(Schema):
    error: ErrorBody


class Event(Schema):
    """One append-only fact."""

    id: int = Field(description="Grows with time; pass the last one seen as `after`.")
    time: datetime
    code: str = Field(description="Machine-readable; listed in the reference.")
    level: str = Field(description="info, warning or error")
    message: str = Field(description="A sentence for a person.")
    actor: str | None = Field(None, description="User who did it; null: the system.")
    cluster: str | None = Field(None, description="Id of the cluster, if the event is about one.")
    node: str | None = Field(None, description="Name of the node, if the event is about one.")
    details: dict[str, Any] = Field(default_factory=dict)
