"""Setting up an AWS account: what it makes, costs and may do; then the key."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ropewalk.errors import ConflictError, InputError, UnavailableError
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.aws_policy import policy
from ropewalk.schemas.aws_trust import assume_policy, trust_policy
from ropewalk.schemas.cloud_accounts import CloudAccount, CloudKind
from ropewalk.server.cloud_accounts import service, setting
from ropewalk.server.cloud_accounts.offers import aws_offer
from ropewalk.server.context import Context
from ropewalk.server.web import aws_console, cloud_forms
from ropewalk.server.web.cloud import Done, Setter, address
from ropewalk.server.web.cloud_work import attachment
from ropewalk.server.web.deps import AccountVisit, ContextDep, address_of, check_form, done, show
from ropewalk.server.web.drafts import KEPT, DraftRoute, key_id

router = APIRouter(prefix="/accounts/{account}/cloud-account/aws", route_class=DraftRoute, include_in_schema=False)

Region = Annotated[str, Query(max_length=40)]
Network = Annotated[str, Query(max_length=10)]
Scoped = Annotated[bool, Query()]


@router.get("")
async def explain(
    context: ContextDep, visit: Setter, *, region: Region = "", network: Network = "", scoped: Scoped = False
) -> Response:
    """Explain what would be made, what it costs, and what the key has to be allowed."""
    known = await setting.stored(context, visit.caller, CloudKind.AWS)
    chosen = {name: value for name, value in (("region", region.strip()), ("network", network)) if value}
    values = _values(known) | chosen
    offer = await aws_offer(cloud_forms.aws_settings(values))
    rights = policy(scoped=scoped, region=offer.region.name if scoped else "*")
    return await show(
        context,
        visit,
        "cloud/aws.html",
        here="cloud",
        offer=offer,
        network=values["network"],
        scoped=scoped,
        policy=json.dumps(rights, indent=2),
        spoken=aws_console.spoken,
        step=1,
    )


@router.get("/policy.json")
async def download(_context: ContextDep, _visit: Setter, *, region: Region = "", scoped: Scoped = False) -> Response:
    """Send the policy for the key's user."""
    return attachment(policy(scoped=scoped, region=(region or "*") if scoped else "*"), "ropewalk-policy.json")


@router.get("/set")
async def ask(
    context: ContextDep,
    visit: Setter,
    request: Request,
    wrong: Annotated[str, Query(max_length=40)] = "",
    done: Done = "",
) -> Response:
    """Show the form for the key and the settings, with what the address says, or else what is stored."""
    typed = {name: value for name, value in request.query_params.items() if name in KEPT}
    values: dict[str, Any] = {"done": done}
    if wrong:
        cloud = await service.get_cloud_account(context, visit.caller)
        values |= {"error": _why(cloud, wrong), "field": cloud_forms.marked(wrong)}
    return await _page(context, visit, typed, **values)


def _why(cloud: CloudAccount, setting_name: str) -> str:
    """Return what stands in the way: as preparing said it, or else as the last check did."""
    items = cloud.last_check.items if cloud.last_check else []
    found = [item for item in items if item.name == f"setting {setting_name}"]
    said = [f"{item.message} {item.advice or ''}".strip() for item in found]
    return cloud.reason or " ".join(said)


@router.post("/set")
async def set_key(context: ContextDep, visit: Setter, request: Request) -> Response:
    """Store key and settings once AWS has said whose key it is; then check the rights."""
    async with request.form() as form:
        typed = {name: value for name, value in form.items() if isinstance(value, str)}
    check_form(typed.pop("csrf", ""), visit.csrf)
    secret = typed.pop("secret_access_key", "")
    try:
        wish = cloud_forms.aws_wish(typed, secret)
        await setting.set_cloud_account(context, visit.caller, wish, address_of(request))
    except (InputError, ConflictError, UnavailableError) as exc:
        field = cloud_forms.marked(exc.field)
        # Messages are for the command line, too; whoever reads this one has the form before them.
        error = str(exc).replace("with `ropewalk cloud-account set aws`", "here")
        return await _page(context, visit, typed, status=exc.http_status, error=error, field=field)
    await service.check_cloud_account(context, visit.caller)
    return done(address(visit, "/check"), "cloud-set")


def _values(known: CloudAccount | None) -> dict[str, str]:
    return cloud_forms.aws_values(AwsSettings().model_dump(mode="json") if known is None else known.settings)


async def _page(context: Context, visit: AccountVisit, typed: Mapping[str, str], **values: Any) -> Response:
    """Show the form. Nothing secret is in it, whatever was typed and wherever."""
    known = await setting.stored(context, visit.caller, CloudKind.AWS)
    stored = _values(known)
    shown = stored | {name: value for name, value in typed.items() if name in stored}
    cloud = known or await service.get_cloud_account(context, visit.caller)
    values = {"error": "", "field": None, **values}
    return await show(
        context,
        visit,
        "cloud/aws-set.html",
        here="cloud",
        known=known,
        typed=shown,
        access_key_id=key_id(typed.get("access_key_id", "")),
        parts_of_form=cloud_forms.AWS_PARTS,
        names=[*stored, "access_key_id", "secret_access_key"],
        open=_unusual(shown) or _names(values["field"]),
        regions=await _regions(shown),
        external_id=cloud.external_id,
        trust=json.dumps(_trust(cloud), indent=2),
        assume=json.dumps(assume_policy(), indent=2),
        step=2,
        **values,
    )


def _trust(cloud: CloudAccount) -> dict[str, Any]:
    user = cloud.identity.name if cloud.identity and ":user/" in cloud.identity.name else None
    return trust_policy(cloud.external_id or "", user) if user else trust_policy(cloud.external_id or "")


def _unusual(shown: Mapping[str, str]) -> bool:
    """Whether something is not as most people leave it: then it is not hidden in a fold."""
    usual = _values(None)
    return any(shown[field.name] != usual[field.name] for part in cloud_forms.AWS_PARTS for field in part.fields)


def _names(field: str | None) -> bool:
    return any(field == each.name for part in cloud_forms.AWS_PARTS for each in part.fields)


async def _regions(shown: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the regions to choose from, with the one that is chosen."""
    offer = await aws_offer(AwsSettings(region=shown["region"]))
    known = [(each.name, each.title) for each in offer.regions]
    chosen = (offer.region.name, offer.region.title)
    return known if chosen in known else [chosen, *known]
