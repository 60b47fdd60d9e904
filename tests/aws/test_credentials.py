"""Whose key it is, asked of AWS; what is wrong with it or with the region is told apart."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr

from ropewalk.backends.aws.credentials import identity
from ropewalk.errors import FixItError, InputError, TryAgainError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from tests.support.ministack import ACCOUNT, OTHER_ACCOUNT, REGION, Double

SETTINGS = AwsSettings(region=REGION)


async def test_account_and_arn_of_the_user_are_told(aws: Double) -> None:
    who = await identity(SETTINGS, aws.make_user([]), aws.endpoint)
    assert who.owner == ACCOUNT
    assert who.name == f"arn:aws:iam::{ACCOUNT}:user/ropewalk"
    assert who.warning is None


async def test_a_key_of_another_account_is_known_by_its_owner(aws: Double) -> None:
    who = await identity(SETTINGS, aws.make_user([], account=OTHER_ACCOUNT), aws.endpoint)
    assert who.owner == OTHER_ACCOUNT


async def test_the_role_is_told_where_one_is_assumed(aws: Double) -> None:
    key = aws.make_user(["sts:AssumeRole"])
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    aws.client("iam").create_role(RoleName="worker", AssumeRolePolicyDocument=document)
    settings = AwsSettings(region=REGION, role_arn=f"arn:aws:iam::{ACCOUNT}:role/worker", external_id="rope-1")
    assert (await identity(settings, key, aws.endpoint)).name.endswith("assumed-role/worker/ropewalk")


async def test_the_root_users_key_is_taken_with_a_warning(aws: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(*_: object, **__: object) -> dict[str, str]:
        return {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:root", "UserId": ACCOUNT}

    monkeypatch.setattr("ropewalk.backends.aws.api.Aws.call", answer)  # the double gives root no keys that begin AKIA
    who = await identity(SETTINGS, aws.make_user([]), aws.endpoint)
    assert "root user" in str(who.warning)


async def test_what_cannot_be_a_key_is_refused_without_asking(aws: Double) -> None:
    with pytest.raises(InputError):
        await identity(SETTINGS, AwsCredentials(access_key_id="ASIA", secret_access_key=SecretStr("x")), aws.endpoint)
    assert aws.calls() == {}


async def test_a_wrong_secret_names_its_field(aws: Double) -> None:
    key = aws.make_user([])
    wrong = AwsCredentials(access_key_id=key.access_key_id, secret_access_key=SecretStr("x" * 40))
    with pytest.raises(FixItError) as caught:
        await identity(SETTINGS, wrong, aws.endpoint)
    assert caught.value.field == "secret_access_key"
    assert caught.value.details["credentials"] == "invalid"


async def test_a_deleted_key_names_its_field(aws: Double) -> None:
    key = aws.make_user([])
    aws.revoke(key)
    with pytest.raises(FixItError) as caught:
        await identity(SETTINGS, key, aws.endpoint)
    assert caught.value.field == "access_key_id"


async def test_a_region_that_is_not_enabled_is_told_from_a_key_that_is_no_good(aws: Double) -> None:
    """AWS answers there as if the key did not exist, so the key is tried where it must be known."""
    key = aws.make_user([])
    aws.inject("sts:GetCallerIdentity", code="InvalidClientTokenId", status=403, message="The token is invalid.")
    with pytest.raises(FixItError, match="has not enabled this region") as caught:
        await identity(AwsSettings(region="ap-east-1"), key, aws.endpoint)
    assert caught.value.field == "region"
    assert caught.value.details["credentials"] == "valid"


async def test_aws_that_does_not_answer_is_no_reason_against_the_key(aws: Double) -> None:
    key = aws.make_user([])
    aws.inject("sts:GetCallerIdentity", "broken", times=None)
    with pytest.raises(TryAgainError):
        await identity(SETTINGS, key, aws.endpoint)


async def test_nothing_said_of_a_key_holds_its_secret(aws: Double) -> None:
    key = aws.make_user([])
    aws.revoke(key)
    with pytest.raises(FixItError) as caught:
        await identity(SETTINGS, key, aws.endpoint)
    assert key.secret_access_key.get_secret_value() not in f"{caught.value} {caught.value.details} {key!r}"
