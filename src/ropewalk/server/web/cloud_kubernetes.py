"""Setting up a namespace of Kubernetes; there only where the operator offers it in pages."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from ropewalk.errors import ConflictError, InputError, NotFoundError, UnavailableError
from ropewalk.schemas.cloud_accounts import CloudKind
from ropewalk.schemas.kubernetes import KubernetesSettings
from ropewalk.schemas.kubernetes_manifest import manifest
from ropewalk.server.cloud_accounts import kubeconfigs, service, setting
from ropewalk.server.context import Context
from ropewalk.server.web import cloud_forms
from ropewalk.server.web.cloud import Setter, address
from ropewalk.server.web.deps import AccountVisit, ContextDep, address_of, check_form, done, show
from ropewalk.server.web.drafts import KEPT, DraftRoute

router = APIRouter(
    prefix="/accounts/{account}/cloud-account/kubernetes", route_class=DraftRoute, include_in_schema=False
)

NAMESPACE = "ropewalk"
"""What `ropewalk kubernetes manifest` takes as well when nobody says one."""


def _offered(context: Context) -> None:
    if not context.settings.kubernetes_in_web:
        raise NotFoundError(
            "This server does not offer Kubernetes in its pages.",
            advice="By command line it can be set: ropewalk cloud-account set kubernetes --help. "
            "An operator offers it here with the setting kubernetes_in_web.",
        )


@router.get("")
async def ask(context: ContextDep, visit: Setter, request: Request) -> Response:
    """Show what a namespace needs, and the form for its kubeconfig."""
    _offered(context)
    return await _page(context, visit, {name: value for name, value in request.query_params.items() if name in KEPT})


@router.post("")
async def set_kubeconfig(context: ContextDep, visit: Setter, request: Request) -> Response:
    """Keep one context of a kubeconfig, and settings; then check what may be done there."""
    _offered(context)
    typed, kubeconfig = await _read(request, visit)
    try:
        wish = cloud_forms.kubernetes_wish(typed, _text(kubeconfig))
        await setting.set_cloud_account(context, visit.caller, wish, address_of(request))
    except (InputError, ConflictError, UnavailableError) as exc:
        field = cloud_forms.marked(exc.field)
        return await _page(context, visit, typed, status=exc.http_status, error=str(exc), field=field)
    await service.check_cloud_account(context, visit.caller)
    return done(address(visit, "/check"), "cloud-set")


@router.post("/contexts")
async def contexts(context: ContextDep, visit: Setter, request: Request) -> Response:
    """Show what there is to choose from in a kubeconfig, as a part of the page. Nothing is kept."""
    _offered(context)
    typed, kubeconfig = await _read(request, visit)
    try:
        found, error = await kubeconfigs.contexts(_text(kubeconfig)) if kubeconfig.strip() else [], ""
    except InputError as exc:
        found, error = [], str(exc)
    chosen = {"context": typed.get("context", "")}
    values = {"contexts": found, "typed": chosen, "fragment_error": error, "field": None, "error": ""}
    return await show(context, visit, "cloud/contexts.html", **values)


async def _read(request: Request, visit: AccountVisit) -> tuple[dict[str, str], bytes]:
    """Return what was typed, and the kubeconfig, uploaded or else pasted; refuse forms of others."""
    async with request.form() as form:
        typed = {name: value for name, value in form.items() if isinstance(value, str)}
        check_form(typed.pop("csrf", ""), visit.csrf)
        pasted = typed.pop("kubeconfig", "").encode()
        file = form.get("file")
        uploaded = await file.read() if isinstance(file, UploadFile) and file.filename else b""
    return typed, uploaded or pasted


def _text(kubeconfig: bytes) -> str:
    try:
        return kubeconfig.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("This file is not a text, so it is no kubeconfig.", field="kubeconfig") from None


async def _page(context: Context, visit: AccountVisit, typed: Mapping[str, str], **values: Any) -> Response:
    """Show the form. Nothing of a kubeconfig is in it."""
    known = await setting.stored(context, visit.caller, CloudKind.KUBERNETES)
    usual = cloud_forms.kubernetes_values(KubernetesSettings().model_dump(mode="json"))
    stored = usual if known is None else cloud_forms.kubernetes_values(known.settings)
    shown = stored | {name: value for name, value in typed.items() if name in stored}
    namespace = shown["namespace"] or (str(known.settings["namespace"]) if known else NAMESPACE)
    fields = [field.name for part in cloud_forms.KUBERNETES_PARTS for field in part.fields]
    values = {"error": "", "field": None, **values}
    return await show(
        context,
        visit,
        "cloud/kubernetes.html",
        here="cloud",
        known=known,
        typed=shown,
        contexts=[],
        parts_of_form=cloud_forms.KUBERNETES_PARTS,
        names=[*stored, "kubeconfig"],
        fragment_error="",
        open=any(shown[name] != usual[name] for name in fields) or values["field"] in fields,
        namespace=shlex.quote(namespace),
        manifest=yaml.safe_dump_all(manifest(namespace), sort_keys=False).rstrip(),
        **values,
    )
