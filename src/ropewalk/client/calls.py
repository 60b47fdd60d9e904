"""Every call of the HTTP API that clients make, as plain descriptions: what is sent, and what the answer is.

A description is run by :class:`~ropewalk.client.http.Api` or awaited with :class:`~ropewalk.client.http.AsyncApi`, so
that each call is written once::

    clusters = api(calls.list_clusters(account="team"))
    clusters = await async_api(calls.list_clusters(account="team"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from ropewalk.schemas.audit import AuditEvent, AuditQuery
from ropewalk.schemas.cloud_accounts import (
    CheckReport,
    CloudAccount,
    HostedSettings,
    PreparePlan,
    PrepareRequest,
    SetAws,
    SetHosted,
    SetKubernetes,
)
from ropewalk.schemas.clusters import (
    Cluster,
    ClusterCreate,
    ClusterDetail,
    ClusterScale,
    ClusterUpdate,
    Configuration,
    ConfigurationSet,
    Connection,
    Cost,
    CostEstimate,
    DashboardTicket,
    LogPage,
    Timeline,
)
from ropewalk.schemas.common import Event
from ropewalk.schemas.diagnostics import ServerDiagnostics
from ropewalk.schemas.environments import (
    Environment,
    EnvironmentBuild,
    EnvironmentCreate,
    EnvironmentDetail,
    EnvironmentDiff,
    IndexCredentials,
    IndexCredentialsSet,
    LocalWheel,
    LogPart,
    WheelsWanted,
)
from ropewalk.schemas.identity import (
    Account,
    AccountCreate,
    AccountUpdate,
    DeviceCode,
    DeviceStart,
    DeviceToken,
    DeviceTokenRequest,
    Invitation,
    InvitationAccept,
    InvitationCreate,
    InvitationCreated,
    Joined,
    Me,
    Member,
    MemberSet,
    PasswordLogin,
    SetupRequest,
    Token,
    TokenCreate,
    TokenCreated,
    User,
    UserCreate,
    UserUpdate,
)
from ropewalk.schemas.images import Digests, Image, Upload, UploadStart
from ropewalk.schemas.usage import Usage, UsageQuery

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One HTTP request and the type of its answer.

    ``repeatable``: doing it twice is the same as doing it once, so a lost answer may be asked for again.
    ``body`` may hold secrets and is left out of the representation.
    """

    method: str
    path: str
    answer: Any
    """A type that pydantic can validate; ``bytes``: as it is; None: there is no answer to read."""
    body: BaseModel | None = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)
    repeatable: bool = True
    anonymous: bool = False
    """Sent without a token."""
    content: bytes | None = field(default=None, repr=False)
    """Sent as it is, in place of ``body``."""
    content_type: str = "application/octet-stream"
    seconds: float | None = None
    """How long the answer may take where the server asks a cloud meanwhile; None: as usual."""


CLOUD_SECONDS = 90.0
"""The server gives up asking a cloud after 60 seconds."""


def _params(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _get(path: str, answer: Any, **params: Any) -> Call[Any]:
    return Call("GET", path, answer, params=_params(**params))


def _post(path: str, answer: Any, body: BaseModel | None = None, *, anonymous: bool = False) -> Call[Any]:
    return Call("POST", path, answer, body, repeatable=False, anonymous=anonymous)


def _put(path: str, answer: Any, body: BaseModel) -> Call[Any]:
    return Call("PUT", path, answer, body)


def _patch(path: str, answer: Any, body: BaseModel) -> Call[Any]:
    # Fields are set to values, never changed relative to what they were: repeatable.
    return Call("PATCH", path, answer, body)


def _delete(path: str, answer: Any = None, **params: Any) -> Call[Any]:
    return Call("DELETE", path, answer, params=_params(**params))


def _at(*parts: str) -> str:
    """Return a path below the API's prefix; names come from people, so each is quoted."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


# Identity.


def me() -> Call[Me]:
    return _get("/me", Me)


def setup(request: SetupRequest) -> Call[TokenCreated]:
    return _post("/setup", TokenCreated, request, anonymous=True)


def password_login(request: PasswordLogin) -> Call[TokenCreated]:
    return _post("/login", TokenCreated, request, anonymous=True)


def device_start(request: DeviceStart) -> Call[DeviceCode]:
    return _post("/device", DeviceCode, request, anonymous=True)


def device_token(request: DeviceTokenRequest) -> Call[DeviceToken]:
    return _post("/device/token", DeviceToken, request, anonymous=True)


def list_tokens() -> Call[list[Token]]:
    return _get("/tokens", list[Token])


def create_token(request: TokenCreate) -> Call[TokenCreated]:
    return _post("/tokens", TokenCreated, request)


def delete_token(token: str) -> Call[None]:
    return _delete(_at("tokens", token))


def list_users() -> Call[list[User]]:
    return _get("/users", list[User])


def create_user(request: UserCreate) -> Call[User]:
    return _post("/users", User, request)


def get_user(username: str) -> Call[User]:
    return _get(_at("users", username), User)


def update_user(username: str, request: UserUpdate) -> Call[User]:
    return _patch(_at("users", username), User, request)


def list_accounts(*, everyone: bool = False) -> Call[list[Account]]:
    """Your accounts; *everyone*: all of the installation, for operators."""
    return _get("/accounts", list[Account], all="true" if everyone else None)


def create_account(request: AccountCreate) -> Call[Account]:
    return _post("/accounts", Account, request)


def get_account(account: str) -> Call[Account]:
    return _get(_at("accounts", account), Account)


def update_account(account: str, request: AccountUpdate) -> Call[Account]:
    return _patch(_at("accounts", account), Account, request)


def list_members(account: str) -> Call[list[Member]]:
    return _get(_at("accounts", account, "members"), list[Member])


def set_member(account: str, username: str, request: MemberSet) -> Call[Member]:
    return _put(_at("accounts", account, "members", username), Member, request)


def delete_member(account: str, username: str) -> Call[None]:
    return _delete(_at("accounts", account, "members", username))


def list_invitations(account: str) -> Call[list[Invitation]]:
    return _get(_at("accounts", account, "invitations"), list[Invitation])


def invite(account: str, request: InvitationCreate) -> Call[InvitationCreated]:
    return _post(_at("accounts", account, "invitations"), InvitationCreated, request)


def revoke_invitation(account: str, invitation: str) -> Call[None]:
    return _delete(_at("accounts", account, "invitations", invitation))


def accept_invitation(request: InvitationAccept) -> Call[Joined]:
    return _post("/invitations/accept", Joined, request)


def get_cloud_account(account: str, cloud_account: str | None = None) -> Call[CloudAccount]:
    """The cloud account where new clusters run; or, by id, a former one."""
    return _get(_at("accounts", account, "cloud-account"), CloudAccount, id=cloud_account)


def set_cloud_account(account: str, request: SetHosted | SetAws | SetKubernetes) -> Call[CloudAccount]:
    call = _put(_at("accounts", account, "cloud-account"), CloudAccount, request)
    return replace(call, seconds=CLOUD_SECONDS)


def forget_cloud_account(account: str, cloud_account: str | None = None, *, force: bool = False) -> Call[CloudAccount]:
    path = _at("accounts", account, "cloud-account")
    # Asked again after a lost answer, it would concern whatever is in use then: only an id makes it repeatable.
    call = _delete(path, CloudAccount, id=cloud_account, force="true" if force else None)
    return replace(call, repeatable=cloud_account is not None)


def check_cloud_account(account: str, cloud_account: str | None = None) -> Call[CheckReport]:
    call = _post(_at("accounts", account, "cloud-account", "check"), CheckReport)
    return replace(call, params=_params(id=cloud_account), seconds=CLOUD_SECONDS)


def plan_cloud_account(account: str, cloud_account: str | None = None) -> Call[PreparePlan]:
    return _get(_at("accounts", account, "cloud-account", "prepare"), PreparePlan, id=cloud_account)


def prepare_cloud_account(
    account: str, request: PrepareRequest, cloud_account: str | None = None
) -> Call[CloudAccount]:
    # Wishing it twice is the same as once: repeatable.
    path = _at("accounts", account, "cloud-account", "prepare")
    return Call("POST", path, CloudAccount, request, params=_params(id=cloud_account))


def teardown_cloud_account(account: str, cloud_account: str | None = None) -> Call[CloudAccount]:
    path = _at("accounts", account, "cloud-account", "teardown")
    return Call("POST", path, CloudAccount, params=_params(id=cloud_account))


def list_cloud_account_events(
    account: str, cloud_account: str | None = None, *, after: int | None = None, limit: int | None = None
) -> Call[list[Event]]:
    path = _at("accounts", account, "cloud-account", "events")
    return _get(path, list[Event], id=cloud_account, after=after, limit=limit)


def get_hosted() -> Call[HostedSettings]:
    return _get("/hosted", HostedSettings)


def set_hosted(settings: HostedSettings) -> Call[HostedSettings]:
    return _put("/hosted", HostedSettings, settings)


def audit(query: AuditQuery) -> Call[list[AuditEvent]]:
    return _get("/audit", list[AuditEvent], **query.model_dump(mode="json", exclude_unset=True))


# Clusters.


def create_cluster(account: str, request: ClusterCreate, *, reattach: bool = True) -> Call[ClusterDetail]:
    """Ask for a cluster; with *reattach* a live one of that name is returned, which makes it safe to ask again."""
    return Call(
        "POST",
        _at("accounts", account, "clusters"),
        ClusterDetail,
        request,
        params={"reattach": "true"} if reattach else {},
        repeatable=reattach and request.name is not None,
    )


def list_clusters(
    account: str | None = None,
    *,
    state: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    before: str | None = None,
) -> Call[list[Cluster]]:
    """Clusters of one account, or of all yours; *state* is ``live`` or ``all``; newest first."""
    path = "/clusters" if account is None else _at("accounts", account, "clusters")
    return _get(path, list[Cluster], state=state, name=name, limit=limit, before=before)


def get_cluster(account: str, cluster: str) -> Call[ClusterDetail]:
    return _get(_at("accounts", account, "clusters", cluster), ClusterDetail)


def stop_cluster(account: str, cluster: str, *, reason: str | None = None) -> Call[ClusterDetail]:
    return _delete(_at("accounts", account, "clusters", cluster), ClusterDetail, reason=reason)


def scale_cluster(account: str, cluster: str, request: ClusterScale) -> Call[ClusterDetail]:
    # Sets the wanted number, whatever it was: repeatable.
    return Call("POST", _at("accounts", account, "clusters", cluster, "scale"), ClusterDetail, request)


def update_cluster(account: str, cluster: str, request: ClusterUpdate) -> Call[ClusterDetail]:
    return _patch(_at("accounts", account, "clusters", cluster), ClusterDetail, request)


def get_connection(account: str, cluster: str) -> Call[Connection]:
    return _get(_at("accounts", account, "clusters", cluster, "connection"), Connection)


def open_dashboard(account: str, cluster: str) -> Call[DashboardTicket]:
    return _post(_at("accounts", account, "clusters", cluster, "dashboard"), DashboardTicket)


def list_events(account: str, cluster: str, *, after: int | None = None, limit: int | None = None) -> Call[list[Event]]:
    return _get(_at("accounts", account, "clusters", cluster, "events"), list[Event], after=after, limit=limit)


def get_timeline(account: str, cluster: str) -> Call[Timeline]:
    return _get(_at("accounts", account, "clusters", cluster, "timeline"), Timeline)


def get_server_diagnostics() -> Call[ServerDiagnostics]:
    return _get("/diagnostics", ServerDiagnostics)


def get_logs(
    account: str, cluster: str, *, node: str | None = None, cursor: str | None = None, limit: int | None = None
) -> Call[list[LogPage]]:
    path = _at("accounts", account, "clusters", cluster, "logs")
    return _get(path, list[LogPage], node=node, cursor=cursor, limit=limit)


def get_cost(account: str, cluster: str) -> Call[Cost]:
    return _get(_at("accounts", account, "clusters", cluster, "cost"), Cost)


def get_usage(account: str, query: UsageQuery) -> Call[Usage]:
    return _get(_at("accounts", account, "usage"), Usage, **query.model_dump(mode="json", exclude_unset=True))


def estimate_cost(account: str, request: ClusterCreate) -> Call[CostEstimate]:
    # Changes nothing: repeatable.
    return Call("POST", _at("accounts", account, "cost-estimate"), CostEstimate, request)


def list_configurations(account: str) -> Call[list[Configuration]]:
    return _get(_at("accounts", account, "configurations"), list[Configuration])


def get_configuration(account: str, name: str) -> Call[Configuration]:
    return _get(_at("accounts", account, "configurations", name), Configuration)


def set_configuration(account: str, name: str, request: ConfigurationSet) -> Call[Configuration]:
    return _put(_at("accounts", account, "configurations", name), Configuration, request)


def delete_configuration(account: str, name: str) -> Call[None]:
    return _delete(_at("accounts", account, "configurations", name))


# Software environments.


def list_environments(account: str, *, managed: bool = False) -> Call[list[Environment]]:
    path = _at("accounts", account, "environments")
    return _get(path, list[Environment], managed="true" if managed else None)


def create_environment(account: str, request: EnvironmentCreate) -> Call[EnvironmentDetail]:
    # What is the newest version already makes none: repeatable, unless a rebuild is forced.
    call = _post(_at("accounts", account, "environments"), EnvironmentDetail, request)
    return replace(call, repeatable=not request.force_rebuild)


def get_environment(account: str, name: str) -> Call[EnvironmentDetail]:
    return _get(_at("accounts", account, "environments", name), EnvironmentDetail)


def delete_environment(account: str, name: str) -> Call[None]:
    return _delete(_at("accounts", account, "environments", name))


def rebuild_environment(account: str, name: str) -> Call[EnvironmentDetail]:
    return _post(_at("accounts", account, "environments", name, "rebuild"), EnvironmentDetail)


def diff_environment(account: str, name: str, before: int, after: int) -> Call[EnvironmentDiff]:
    return _get(_at("accounts", account, "environments", name, "diff"), EnvironmentDiff, before=before, after=after)


def get_build(account: str, build: str) -> Call[EnvironmentBuild]:
    return _get(_at("accounts", account, "builds", build), EnvironmentBuild)


def get_build_log(account: str, build: str, *, offset: int = 0, wait: float | None = None) -> Call[LogPart]:
    call = _get(_at("accounts", account, "builds", build, "log"), LogPart, offset=offset, wait=wait)
    return replace(call, seconds=None if wait is None else wait + CLOUD_SECONDS)


def missing_wheels(account: str, wheels: WheelsWanted) -> Call[list[LocalWheel]]:
    return replace(_post(_at("accounts", account, "wheels", "missing"), list[LocalWheel], wheels), repeatable=True)


def send_wheel(account: str, wheel: LocalWheel, content: bytes) -> Call[None]:
    path = _at("accounts", account, "wheels", wheel.sha256, wheel.filename)
    return Call("PUT", path, None, content=content, seconds=CLOUD_SECONDS)


def get_wheel(account: str, wheel: LocalWheel) -> Call[bytes]:
    path = _at("accounts", account, "wheels", wheel.sha256, wheel.filename)
    return replace(_get(path, bytes), seconds=CLOUD_SECONDS)


def list_index_credentials(account: str) -> Call[list[IndexCredentials]]:
    return _get(_at("accounts", account, "index-credentials"), list[IndexCredentials])


def set_index_credentials(account: str, name: str, request: IndexCredentialsSet) -> Call[IndexCredentials]:
    return _put(_at("accounts", account, "index-credentials", name), IndexCredentials, request)


def delete_index_credentials(account: str, name: str) -> Call[None]:
    return _delete(_at("accounts", account, "index-credentials", name))


# Images.


def list_images(account: str) -> Call[list[Image]]:
    return replace(_get(_at("accounts", account, "images"), list[Image]), seconds=CLOUD_SECONDS)


def missing_blobs(account: str, digests: Digests) -> Call[Digests]:
    call = _post(_at("accounts", account, "images", "missing"), Digests, digests)
    return replace(call, repeatable=True, seconds=CLOUD_SECONDS)


def begin_upload(account: str, request: UploadStart) -> Call[Upload]:
    # Begun twice, one of both is forgotten by the registry: nothing is lost.
    call = _post(_at("accounts", account, "images", "uploads"), Upload, request)
    return replace(call, repeatable=True, seconds=CLOUD_SECONDS)


def send_part(account: str, upload: Upload, data: bytes) -> Call[Upload]:
    path = _at("accounts", account, "images", "uploads", upload.id)
    return Call("PUT", path, Upload, content=data, params={"first": upload.offset}, seconds=CLOUD_SECONDS)


def finish_upload(account: str, upload: str, digest: str) -> Call[None]:
    path = _at("accounts", account, "images", "uploads", upload, "finish")
    return Call("POST", path, None, params={"digest": digest}, seconds=CLOUD_SECONDS)


def put_image(account: str, tag: str, manifest: bytes, media_type: str) -> Call[Image]:
    path = _at("accounts", account, "images", tag)
    return Call("PUT", path, Image, content=manifest, content_type=media_type, seconds=CLOUD_SECONDS)


def delete_image(account: str, name: str) -> Call[None]:
    return replace(_delete(_at("accounts", account, "images", name)), seconds=CLOUD_SECONDS)
