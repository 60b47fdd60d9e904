"""Calls to AWS: repeated where that is safe, never where it is not; limited; and nothing but BackendError comes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.limiter import Limiter
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws import AwsCredentials
from tests.support.ministack import ACCOUNT, REGION, Double
from tests.support.waiting import PATIENCE, eventually

TRUST: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/ropewalk"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": "rope-42"}},
        }
    ],
}


async def soon(seconds: float) -> None:
    """Wait no time between attempts."""
    await asyncio.sleep(0)


Connect = Callable[..., Aws]


@pytest.fixture
async def connect(aws: Double) -> AsyncIterator[Connect]:
    made: list[Aws] = []

    def connected(key: AwsCredentials, **options: Any) -> Aws:
        usual: dict[str, Any] = {"endpoint_url": aws.endpoint, "limiter": Limiter(), "sleep": soon}
        made.append(Aws(key, REGION, **{**usual, **options}))
        return made[-1]

    yield connected
    for api in made:
        await api.close()


@pytest.fixture
def api(aws: Double, connect: Connect) -> Aws:
    return connect(aws.make_user())


async def test_a_call_returns_what_aws_answers(aws: Double, api: Aws) -> None:
    made = await api.call("ecs", "CreateCluster", clusterName="c")
    assert made["cluster"]["clusterName"] == "c"
    assert (await api.call("ecs", "ListClusters"))["clusterArns"] == [made["cluster"]["clusterArn"]]


async def test_pages_are_followed_to_the_last(aws: Double, api: Aws) -> None:
    for number in range(3):
        aws.client("ecs").create_cluster(clusterName=f"c{number}")
    found = [arn async for arn in api.pages("ecs", "ListClusters", "clusterArns", maxResults=1)]
    assert sorted(arn.rpartition("/")[2] for arn in found) == ["c0", "c1", "c2"]


async def test_pages_of_iam_are_followed_by_their_marker(aws: Double, api: Aws) -> None:
    for number in range(3):
        aws.client("iam").create_role(RoleName=f"r{number}", AssumeRolePolicyDocument=json.dumps(TRUST))
    found = [role["RoleName"] async for role in api.pages("iam", "ListRoles", "Roles", MaxItems=1)]
    assert {"r0", "r1", "r2"} <= set(found)


async def test_throttled_calls_are_repeated_and_slow_the_limiter_down(aws: Double, api: Aws) -> None:
    aws.inject("ecs:CreateCluster", code="ThrottlingException", status=400, times=3)
    await api.call("ecs", "CreateCluster", clusterName="c")
    assert aws.calls()["ecs:CreateCluster"] == 4
    assert api.limiter.share("ecs", "CreateCluster") < 1


async def test_throttling_that_does_not_end_is_told(aws: Double, api: Aws) -> None:
    aws.inject("ec2:DescribeVpcs", code="RequestLimitExceeded", status=503, times=None)
    with pytest.raises(TryAgainError, match="too many requests") as caught:
        await api.call("ec2", "DescribeVpcs")
    assert caught.value.delay > 0
    assert aws_code(caught.value) == "RequestLimitExceeded"
    assert aws.calls()["ec2:DescribeVpcs"] == 8


async def test_reads_are_repeated_when_aws_fails(aws: Double, api: Aws) -> None:
    aws.inject("ecs:ListClusters", times=2)
    assert (await api.call("ecs", "ListClusters"))["clusterArns"] == []
    assert aws.calls()["ecs:ListClusters"] == 3


@pytest.mark.parametrize("kind", ["lost", "broken"])
async def test_reads_are_repeated_when_the_answer_is_lost(aws: Double, api: Aws, kind: str) -> None:
    aws.inject("ecs:ListClusters", kind)
    assert (await api.call("ecs", "ListClusters"))["clusterArns"] == []


@pytest.mark.parametrize("kind", ["lost", "error_after"])
async def test_a_write_whose_answer_is_lost_is_not_repeated(aws: Double, api: Aws, kind: str) -> None:
    before = len(aws.client("ec2").describe_vpcs()["Vpcs"])
    aws.inject("ec2:CreateVpc", kind)
    with pytest.raises(TryAgainError):
        await api.call("ec2", "CreateVpc", CidrBlock="10.9.0.0/16")
    assert len(aws.client("ec2").describe_vpcs()["Vpcs"]) == before + 1
    assert aws.calls()["ec2:CreateVpc"] == 1


async def test_an_idempotent_write_whose_answer_is_lost_is_repeated(aws: Double, api: Aws) -> None:
    aws.inject("ecs:CreateCluster", "lost")
    await api.call("ecs", "CreateCluster", clusterName="c")
    assert aws.calls()["ecs:CreateCluster"] == 2


async def test_a_write_with_a_client_token_is_repeated(aws: Double, api: Aws) -> None:
    aws.inject("ec2:CreateNatGateway", "broken", times=None)
    with pytest.raises(TryAgainError):
        await api.call("ec2", "CreateNatGateway", SubnetId="subnet-1", ClientToken="t")
    assert aws.calls()["ec2:CreateNatGateway"] > 1


async def test_a_denial_names_the_action_and_what_breaks(aws: Double, connect: Connect) -> None:
    api = connect(aws.make_user(["ecs:ListClusters"]))
    with pytest.raises(FixItError, match=r"ecs:CreateCluster.*cannot make an ECS cluster") as caught:
        await api.call("ecs", "CreateCluster", clusterName="c")
    assert caught.value.details["action"] == "ecs:CreateCluster"
    assert aws.calls()["ecs:CreateCluster"] == 1


async def test_a_revoked_key_is_told_from_a_missing_right(aws: Double, connect: Connect) -> None:
    key = aws.make_user()
    aws.revoke(key)
    api = connect(key)
    with pytest.raises(FixItError) as caught:
        await api.call("ecs", "ListClusters")
    assert caught.value.details["credentials"] == "invalid"
    assert caught.value.field == "access_key_id"


async def test_a_quota_is_told_with_its_default_where_its_value_may_not_be_read(aws: Double, api: Aws) -> None:
    aws.inject("ec2:CreateVpc", code="VpcLimitExceeded", status=400, message="The maximum number of VPCs is reached.")
    with pytest.raises(FixItError, match=r"VPCs per Region.*5 unless it was changed") as caught:
        await api.call("ec2", "CreateVpc", CidrBlock="10.9.0.0/16")
    assert caught.value.details["quota"]["code"] == "L-F678F1CE"


async def test_an_endpoint_that_is_not_there_is_tried_again_and_told(aws: Double, connect: Connect) -> None:
    api = connect(aws.make_user(), endpoint_url="http://127.0.0.1:9")
    with pytest.raises(TryAgainError, match="could not be reached"):
        await api.call("ec2", "CreateVpc", CidrBlock="10.9.0.0/16")


async def test_after_close_calls_are_refused(aws: Double, api: Aws) -> None:
    await api.call("ecs", "ListClusters")
    await api.close()
    with pytest.raises(TryAgainError, match="being closed"):
        await api.call("ecs", "ListClusters")


async def test_a_call_that_is_under_way_when_all_is_closed_ends_with_an_error(aws: Double, api: Aws) -> None:
    await api.call("ecs", "ListClusters")
    aws.count_anew()
    aws.inject("ecs:ListClusters", "delay", seconds=30)
    call = asyncio.create_task(api.call("ecs", "ListClusters"))
    await eventually(lambda: aws.faults()[0]["used"])
    await api.close()
    with pytest.raises(TryAgainError):
        await asyncio.wait_for(call, PATIENCE)


async def test_connections_to_one_service_are_made_once(aws: Double, api: Aws) -> None:
    first, second = await asyncio.gather(api._sessions.client("ecs"), api._sessions.client("ecs"))
    assert first is second


async def test_nothing_is_taken_from_the_machine(
    aws: Double, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAAAAAAAAAAAAAAAAA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 40)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "y")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "nowhere-1")
    api = connect(aws.make_user())
    assert (await api.call("sts", "GetCallerIdentity"))["Arn"].endswith("user/ropewalk")


class TestRole:
    @pytest.fixture
    def assume(self, aws: Double, connect: Connect) -> Callable[[str], Aws]:
        iam = aws.client("iam")
        iam.create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(TRUST))
        rights = json.dumps(_allow("ecs:ListClusters"))
        iam.put_role_policy(RoleName="worker", PolicyName="p", PolicyDocument=rights)
        key = aws.make_user(["sts:AssumeRole"])
        role = f"arn:aws:iam::{ACCOUNT}:role/worker"
        return lambda external_id: connect(key, role_arn=role, external_id=external_id)

    async def test_calls_are_made_as_the_role(self, aws: Double, assume: Callable[[str], Aws]) -> None:
        api = assume("rope-42")
        assert (await api.call("ecs", "ListClusters"))["clusterArns"] == []
        arn = (await api.call("sts", "GetCallerIdentity"))["Arn"]
        assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/worker/ropewalk"

    async def test_the_role_is_assumed_once_for_many_calls(self, aws: Double, assume: Callable[[str], Aws]) -> None:
        api = assume("rope-42")
        await asyncio.gather(*(api.call("ecs", "ListClusters") for _ in range(5)))
        await api.call("sts", "GetCallerIdentity")
        assert aws.calls()["sts:AssumeRole"] == 1

    async def test_a_wrong_external_id_is_refused_and_told_what_the_trust_policy_needs(
        self, assume: Callable[[str], Aws]
    ) -> None:
        with pytest.raises(FixItError, match="may not assume the role") as caught:
            await assume("another").call("ecs", "ListClusters")
        assert caught.value.field == "role_arn"
        assert "external id" in str(caught.value.advice)

    async def test_credentials_are_renewed_before_they_end(self, aws: Double, assume: Callable[[str], Aws]) -> None:
        api = assume("rope-42")
        await api.call("ecs", "ListClusters")
        credentials = await api._sessions._session.get_credentials()
        credentials._expiry_time = datetime.now(UTC) + timedelta(minutes=9)
        await api.call("ecs", "ListClusters")
        await api.call("ecs", "ListClusters")
        assert aws.calls()["sts:AssumeRole"] == 2


def _allow(action: str) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
