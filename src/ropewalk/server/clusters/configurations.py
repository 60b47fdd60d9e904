"""Cluster configurations: named templates of cluster arguments. Only what is given is kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import select

from ropewalk.errors import ConflictError, InputError, NotFoundError
from ropewalk.schemas.clusters import ClusterSpec
from ropewalk.schemas.clusters import Configuration as ConfigurationSchema
from ropewalk.schemas.common import SLUG
from ropewalk.server.db.models import Configuration
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = [
    "check_fields",
    "delete_configuration",
    "get_configuration",
    "list_configurations",
    "set_configuration",
    "template",
]

MAX_BYTES = 64 * 2**10
"""Of a configuration as JSON; options of workers and schedulers are a few hundred."""

FIELDS = tuple(name for name in ClusterSpec.model_fields if name != "environ")
"""What a configuration may hold. Environment variables often hold secrets, and every member sees configurations."""


def check_fields(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the given fields of *spec* in their stored form: sizes in bytes, durations in seconds.

    Raises:
        InputError: Names the first field that is unknown or wrong.
    """
    for name in spec:
        _refuse_unknown(name)
    try:
        valid = ClusterSpec.model_validate(spec)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        problem = first["msg"].removeprefix("Value error, ")
        # Rules about several fields have no place; their text begins with the field.
        field = str(first["loc"][0]) if first["loc"] else problem.partition("=")[0]
        raise InputError(f"The field {field} is wrong: {problem}.", field=f"spec.{field}") from None
    kept = valid.model_dump(mode="python", include=set(spec))
    try:
        stored = json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError):
        raise InputError(
            "The configuration holds a value that is not JSON, such as NaN or half of a character.", field="spec"
        ) from None
    if len(stored) > MAX_BYTES:
        raise InputError(f"The configuration has {len(stored)} bytes; at most {MAX_BYTES} are kept.", field="spec")
    fields: dict[str, Any] = json.loads(stored)
    return fields


def _refuse_unknown(name: str) -> None:
    if name in FIELDS:
        return
    if name == "environ":
        raise InputError(
            "A configuration cannot hold environ: environment variables often hold secrets, and all members see "
            "configurations.",
            advice="Pass environ= when you make a cluster: it is stored encrypted and never shown.",
            field="spec.environ",
        )
    raise InputError(
        f"A configuration has no field {name[:60]!r}.",
        advice=f"Its fields are: {', '.join(FIELDS)}.",
        field=f"spec.{name[:60]}",
    )


async def list_configurations(context: Context, caller: AccountCaller) -> list[ConfigurationSchema]:
    """Return the account's configurations by name."""
    query = select(Configuration).where(Configuration.account_id == caller.account_id).order_by(Configuration.name)
    async with context.db.read() as session:
        return [_shown(row, caller.account) for row in await session.scalars(query)]


async def get_configuration(context: Context, caller: AccountCaller, name: str) -> ConfigurationSchema:
    """Return one configuration."""
    async with context.db.read() as session:
        return _shown(await _existing(session, caller.account_id, name), caller.account)


async def set_configuration(
    context: Context, caller: AccountCaller, name: str, spec: dict[str, Any], *, only_new: bool = False
) -> ConfigurationSchema:
    """Make a configuration, or replace it; clusters that were made from it stay as they are.

    Raises:
        InputError: Names the field that is wrong.
        ConflictError: There is one of that name, and *only_new* was asked for.
    """
    now = context.clock.now()
    if not SLUG.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} cannot be the name of a configuration.",
            advice="Use 1 to 40 lower-case letters, digits and hyphens, beginning and ending with a letter or digit.",
            field="name",
        )
    fields = check_fields(spec)
    async with context.db.transaction() as session:
        await context.db.serialize(session, f"configuration {caller.account_id} {name}")
        row = await session.get(Configuration, (caller.account_id, name))
        if row is None:
            row = Configuration(account_id=caller.account_id, name=name)
            session.add(row)
        elif only_new:
            raise ConflictError(
                f"There is a configuration {name!r} already.",
                advice="Change that one, or choose another name.",
                field="name",
            )
        row.spec, row.updated_at = fields, now
        record(
            session,
            now,
            EventCode.CONFIGURATION_SET,
            f"The cluster configuration {name!r} was set.",
            account_id=caller.account_id,
            actor=caller.username,
            details={"name": name, "fields": sorted(fields)},
        )
    return _shown(row, caller.account)


async def delete_configuration(context: Context, caller: AccountCaller, name: str) -> None:
    """Delete a configuration; clusters that were made from it stay as they are."""
    async with context.db.transaction() as session:
        row = await _existing(session, caller.account_id, name)
        await session.delete(row)
        record(
            session,
            context.clock.now(),
            EventCode.CONFIGURATION_DELETED,
            f"The cluster configuration {name!r} was deleted.",
            account_id=caller.account_id,
            actor=caller.username,
            details={"name": name},
        )


async def template(session: AsyncSession, account_id: str, name: str) -> dict[str, Any]:
    """Return the fields of a configuration, for a cluster that is made from it."""
    row = await _existing(session, account_id, name)
    return dict(row.spec)


async def _existing(session: AsyncSession, account_id: str, name: str) -> Configuration:
    row = await session.get(Configuration, (account_id, name)) if SLUG.fullmatch(name) else None
    if row is None:
        raise NotFoundError(
            f"There is no cluster configuration {name[:60]!r} in this account.",
            advice="List them with: ropewalk.list_cluster_configurations()",
            field="configuration",
        )
    return row


def _shown(row: Configuration, account: str) -> ConfigurationSchema:
    return ConfigurationSchema(name=row.name, account=account, spec=row.spec, updated_at=row.updated_at)
