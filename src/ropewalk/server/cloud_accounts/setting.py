"""Choosing where an account's clusters run: settings and credentials, tried with the cloud before they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from sqlalchemy import select, update

from ropewalk.backends.port import Identifies, Identity, Place
from ropewalk.errors import BackendError, ConflictError, FixItError, InputError, UnavailableError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import CloudAccount as CloudAccountSchema
from ropewalk.schemas.cloud_accounts import CloudKind, CloudState, SetAws, SetHosted, SetKubernetes
from ropewalk.schemas.kubernetes import KubernetesSettings
from ropewalk.server.blueprint import Blueprint
from ropewalk.server.cloud_accounts import present
from ropewalk.server.cloud_accounts.making import load, resources_of
from ropewalk.server.cloud_accounts.service import resolve
from ropewalk.server.cloud_accounts.stored import credentials, set_credentials, touch
from ropewalk.server.db.models import Account, CloudAccount, Cluster, IndexCredential, Installation, new_id
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["set_cloud_account", "stored"]

IDENTITY_SECONDS = 30.0
"""Who a key is takes one request; more than this is an outage."""

PLACE_OF = {CloudKind.AWS: ("region", "role_arn"), CloudKind.KUBERNETES: ("server", "namespace")}
"""Settings that say where resources and clusters are: they stay while there are any."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A cloud account as it would be, before anything is stored."""

    kind: CloudKind
    row_id: str
    account: str
    installation: str
    settings: dict[str, Any]
    secret: Mapping[str, Any] | None = field(repr=False)
    """New credentials; None: those that are stored."""
    stored: CloudAccount | None
    """The row as it was when it was read."""


async def set_cloud_account(
    context: Context, caller: AccountCaller, wish: SetHosted | SetAws | SetKubernetes, address: str | None
) -> CloudAccountSchema:
    """Let new clusters of the account run elsewhere. Clusters that run stay where they are.

    Args:
        context: The server's services.
        caller: Who wishes it, for which account.
        wish: Settings and credentials; what it leaves out stays as it is.
        address: Where the wish came from: the default of who may reach schedulers.

    Raises:
        InputError: Settings or credentials are not accepted, by us or by the cloud; names the field. Nothing changed.
        ConflictError: It would lose sight of what exists in the cloud.
        UnavailableError: The cloud could not be asked. Nothing changed.
    """
    if isinstance(wish, SetHosted):
        return await _use_hosted(context, caller)
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        installation = (await session.scalars(select(Installation.id))).one()
        before = await _of_kind(session, account, CloudKind(wish.kind))
    if isinstance(wish, SetAws):
        wanted = await _aws(account, installation, before, wish, address)
    else:
        wanted = await _kubernetes(context, account, installation, before, wish)
    identity = await _try(context, wanted)
    return await _store(context, caller, wanted, identity)


async def stored(context: Context, caller: AccountCaller, kind: CloudKind) -> CloudAccountSchema | None:
    """Return the account's cloud account of a kind that setting would change; None: there is none yet."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await _of_kind(session, account, kind)
        return None if row is None else await present.shown(session, account, row)


async def _of_kind(session: AsyncSession, account: Account, kind: CloudKind) -> CloudAccount | None:
    """Return the account's cloud account of that kind: the present one, or else the one that it had last."""
    mine = select(CloudAccount).where(CloudAccount.account_id == account.id, CloudAccount.kind == kind.value)
    rows = list(
        await session.scalars(mine.where(CloudAccount.forgotten_at.is_(None)).order_by(CloudAccount.created_at))
    )
    return next((row for row in rows if row.id == account.cloud_account_id), rows[-1] if rows else None)


# What is wished.


async def _aws(
    account: Account, installation: str, before: CloudAccount | None, wish: SetAws, address: str | None
) -> _Wish:
    secret = await _validated(wish)
    given = wish.settings.model_dump(mode="json", exclude_unset=True)
    ours = present.external_id(installation, account.id)
    if given.get("external_id") not in (None, ours):
        raise InputError(
            "The external id is made by Ropewalk and cannot be chosen.",
            advice=f"Leave it out; the role's trust policy has to ask for {ours}",
            field="settings.external_id",
        )
    given["external_id"] = ours
    old = {} if before is None else before.settings
    if not given.get("allow_ingress_from") and not old.get("allow_ingress_from"):
        seen = present.ingress_of(address)
        given["allow_ingress_from"] = [seen] if seen else []
    settings = AwsSettings.model_validate({**old, **given}).model_dump(mode="json")
    return _wished(CloudKind.AWS, account, installation, before, settings, secret)


async def _validated(wish: SetAws) -> dict[str, str] | None:
    """Return the key, if it is one that can be used for long."""
    if wish.session_token is None and wish.credentials is None:
        return None
    await asyncio.to_thread(load, CloudKind.AWS.value)
    given = wish.credentials or AwsCredentials(access_key_id="", secret_access_key=SecretStr(""))
    import_module("ropewalk.backends.aws.credentials").validate(given, wish.session_token)
    return _revealed(given.model_dump())


async def _kubernetes(
    context: Context, account: Account, installation: str, before: CloudAccount | None, wish: SetKubernetes
) -> _Wish:
    given = wish.settings.model_dump(mode="json", exclude_unset=True)
    old = {} if before is None else before.settings
    secret = None
    if wish.kubeconfig is not None:
        await asyncio.to_thread(load, CloudKind.KUBERNETES.value)
        parse = import_module("ropewalk.backends.kubernetes.kubeconfig").parse_kubeconfig
        kept, found = await asyncio.to_thread(
            parse,
            wish.kubeconfig.get_secret_value(),
            given.get("context"),
            given.get("namespace"),
            context.settings.kubernetes_allow_insecure,
        )
        secret = _revealed(kept.model_dump(mode="python"))
        given |= found.model_dump(mode="json", include={"namespace", "context", "server"})
    elif any(given.get(name) not in (None, old.get(name)) for name in ("context", "server")):
        raise InputError(
            "Of the kubeconfig only one context was kept, so another one cannot be chosen.",
            advice="Send the kubeconfig again, with the context to use.",
            field="settings.context",
        )
    settings = KubernetesSettings.model_validate({**old, **given}).model_dump(mode="json")
    login = settings["image_registry_credentials"]
    if login is not None and login != old.get("image_registry_credentials"):
        await _demand_login(context, account, login)
    return _wished(CloudKind.KUBERNETES, account, installation, before, settings, secret)


async def _demand_login(context: Context, account: Account, name: str) -> None:
    """Raise InputError where an account has stored no credentials of a name."""
    mine = select(IndexCredential.id).where(IndexCredential.account_id == account.id, IndexCredential.name == name)
    async with context.db.read() as session:
        if await session.scalar(mine) is None:
            raise InputError(
                f"The account has stored no credentials that are called {name[:60]!r}.",
                advice="Store them first, in the browser or with `ropewalk env credentials set`.",
                field="settings.image_registry_credentials",
            )


def _revealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values of what is about to be encrypted."""
    return {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in values.items()
    }


def _wished(
    kind: CloudKind,
    account: Account,
    installation: str,
    before: CloudAccount | None,
    settings: dict[str, Any],
    secret: Mapping[str, Any] | None,
) -> _Wish:
    if secret is None and (before is None or before.credentials is None):
        raise InputError(
            f"No credentials are stored for the {kind} cloud account of {account.slug!r} yet.",
            advice=f"Give them: ropewalk cloud-account set {kind} --help says how.",
            field="kubeconfig" if kind is CloudKind.KUBERNETES else "credentials",
        )
    row_id = new_id("ca") if before is None else before.id
    return _Wish(kind, row_id, account.slug, installation, settings, secret, before)


# Whether the cloud accepts it.


async def _try(context: Context, wish: _Wish) -> Identity | None:
    """Let the cloud say who the credentials are; nothing is stored yet."""
    secret = wish.secret
    if secret is None and wish.stored is not None:
        secret = credentials(context.vault, wish.stored)
    place = Place(wish.installation, wish.row_id, wish.account)
    resources = [] if wish.stored is None else resources_of(wish.stored)
    try:
        async with context.backends.tried(
            Blueprint(wish.kind.value, place, wish.settings, secret, resources)
        ) as backend:
            if not isinstance(backend, Identifies):
                return None
            async with asyncio.timeout(IDENTITY_SECONDS):
                return await backend.identity()
    except FixItError as exc:
        raise InputError(exc.message, advice=exc.advice, field=exc.field, details=exc.details) from None
    except (BackendError, TimeoutError) as exc:
        why = exc.message if isinstance(exc, BackendError) else f"no answer within {IDENTITY_SECONDS:.0f} seconds."
        raise UnavailableError(
            f"The cloud could not be asked who these credentials are, so nothing was stored: {why}",
            advice="Try again in a moment.",
        ) from None


# Storing it.


async def _store(context: Context, caller: AccountCaller, wish: _Wish, identity: Identity | None) -> CloudAccountSchema:
    now = context.clock.now()
    async with context.db.transaction() as session:
        await context.db.serialize(session, f"cloud-account:{caller.account_id}")
        account = await session.get_one(Account, caller.account_id, with_for_update=True)
        row = await _of_kind(session, account, wish.kind)
        if row is not None:
            await session.refresh(row, with_for_update=True)
        if _version(row) != _version(wish.stored):
            if row is not None and account.cloud_account_id == row.id and _same(context, row, wish):
                return await present.shown(session, account, row)  # sent twice, it is done once
            raise ConflictError(
                "Somebody else changed the cloud account at the same moment.", advice="Look at it, and try again."
            )
        if row is None:
            row = _new_row(wish, caller.account_id, now)
            session.add(row)
        else:
            await _refuse_to_lose(session, row, wish, identity)
        what = _changes(row, wish, account)
        _write(context, row, wish, identity, now)
        await session.flush()
        account.cloud_account_id = row.id
        woken = await _another_chance(session, row, now)
        record(
            session,
            now,
            EventCode.CLOUD_ACCOUNT_UPDATED,
            f"{caller.username} set the cloud account of {account.slug!r} to {wish.kind}: {what}.",
            account_id=account.id,
            cloud_account_id=row.id,
            actor=caller.username,
            details={"cloud_account": row.id, "kind": wish.kind.value, "identity": identity and identity.name},
        )
        await session.flush()
        await context.wakeups.announce(session, f"cloud:{row.id}", *present.topics(row), *woken)
        return await present.shown(session, account, row)


def _version(row: CloudAccount | None) -> tuple[str, datetime] | None:
    return None if row is None else (row.id, row.updated_at)


def _same(context: Context, row: CloudAccount, wish: _Wish) -> bool:
    """Whether what is wished is what is stored."""
    return row.settings == wish.settings and wish.secret in (None, credentials(context.vault, row))


def _new_row(wish: _Wish, account_id: str, now: datetime) -> CloudAccount:
    # Kubernetes has nothing to make: its `prepare` is a check.
    state = CloudState.NEW if wish.kind is CloudKind.AWS else CloudState.READY
    return CloudAccount(
        id=wish.row_id,
        account_id=account_id,
        kind=wish.kind.value,
        backend=wish.kind.value,
        settings={},
        infrastructure={},
        state=state.value,
        attempts=0,
        fence=0,
        created_at=now,
        updated_at=now,
    )


async def _refuse_to_lose(session: AsyncSession, row: CloudAccount, wish: _Wish, identity: Identity | None) -> None:
    """Refuse what would make resources or clusters unreachable that exist where the row points to."""
    moved = [name for name in PLACE_OF[wish.kind] if row.settings.get(name) != wish.settings.get(name)]
    # A role of the same AWS account reaches the same resources.
    if "role_arn" in moved and identity is not None:
        moved.remove("role_arn")
    owner = (row.identity or {}).get("owner")
    other = identity is not None and owner is not None and identity.owner != owner
    if not moved and not other:
        return
    held = [f"{item['kind']} {item['id']}" for item in present.owned(row)]
    held += [f"cluster {cluster.name}" for cluster in await present.live_clusters(session, row.id)]
    if not held and not present.under_way(row):
        return
    is_what = f"of {identity.owner}, not of {owner}" if other and identity else f"for another {' and '.join(moved)}"
    raise ConflictError(
        f"This is {is_what}, where the cloud account still holds {_listed(held)}: they would be lost sight of.",
        advice="Stop the clusters and remove the resources first: ropewalk cloud-account teardown. "
        "For credentials of the same place, nothing needs to be removed.",
        field="credentials" if other else f"settings.{moved[0]}",
        details={"held": held},
    )


def _listed(things: list[str]) -> str:
    return ", ".join(things[:5]) + (f" and {len(things) - 5} more" if len(things) > 5 else "")


def _changes(row: CloudAccount, wish: _Wish, account: Account) -> str:
    names = [name for name, value in wish.settings.items() if row.settings.get(name) != value]
    parts = ["new credentials"] if wish.secret is not None else []
    if row.settings and names:
        parts.append(f"changed {', '.join(sorted(names))}")
    if row.settings and account.cloud_account_id != row.id:
        parts.append("new clusters run there again")
    return "; ".join(parts) or "nothing changed"


def _write(context: Context, row: CloudAccount, wish: _Wish, identity: Identity | None, now: datetime) -> None:
    row.settings = wish.settings
    if wish.secret is not None:
        set_credentials(context.vault, row, wish.secret, now)
    else:
        touch(row, now)
    if identity is not None:
        row.identity = {"owner": identity.owner, "name": identity.name, "warning": identity.warning}
    # What stopped for want of a right or a key goes on by itself.
    row.unreachable = None
    if row.work is not None:
        row.state = (CloudState.PREPARING if row.work == "prepare" else CloudState.TEARING_DOWN).value
        row.reason, row.attempts, row.retry_at = None, 0, None


async def _another_chance(session: AsyncSession, row: CloudAccount, now: datetime) -> list[str]:
    """Let clusters there try again what the cloud refused, as after a new wish; returns the topics to wake."""
    there = [cluster.id for cluster in await present.live_clusters(session, row.id)]
    await session.execute(update(Cluster).where(Cluster.id.in_(there)).values(desired_changed_at=now))
    return [f"cluster:{cluster_id}" for cluster_id in there]


async def _use_hosted(context: Context, caller: AccountCaller) -> CloudAccountSchema:
    """Let new clusters run on the operator's cloud account; what the account has elsewhere stays and is shown."""
    async with context.db.transaction() as session:
        account = await session.get_one(Account, caller.account_id, with_for_update=True)
        before, account.cloud_account_id = account.cloud_account_id, None
        if before is not None:
            record(
                session,
                context.clock.now(),
                EventCode.CLOUD_ACCOUNT_UPDATED,
                f"{caller.username} set the cloud account of {account.slug!r} to hosted.",
                account_id=account.id,
                cloud_account_id=before,
                actor=caller.username,
                details={"cloud_account": before, "kind": CloudKind.HOSTED.value},
            )
            await context.wakeups.announce(session, f"events:{before}", f"clouds:{account.id}")
        return await present.shown(session, account, await resolve(session, account))
