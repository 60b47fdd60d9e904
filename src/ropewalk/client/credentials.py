"""Lending a cluster the user's own AWS credentials, as tokens that expire within the hour.

They go from here to the workers over the cluster's own encrypted connection, and are in their environment variables,
where boto3, s3fs and pyarrow look. The server never sees them. When this program ends, they are not renewed any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from distributed.core import rpc
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps

from ropewalk.errors import InputError

__all__ = ["CHOICES", "Forwarder", "Token", "check_choice", "local_token", "send"]

logger = logging.getLogger(__name__)

CHOICES = ("account", "local", None)

PLUGIN = "ropewalk-credentials"
SECONDS = 3600
"""How long a token is good; GetSessionToken allows 15 minutes to 36 hours (STS API reference)."""
UNKNOWN_SECONDS = 900.0
"""When a token is looked up again that does not say how long it is good; the shortest that STS makes."""
RENEW_AT = 0.5
"""Part of a token's time after which it is renewed: failures have the other half to pass."""
RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Token:
    """Credentials that expire."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: datetime | None

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of AWS's SDKs. With its time of expiry, botocore reads a token again in time."""
        found = {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_SESSION_TOKEN": self.session_token,
        }
        if self.expires_at is not None:
            found["AWS_CREDENTIAL_EXPIRATION"] = self.expires_at.isoformat()
        return found


def check_choice(value: Any) -> str | None:
    """Return *value* if the argument ``credentials`` may have it."""
    if value in CHOICES:
        return None if value is None else str(value)
    raise InputError(
        f"credentials={str(value)[:20]!r}: give 'account', 'local' or None.",
        advice="'account': the rights of the cloud account's task role; 'local': of this program's AWS credentials.",
        field="credentials",
    )


def local_token() -> Token:
    """Return a token for the AWS credentials that this program has; takes a call of STS, unless they are one already.

    Raises:
        InputError: there are none, or they are refused.
    """
    try:
        session = import_module("botocore.session").get_session()
    except ModuleNotFoundError:
        raise _wrong("botocore is not installed here.", "Install it with: pip install botocore") from None
    found = session.get_credentials()
    if found is None:
        advice = "Log in with `aws configure` or `aws sso login`, or leave credentials out."
        raise _wrong("There are no AWS credentials here to lend.", advice)
    try:
        frozen = found.get_frozen_credentials()
        if frozen.token:
            return Token(frozen.access_key, frozen.secret_key, frozen.token, getattr(found, "_expiry_time", None))
        client = session.create_client("sts", region_name=session.get_config_variable("region") or "us-east-1")
        made = client.get_session_token(DurationSeconds=SECONDS)["Credentials"]
    except Exception as exc:  # noqa: BLE001 - botocore's exceptions are not known without it
        raise _wrong(
            f"AWS made no token of the credentials here: {exc}.", "`aws sts get-session-token` tells more."
        ) from None
    return Token(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"], made["Expiration"])


def _wrong(message: str, advice: str) -> InputError:
    return InputError(message, advice=advice, field="credentials")


async def send(scheduler: rpc, token: Token) -> None:
    """Give a token to all workers, and to those that join later; it takes the place of the one before."""
    await scheduler.register_worker_plugin(plugin=dumps(_plugin(token.environ)), name=PLUGIN, idempotent=False)


def _plugin(environ: dict[str, str]) -> WorkerPlugin:
    class Credentials(WorkerPlugin):  # inside a function it is sent whole: workers do not have this package
        def setup(self, worker: Any) -> None:  # noqa: ARG002 - Dask's
            import os  # noqa: PLC0415 - on the worker

            os.environ.update(environ)

    return Credentials()


class Forwarder:
    """Sends a token, and a new one before it expires, for as long as it runs.

    Args:
        deliver: Sends a token to the cluster.
        make: Makes one; may block.
        now: The time.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        deliver: Callable[[Token], Awaitable[None]],
        make: Callable[[], Token] = local_token,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._deliver = deliver
        self._make = make
        self._now = now
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Send the first one, and renew it from now on.

        Raises:
            InputError: there is none.
        """
        wait = await self._send()
        self._task = asyncio.create_task(self._renew(wait), name="ropewalk-credentials")

    async def stop(self) -> None:
        """Renew no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> float:
        """Send one; return after how many seconds the next is due."""
        token = await asyncio.to_thread(self._make)
        await self._deliver(token)
        if token.expires_at is None:
            return UNKNOWN_SECONDS * RENEW_AT
        return max(RETRY_SECONDS, (token.expires_at - self._now()).total_seconds() * RENEW_AT)

    async def _renew(self, wait: float) -> None:
        while True:
            await self._sleep(wait)
            try:
                wait = await self._send()
            except (InputError, OSError) as exc:
                logger.warning("The cluster's AWS credentials could not be renewed: %s", exc)
                wait = RETRY_SECONDS
