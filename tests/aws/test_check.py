"""The check finds what a key may not do, changes nothing, and ends in the policy that is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.check import check_account
from ropewalk.backends.aws.linked_role import COMMAND, ensure_linked_role, linked_role_exists
from ropewalk.backends.aws.probes import PROBES
from ropewalk.backends.aws.quotas import FARGATE, FARGATE_SPOT
from ropewalk.backends.aws.tags import INSTALLATION
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.aws_permissions import BY_ACTION, PERMISSIONS
from ropewalk.schemas.aws_policy import policy, policy_of
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus
from tests.support.ministack import ACCOUNT, REGION, Double

EVERYTHING = sorted(BY_ACTION)
SIMULATE = "iam:SimulatePrincipalPolicy"
NEVER_DENIED = "sts:GetCallerIdentity"
COMPLAINS = "ecs:TagResource"  # ECS's complaint about what cannot exist is none that surely comes after authorisation
ONLY_SIMULATED = {
    "iam:PassRole",
    "iam:CreateServiceLinkedRole",
    "iam:DeleteServiceLinkedRole",
    "iam:GetServiceLinkedRoleDeletionStatus",
    "ecs:CreateCluster",
    "ecs:RegisterTaskDefinition",
    "ecr:CreateRepository",
    "logs:CreateLogGroup",
}
PATIENCE = 120.0  # seconds: tests of a busy machine are not about speed

Connect = Callable[[AwsCredentials], Aws]


@pytest.fixture
async def connect(aws: Double) -> AsyncIterator[Connect]:
    made: list[Aws] = []

    def connected(key: AwsCredentials) -> Aws:
        made.append(Aws(key, REGION, endpoint_url=aws.endpoint))
        return made[-1]

    yield connected
    for api in made:
        await api.close()


async def checked(api: Aws, **settings: Any) -> CheckReport:
    return await check_account(api, AwsSettings(region=REGION, **settings), patience=PATIENCE)


def verdicts(report: CheckReport) -> dict[str, str]:
    return {item.name: item.details["verdict"] for item in report.items if item.name in BY_ACTION}


def denied(report: CheckReport) -> set[str]:
    return {action for action, verdict in verdicts(report).items() if verdict == "denied"}


def unknown(report: CheckReport) -> set[str]:
    return {action for action, verdict in verdicts(report).items() if verdict == "unknown"}


def item(report: CheckReport, name: str) -> CheckItem:
    return next(item for item in report.items if item.name == name)


def allowed_by(document: dict[str, Any] | None) -> set[str]:
    assert document is not None
    return {action for statement in document["Statement"] for action in statement["Action"]}


LISTS = {
    "ec2": (
        "describe_vpcs describe_subnets describe_route_tables describe_internet_gateways describe_security_groups "
        "describe_addresses describe_nat_gateways describe_vpc_peering_connections describe_network_interfaces"
    ),
    "iam": "list_roles",
    "ecs": "list_clusters list_task_definitions",
    "ecr": "describe_repositories",
    "logs": "describe_log_groups",
}


def everything(aws: Double) -> dict[str, Any]:
    """Return all that there is in the AWS account, as an administrator sees it."""
    found = {}
    for service, names in LISTS.items():
        for name in names.split():
            answer = getattr(aws.client(service), name)()
            answer.pop("ResponseMetadata")
            found[name] = json.dumps(answer, default=str, sort_keys=True)
    return found


async def test_with_the_printed_policy_nothing_is_denied(aws: Double, connect: Connect) -> None:
    report = await checked(connect(aws.make_user(policy())))
    assert report.ok
    assert set(verdicts(report)) == set(BY_ACTION)
    assert denied(report) == set()
    assert unknown(report) == set()
    assert report.policy is None


@pytest.mark.parametrize("action", [action for action in EVERYTHING if action != NEVER_DENIED])
async def test_an_action_that_is_missing_is_named_and_no_other(
    aws: Double, connect: Connect, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Requests to the services that are not concerned are left out: the simulation still asks about all actions.
    service = action.partition(":")[0]
    probes = {name: probe for name, probe in PROBES.items() if name.startswith(f"{service}:")}
    monkeypatch.setattr("ropewalk.backends.aws.check.PROBES", probes)
    key = aws.make_user([other for other in EVERYTHING if other != action])
    report = await checked(connect(key))
    assert denied(report) == {action}
    assert allowed_by(report.policy) == {action}
    meaning = "cannot run without it" if BY_ACTION[action].needed() else "can run without it"
    assert item(report, "permissions").message.endswith(f", 1 is denied; clusters {meaning}.")
    found = item(report, action)
    assert BY_ACTION[action].breaks in found.message
    assert found.status is (CheckStatus.FAILED if BY_ACTION[action].needed() else CheckStatus.WARNING)
    assert report.ok is not BY_ACTION[action].needed()
    if action != SIMULATE:
        assert unknown(report) == set()


@pytest.mark.parametrize("service", ["iam", "ec2", "ecs", "ecr", "logs"])
async def test_without_simulation_what_is_missing_is_named_where_a_request_can_tell(
    aws: Double, connect: Connect, service: str
) -> None:
    missing = {action for action in EVERYTHING if action.startswith(f"{service}:")}
    kept = {"ec2:ModifyVpcAttribute", "ec2:CreateTags"}  # so that rights to what has tags are not all missing at once
    rights = [action for action in EVERYTHING if (action not in missing or action in kept) and action != SIMULATE]
    report = await checked(connect(aws.make_user(rights)))
    assert denied(report) == (missing - ONLY_SIMULATED - kept) | {SIMULATE}
    assert unknown(report) <= ONLY_SIMULATED | {COMPLAINS}


async def test_a_key_that_may_do_nothing_gets_the_whole_policy(aws: Double, connect: Connect) -> None:
    report = await checked(connect(aws.make_user(["s3:ListBucket"])))
    assert not report.ok
    told = denied(report) | unknown(report)
    assert told | {NEVER_DENIED} == set(BY_ACTION)
    assert item(report, "permissions").status is CheckStatus.FAILED


async def test_the_check_changes_nothing(aws: Double, connect: Connect) -> None:
    before = everything(aws)
    await checked(connect(aws.make_user(None)))
    assert everything(aws) == before


async def test_the_missing_policy_is_just_what_makes_the_check_content(aws: Double, connect: Connect) -> None:
    lost = {"ecs:RunTask", "ec2:CreateVpc", "iam:PassRole", "ecr:PutImage"}
    rights = [action for action in EVERYTHING if action not in lost]
    key = aws.make_user(rights)
    api = connect(key)
    report = await checked(api)
    assert allowed_by(report.policy) == lost
    assert report.policy is not None
    statement = {"Effect": "Allow", "Action": rights, "Resource": "*"}
    aws.set_policy({"Version": "2012-10-17", "Statement": [statement, *report.policy["Statement"]]})
    again = await checked(api)
    assert again.ok
    assert again.policy is None


async def test_rights_of_a_feature_fail_the_check_only_if_the_settings_ask_for_it(
    aws: Double, connect: Connect
) -> None:
    api = connect(aws.make_user([action for action in EVERYTHING if action != "ec2:CreateNatGateway"]))
    assert (await checked(api)).ok
    assert not (await checked(api, private_subnets=True)).ok


class TestScoped:
    """A key whose rights are limited to Ropewalk's names and tags."""

    async def test_it_has_all_rights_as_far_as_iam_can_tell(self, aws: Double, connect: Connect) -> None:
        report = await checked(connect(aws.make_user(policy(scoped=True, region=REGION, account=ACCOUNT))))
        assert report.ok
        assert denied(report) == set()
        assert unknown(report) == set()

    @pytest.mark.parametrize("action", ["ec2:DeleteVpc", "ec2:CreateSubnet", "ecs:RunTask", "iam:PassRole"])
    async def test_what_is_missing_is_named(self, aws: Double, connect: Connect, action: str) -> None:
        document = policy(scoped=True)
        for statement in document["Statement"]:
            statement["Action"] = [other for other in statement["Action"] if other != action] or ["s3:ListBucket"]
        report = await checked(connect(aws.make_user(document)))
        assert denied(report) == {action}

    async def test_without_simulation_what_depends_on_tags_is_unknown(self, aws: Double, connect: Connect) -> None:
        document = policy_of([item for item in PERMISSIONS if item.action != SIMULATE], scoped=True)
        report = await checked(connect(aws.make_user(document)))
        assert denied(report) == {SIMULATE}
        assert {"ec2:DeleteVpc", "ec2:CreateSubnet"} <= unknown(report)
        assert verdicts(report)["ec2:CreateVpc"] == "allowed"
        assert verdicts(report)["ecs:RunTask"] == "allowed"

    @pytest.mark.parametrize(
        ("service", "operation", "parameters"),
        [
            ("ec2", "CreateVpc", {"CidrBlock": "10.9.0.0/16"}),
            ("ecs", "DeleteCluster", {"cluster": "somebody-elses"}),
            ("iam", "DeleteRole", {"RoleName": "somebody-elses"}),
            ("ecr", "DeleteRepository", {"repositoryName": "somebody-elses"}),
            ("logs", "DeleteLogGroup", {"logGroupName": "somebody-elses"}),
        ],
    )
    async def test_it_reaches_nothing_of_other_people(
        self, aws: Double, connect: Connect, service: str, operation: str, parameters: dict[str, Any]
    ) -> None:
        with pytest.raises(FixItError, match="may not use"):
            await connect(aws.make_user(policy(scoped=True))).call(service, operation, **parameters)

    async def test_a_network_without_our_tag_cannot_be_touched(self, aws: Double, connect: Connect) -> None:
        vpc = aws.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        api = connect(aws.make_user(policy(scoped=True)))
        with pytest.raises(FixItError, match="may not use ec2:DeleteVpc"):
            await api.call("ec2", "DeleteVpc", VpcId=vpc)
        with pytest.raises(FixItError, match="may not use ec2:CreateTags"):
            await api.call("ec2", "CreateTags", Resources=[vpc], Tags=[{"Key": INSTALLATION, "Value": "mine"}])
        tags = [{"ResourceType": "subnet", "Tags": [{"Key": INSTALLATION, "Value": "mine"}]}]
        with pytest.raises(FixItError, match="may not use ec2:CreateSubnet"):
            await api.call("ec2", "CreateSubnet", VpcId=vpc, CidrBlock="10.9.1.0/24", TagSpecifications=tags)


class TestIdentity:
    async def test_the_key_is_told_with_its_account(self, aws: Double, connect: Connect) -> None:
        found = item(await checked(connect(aws.make_user(policy()))), "credentials")
        assert found.status is CheckStatus.OK
        assert found.details == {"account_id": ACCOUNT, "arn": f"arn:aws:iam::{ACCOUNT}:user/ropewalk"}

    async def test_that_of_the_root_user_is_warned_of_and_may_do_all(self, aws: Double, connect: Connect) -> None:
        key = aws.make_user()
        aws.set(root_keys=[key.access_key_id])
        report = await checked(connect(key))
        found = item(report, "credentials")
        assert (found.status, found.details["arn"]) == (CheckStatus.WARNING, f"arn:aws:iam::{ACCOUNT}:root")
        assert "policy aws" in str(found.advice)
        assert report.ok
        assert denied(report) == set()
        assert "iam:SimulatePrincipalPolicy" not in aws.calls()

    async def test_a_key_that_aws_does_not_know_is_all_that_is_told(self, aws: Double, connect: Connect) -> None:
        key = aws.make_user()
        aws.revoke(key)
        report = await checked(connect(key))
        assert [found.name for found in report.items] == ["credentials"]
        assert not report.ok
        assert report.items[0].details["credentials"] == "invalid"


class TestRegion:
    async def test_its_zones_are_told(self, aws: Double, connect: Connect) -> None:
        found = item(await checked(connect(aws.make_user(policy()))), "region")
        assert found.status is CheckStatus.OK
        assert len(found.details["zones"]) >= 2


class TestLinkedRole:
    async def test_it_is_missing_where_nobody_used_ecs(self, aws: Double, connect: Connect) -> None:
        found = item(await checked(connect(aws.make_user(policy()))), "service-linked role")
        assert found.status is CheckStatus.WARNING
        assert COMMAND in str(found.advice)

    async def test_it_is_made_where_the_key_may(self, aws: Double, connect: Connect) -> None:
        api = connect(aws.make_user(["iam:GetRole", "iam:CreateServiceLinkedRole"]))
        assert await ensure_linked_role(api)
        assert await linked_role_exists(api)
        assert not await ensure_linked_role(api)
        assert aws.calls()["iam:CreateServiceLinkedRole"] == 1

    async def test_it_is_found(self, aws: Double, connect: Connect) -> None:
        aws.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
        found = item(await checked(connect(aws.make_user(policy()))), "service-linked role")
        assert found.status is CheckStatus.OK

    async def test_where_the_key_may_not_make_it_the_command_is_told(self, aws: Double, connect: Connect) -> None:
        api = connect(aws.make_user(["iam:GetRole"]))
        with pytest.raises(FixItError) as caught:
            await ensure_linked_role(api)
        assert COMMAND in str(caught.value.advice)

    async def test_a_key_that_may_not_look_is_no_reason_to_make_it(self, aws: Double, connect: Connect) -> None:
        api = connect(aws.make_user(["iam:CreateServiceLinkedRole"]))
        assert await linked_role_exists(api) is None
        assert not await ensure_linked_role(api)


async def test_what_aws_does_not_answer_is_unknown_and_not_denied(aws: Double, connect: Connect) -> None:
    aws.inject("ecs:*", code="ServerException", status=500, times=None)
    report = await checked(connect(aws.make_user([action for action in EVERYTHING if action != SIMULATE])))
    ecs = {action for action in EVERYTHING if action.startswith("ecs:")}
    assert ecs <= unknown(report)
    assert denied(report) == {SIMULATE}


async def test_slow_answers_count(aws: Double, connect: Connect) -> None:
    aws.set(latency=0.05)
    report = await checked(connect(aws.make_user(policy())))
    assert report.ok
    assert unknown(report) == set()


async def test_what_is_not_answered_in_time_is_one_sentence(aws: Double, connect: Connect) -> None:
    api = connect(aws.make_user([action for action in EVERYTHING if action != SIMULATE]))
    aws.inject("ec2:*", "hang", times=None)
    report = await check_account(api, AwsSettings(region=REGION), patience=2.0)
    told = item(report, "answers")
    assert told.status is CheckStatus.UNKNOWN
    assert "Run the check again" in str(told.advice)
    assert {action for action in EVERYTHING if action.startswith("ec2:")} <= set(told.details["unanswered"])
    assert not [each.name for each in report.items if each.name in told.details["unanswered"]]
    assert item(report, "permissions").status is not CheckStatus.OK
    assert report.policy is None or not allowed_by(report.policy) & set(told.details["unanswered"])


class TestQuotas:
    async def test_a_small_one_is_told_with_where_to_raise_it(self, aws: Double, connect: Connect) -> None:
        found = item(await checked(connect(aws.make_user(policy()))), FARGATE.name)
        assert found.status is CheckStatus.WARNING
        assert found.message.startswith("6 vCPUs")
        assert "request-service-quota-increase --service-code fargate --quota-code L-3032A538" in str(found.advice)

    async def test_a_large_one_is_well(self, aws: Double, connect: Connect) -> None:
        aws.set(quotas={FARGATE.code: 500.0, FARGATE_SPOT.code: 6.0})
        report = await checked(connect(aws.make_user(policy())))
        assert (item(report, FARGATE.name).status, item(report, FARGATE_SPOT.name).status) == (
            CheckStatus.OK,
            CheckStatus.WARNING,
        )


async def test_a_report_holds_no_secret(aws: Double, connect: Connect) -> None:
    key = aws.make_user(["s3:ListBucket"])
    report = await checked(connect(key))
    assert key.secret_access_key.get_secret_value() not in json.dumps(report.model_dump(mode="json"))
