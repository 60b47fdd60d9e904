"""Functions of ``import ropewalk`` about where an account's clusters run.

Each takes ``account=``. In coroutines pass ``asynchronous=True`` and await the result.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr, ValidationError

from ropewalk.client import calls, config
from ropewalk.client.http import Api, AsyncApi, Steps
from ropewalk.errors import FixItError, InputError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import (
    CheckReport,
    CloudAccount,
    CloudState,
    PreparePlan,
    PrepareRequest,
    SetAws,
    SetHosted,
    SetKubernetes,
)
from ropewalk.schemas.kubernetes import KubernetesSettings

if TYPE_CHECKING:
    from ropewalk.client.calls import Call
    from ropewalk.schemas.common import Event

__all__ = [
    "check_cloud_account",
    "forget_cloud_account",
    "get_cloud_account",
    "plan_cloud_account",
    "prepare_cloud_account",
    "set_cloud_account",
    "teardown_cloud_account",
]

Tell = Callable[["Event"], object]


def _choose(account: str | None) -> tuple[config.Login, str | None]:
    login = config.current_login()
    login.require_token()
    return login, config.split_name(None, account)[0]


def _slug(login: config.Login, account: str | None) -> Steps[str]:
    me = yield calls.me()
    return config.choose_account(me, account, login.account)


def _one(make: Callable[[str], Call[Any]], account: str | None, asynchronous: bool) -> Any:
    """Run one call, made from the account's slug."""
    login, given = _choose(account)

    def steps() -> Steps[Any]:
        answer = yield make((yield from _slug(login, given)))
        return answer

    if asynchronous:
        return _later(login, steps())
    with Api(login.server, login.token) as api:
        return api.drive(steps())


async def _later(login: config.Login, steps: Steps[Any]) -> Any:
    async with AsyncApi(login.server, login.token) as api:
        return await api.drive(steps)


def get_cloud_account(account: str | None = None, *, asynchronous: bool = False) -> CloudAccount:
    """Return where an account's new clusters run: its settings, state and resources, never its credentials."""
    found: CloudAccount = _one(calls.get_cloud_account, account, asynchronous)
    return found


def set_cloud_account(
    kind: str,
    account: str | None = None,
    *,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    kubeconfig: str | Path | None = None,
    asynchronous: bool = False,
    **settings: Any,
) -> CloudAccount:
    """Choose where an account's new clusters run. What is left out stays as it is, stored credentials included.

    ::

        ropewalk.set_cloud_account("aws", access_key_id="AKIA…", secret_access_key="…", region="eu-central-1")
        ropewalk.set_cloud_account("kubernetes", kubeconfig="team.yaml", namespace="dask")
        ropewalk.set_cloud_account("hosted")

    Args:
        kind: ``"aws"``, ``"kubernetes"`` or ``"hosted"``.
        account: Whose; by default yours.
        access_key_id: Of a long-lived AWS key.
        secret_access_key: Its secret.
        session_token: Refused with an explanation: such keys end within hours.
        kubeconfig: Path of a kubeconfig; one context of it is kept.
        asynchronous: Return an awaitable.
        **settings: Of :class:`~ropewalk.schemas.aws.AwsSettings` or
            :class:`~ropewalk.schemas.kubernetes.KubernetesSettings`.
    """
    if kind == "aws":
        request: SetHosted | SetAws | SetKubernetes = _aws(access_key_id, secret_access_key, session_token, settings)
    elif kind == "kubernetes":
        request = _kubernetes(kubeconfig, settings)
    elif kind == "hosted":
        request = SetHosted(kind="hosted")
    else:
        raise InputError(f"kind={kind!r} is not known.", advice="Use 'aws', 'kubernetes' or 'hosted'.", field="kind")
    found: CloudAccount = _one(lambda slug: calls.set_cloud_account(slug, request), account, asynchronous)
    return found


def _aws(key_id: str | None, secret: str | None, session_token: str | None, settings: dict[str, Any]) -> SetAws:
    if (key_id is None) is not (secret is None):
        missing = "secret_access_key" if secret is None else "access_key_id"
        raise InputError("An access key is an id and a secret.", advice=f"Give {missing}, too.", field=missing)
    given: dict[str, Any] = {"settings": _checked(AwsSettings, settings)}
    if key_id is not None and secret is not None:
        given["credentials"] = AwsCredentials(access_key_id=key_id, secret_access_key=SecretStr(secret))
    if session_token is not None:
        given["session_token"] = SecretStr(session_token)
    return SetAws(kind="aws", **given)


def _kubernetes(kubeconfig: str | Path | None, settings: dict[str, Any]) -> SetKubernetes:
    given: dict[str, Any] = {"settings": _checked(KubernetesSettings, settings)}
    if kubeconfig is not None:
        given["kubeconfig"] = SecretStr(read_kubeconfig(kubeconfig))
    return SetKubernetes(kind="kubernetes", **given)


def read_kubeconfig(path: str | Path) -> str:
    """Return the text of a kubeconfig, or raise an InputError that says why it cannot be read."""
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise InputError(f"The kubeconfig {path} cannot be read: {why}.", field="kubeconfig") from None


def _checked(model: type[BaseModel], settings: dict[str, Any]) -> BaseModel:
    try:
        return model(**settings)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        known = ", ".join(sorted(model.model_fields))
        raise InputError(
            f"The setting {field!r} is wrong: {first['msg']}.", advice=f"There are: {known}.", field=field
        ) from None


def check_cloud_account(account: str | None = None, *, asynchronous: bool = False) -> CheckReport:
    """Find out whether clusters can run there; changes nothing in the cloud."""
    found: CheckReport = _one(calls.check_cloud_account, account, asynchronous)
    return found


def plan_cloud_account(account: str | None = None, *, asynchronous: bool = False) -> PreparePlan:
    """Return what :func:`prepare_cloud_account` makes, and what that costs while no cluster runs."""
    found: PreparePlan = _one(calls.plan_cloud_account, account, asynchronous)
    return found


def forget_cloud_account(
    account: str | None = None, *, force: bool = False, asynchronous: bool = False
) -> CloudAccount:
    """Delete a cloud account's credentials; returns where new clusters run from now on.

    Args:
        account: Whose; by default yours.
        force: Although it owns resources or clusters: they are abandoned, with what they cost.
        asynchronous: Return an awaitable.
    """
    found: CloudAccount = _one(lambda slug: calls.forget_cloud_account(slug, force=force), account, asynchronous)
    return found


def prepare_cloud_account(
    account: str | None = None,
    *,
    accept_monthly_cost: float = 0.0,
    wait: bool = True,
    on_event: Tell | None = None,
    asynchronous: bool = False,
) -> CloudAccount:
    """Make what clusters need, or complete it.

    Args:
        account: Whose; by default yours.
        accept_monthly_cost: What :func:`plan_cloud_account` said that it costs; more is refused.
        wait: Return when it is done; otherwise at once.
        on_event: Called with each event while it waits.
        asynchronous: Return an awaitable.

    Raises:
        ConflictError: It costs more than was accepted.
        FixItError: It does not go on by itself: says what to do.
    """
    request = PrepareRequest(accept_monthly_cost=accept_monthly_cost)
    found: CloudAccount = _work(
        lambda slug: calls.prepare_cloud_account(slug, request), account, on_event, wait=wait, asynchronous=asynchronous
    )
    return found


def teardown_cloud_account(
    account: str | None = None,
    *,
    wait: bool = True,
    on_event: Tell | None = None,
    asynchronous: bool = False,
) -> CloudAccount:
    """Remove everything that Ropewalk made there; arguments as for :func:`prepare_cloud_account`.

    Raises:
        ConflictError: Clusters run there.
        FixItError: It does not go on by itself: says what to do.
    """
    found: CloudAccount = _work(calls.teardown_cloud_account, account, on_event, wait=wait, asynchronous=asynchronous)
    return found


def _work(
    make: Callable[[str], Call[CloudAccount]], account: str | None, tell: Tell | None, *, wait: bool, asynchronous: bool
) -> Any:
    login, given = _choose(account)
    if asynchronous:
        return _work_later(login, make, given, tell, wait=wait)
    with Api(login.server, login.token) as api:
        slug = api.drive(_slug(login, given))
        begun = api(make(slug))
        if not wait:
            return begun
        for event in api.follow_cloud_account(slug, begun.id, after=begun.last_event):
            if tell is not None:
                tell(event)
        return outcome(api(calls.get_cloud_account(slug, begun.id)))


async def _work_later(
    login: config.Login, make: Callable[[str], Call[CloudAccount]], given: str | None, tell: Tell | None, *, wait: bool
) -> CloudAccount:
    async with AsyncApi(login.server, login.token) as api:
        slug = await api.drive(_slug(login, given))
        begun = await api(make(slug))
        if not wait:
            return begun
        async with aclosing(api.follow_cloud_account(slug, begun.id, after=begun.last_event)) as events:
            async for event in events:
                if tell is not None:
                    tell(event)
        return outcome(await api(calls.get_cloud_account(slug, begun.id)))


def outcome(found: CloudAccount) -> CloudAccount:
    """Return a cloud account on which work has ended, or raise FixItError if it ended before it was done."""
    if found.state is CloudState.ATTENTION:
        raise FixItError(
            found.reason or "The cloud account needs attention.",
            advice=None if found.reason else "See its events.",
            details={"state": found.state.value},
        )
    return found
