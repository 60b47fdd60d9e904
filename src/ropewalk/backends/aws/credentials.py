"""Access keys: whether they can be ones, and whose they are."""

from __future__ import annotations

import re

from pydantic import SecretStr

from ropewalk.backends.aws.api import Aws
from ropewalk.errors import BackendError, FixItError, InputError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import CloudIdentity

__all__ = ["connection", "identity", "identity_of", "validate"]

# "IAM identifiers: Understanding unique ID prefixes" (IAM user guide): AKIA is a long-lived access key, ASIA one of STS
# that expires; the others name users, roles and groups.
_KEY_ID = re.compile(r"AKIA[A-Z0-9]{16}")
_PREFIXES = {"AIDA": "a user", "AROA": "a role", "AGPA": "a group", "ANPA": "a policy", "AIPA": "an instance profile"}
_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")

_LONG_LIVED = (
    "Clusters have to be looked after when nobody is there to renew a key. Create a long-lived access key (AKIA…) for "
    "an IAM user in the AWS console and, where rights shall be short-lived, let it assume a role (`role_arn`)."
)


def validate(credentials: AwsCredentials, session_token: SecretStr | None = None) -> None:
    """Raise InputError, naming the field, if this cannot be a long-lived key.

    Messages never quote what was given: a secret may have got into the wrong field.
    """
    if session_token is not None and session_token.get_secret_value().strip():
        raise InputError("A session token belongs to temporary credentials.", advice=_LONG_LIVED, field="session_token")
    secret = credentials.secret_access_key.get_secret_value()
    _check_id(credentials.access_key_id, secret)
    _check_secret(secret)


def connection(settings: AwsSettings, credentials: AwsCredentials, endpoint_url: str | None = None) -> Aws:
    """Return AWS as a cloud account with these settings sees it."""
    return Aws(
        credentials,
        settings.region,
        role_arn=settings.role_arn,
        external_id=settings.external_id,
        endpoint_url=endpoint_url,
    )


async def identity(
    settings: AwsSettings, credentials: AwsCredentials, endpoint_url: str | None = None
) -> CloudIdentity:
    """Ask AWS whose key it is, or, with ``role_arn``, which role it becomes: ``owner`` is the id of the AWS account.

    Raises:
        InputError: It cannot be a long-lived key; AWS was not asked.
        FixItError: ``access_key_id``, ``secret_access_key``, ``role_arn`` or ``region`` is wrong.
        TryAgainError: AWS does not answer.
    """
    validate(credentials)
    aws = connection(settings, credentials, endpoint_url)
    try:
        return await identity_of(aws)
    except FixItError as error:
        if error.details.get("credentials") == "invalid" and await _good_elsewhere(settings, credentials, endpoint_url):
            raise FixItError(
                f"The key is good, but not in {settings.region}: the AWS account has not enabled this region.",
                advice="Enable it (AWS console, Account, AWS Regions), or choose another region.",
                field="region",
                details=error.details | {"credentials": "valid"},
            ) from error
        raise
    finally:
        await aws.close()


async def identity_of(aws: Aws) -> CloudIdentity:
    """Ask AWS who it is that this connection speaks for."""
    answer = await aws.call("sts", "GetCallerIdentity")
    arn = str(answer["Arn"])
    warning = None
    if arn.endswith(":root"):
        warning = (
            "This is a key of the AWS account's root user, which may do everything and cannot be limited. Create an "
            "IAM user with the policy that `ropewalk cloud-account policy aws` prints, and set that user's key."
        )
    return CloudIdentity(owner=str(answer["Account"]), name=arn, warning=warning)


async def _good_elsewhere(settings: AwsSettings, credentials: AwsCredentials, endpoint_url: str | None) -> bool:
    """Whether the key is known where it must be: regions that are not enabled answer as if it did not exist."""
    home = _home(settings.region)
    if settings.region == home:
        return False
    aws = Aws(credentials, home, endpoint_url=endpoint_url)
    try:
        await aws.call("sts", "GetCallerIdentity")
    except BackendError:
        return False
    finally:
        await aws.close()
    return True


def _home(region: str) -> str:
    """Return the region of the same partition that cannot be switched off."""
    if region.startswith("cn-"):
        return "cn-north-1"
    return "us-gov-west-1" if region.startswith("us-gov-") else "us-east-1"


def _check_id(key_id: str, secret: str) -> None:
    field = "access_key_id"
    if _KEY_ID.fullmatch(key_id):
        return
    if _KEY_ID.fullmatch(secret):
        raise InputError("Access key id and secret access key are swapped.", field=field)
    if key_id.startswith("ASIA"):
        raise InputError("An access key id that begins with ASIA is temporary.", advice=_LONG_LIVED, field=field)
    if kind := _PREFIXES.get(key_id[:4]):
        raise InputError(
            f"This is the id of {kind}, not of an access key.",
            advice="Create an access key for an IAM user; its id begins with AKIA.",
            field=field,
        )
    raise InputError(
        f"This is not an access key id: {_flaw(key_id)}.",
        advice="An access key id is AKIA and 16 upper-case letters and digits.",
        field=field,
    )


def _check_secret(secret: str) -> None:
    if not _SECRET.fullmatch(secret):
        raise InputError(
            f"This is not a secret access key: {_flaw(secret, 40)}.",
            advice="A secret access key is 40 letters, digits, slashes and plus signs. AWS shows it once: if it is "
            "lost, create another key.",
            field="secret_access_key",
        )


def _flaw(text: str, length: int = 20) -> str:
    if not text:
        return "it is empty"
    if any(char.isspace() for char in text):
        return "there is a space or line break in it"
    if "=" in text:
        return "it has a name and an equals sign before it, or one too many at its end"
    if len(text) != length:
        return f"it has {len(text)} characters instead of {length}"
    return "it has characters that none has"
