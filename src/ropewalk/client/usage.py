"""What clusters used and cost, added up by the server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ropewalk.client import calls, config
from ropewalk.client.config import Login
from ropewalk.client.functions import account_steps, run
from ropewalk.client.http import Steps
from ropewalk.errors import InputError
from ropewalk.schemas.usage import Usage, UsageQuery

__all__ = ["local_zone", "usage", "usage_query"]


def usage(
    account: str | None = None,
    *,
    by: str | Sequence[str] = "day",
    first: date | str | None = None,
    last: date | str | None = None,
    zone: str | None = None,
    tag: str | None = None,
    member: str | None = None,
    cluster: str | None = None,
    asynchronous: bool = False,
) -> Usage:
    """Return what an account's clusters used and cost.

    Args:
        account: Whose; by default the one that clusters are made in.
        by: ``"day"``, ``"member"``, ``"cluster"`` or ``"tag"``, or several of these: a row for each combination.
        first: First day, for example ``"2026-03-01"``; by default 29 days before the last one.
        last: Last day, which is counted, too; by default today.
        zone: IANA name of the time zone in which days begin; by default this machine's.
        tag: Key of the tag that ``by="tag"`` adds up by.
        member: Only clusters that this user made.
        cluster: Only this cluster, by id or name.
        asynchronous: Return an awaitable.
    """
    wish = usage_query(
        by=[by] if isinstance(by, str) else list(by),
        first=first,
        last=last,
        zone=zone or local_zone(),
        tag=tag,
        member=member,
        cluster=cluster,
    )
    account, _ = config.split_name(None, account)

    def steps(login: Login) -> Steps[Usage]:
        slug = yield from account_steps(login, account)
        found: Usage = yield calls.get_usage(slug, wish)
        return found

    result: Usage = run(steps, asynchronous)
    return result


def usage_query(**values: Any) -> UsageQuery:
    """Return the question that *values* make; InputError names the one that is wrong."""
    try:
        return UsageQuery.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise InputError(f"{field} is wrong: {first['msg'].removeprefix('Value error, ')}.", field=field) from None


def local_zone() -> str:
    """Return the IANA name of this machine's time zone: of the variable TZ, or of /etc/localtime; else UTC."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name:
        try:
            name = str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")[2]
        except OSError:
            name = ""
    return name.removeprefix("posix/") or "UTC"
