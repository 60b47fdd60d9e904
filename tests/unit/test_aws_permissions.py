"""The table of permissions, and the policies made from it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest

from ropewalk.backends.aws.probes import PROBES
from ropewalk.schemas.aws_permissions import (
    BY_ACTION,
    NOT_NEEDED,
    PERMISSIONS,
    Feature,
    Permission,
    Phase,
    breaks_without,
)
from ropewalk.schemas.aws_policy import LIMIT, policy, policy_of, size
from ropewalk.schemas.aws_scopes import ALL, CHILDREN, OWNED, PARENTS

AWS = Path(__file__).parents[2] / "src" / "ropewalk" / "backends" / "aws"

# The list of the reference product's page "Cloud Accounts".
_PAGE = """
sts:GetCallerIdentity iam:GetRole iam:CreateRole iam:AttachRolePolicy iam:DeleteRole iam:PassRole
ecs:RegisterTaskDefinition ecs:RunTask ecs:ListTasks ecs:DescribeTasks ecs:StopTask ecs:ListTaskDefinitions
ecs:DescribeTaskDefinition ecs:ListClusters ecs:CreateCluster
ecr:DescribeImages ecr:ListImages ecr:DescribeRepositories ecr:CreateRepository ecr:GetAuthorizationToken
ecr:InitiateLayerUpload ecr:UploadLayerPart ecr:CompleteLayerUpload
ec2:DescribeSubnets ec2:CreateSecurityGroup ec2:AuthorizeSecurityGroupIngress ec2:CreateTags
ec2:DescribeSecurityGroups ec2:DeleteSecurityGroup ec2:DescribeVpcs ec2:DescribeRouteTables ec2:CreateVpc
ec2:ModifyVpcAttribute ec2:CreateInternetGateway ec2:AttachInternetGateway ec2:CreateVpcPeeringConnection
ec2:DescribeVpcPeeringConnections ec2:CreateRouteTable ec2:CreateRoute ec2:DescribeAvailabilityZones ec2:CreateSubnet
ec2:AssociateRouteTable ec2:ModifySubnetAttribute ec2:AllocateAddress ec2:CreateNatGateway ec2:DescribeNatGateways
ec2:DescribeNetworkInterfaces
logs:CreateLogGroup logs:PutRetentionPolicy logs:GetLogEvents
"""
PAGE = _PAGE.split()

# What has no right of its own: the role's key is asked for with AssumeRole, whose right is in the role's trust policy
# and on the user, and not among those of the account's work.
WITHOUT_A_ROW = {"sts:AssumeRole"}
# Rights that no operation bears the name of.
NO_OPERATION = {"iam:PassRole"}
# Asked for by AWS when something is tagged while it is made ("Grant permission to tag resources on creation").
WHILE_MAKING = {"ecs:TagResource", "ecr:TagResource", "logs:TagResource", "iam:TagRole"}
# Files whose names of operations are no calls: rates, what may be repeated, probes of the check.
NO_CALLS = {"limiter.py", "probes.py"}


@cache
def operations() -> dict[str, set[str]]:
    """Return for each operation of the services that we use the names that these have in IAM."""
    found: dict[str, set[str]] = {}
    for service in ("sts", "iam", "ec2", "ecs", "ecr", "logs", "service-quotas"):
        model = botocore.loaders.create_loader().load_service_model(service, "service-2")
        for operation in model["operations"]:
            found.setdefault(operation, set()).add(service.replace("service-quotas", "servicequotas"))
    return found


def strings(tree: ast.AST) -> Iterator[tuple[ast.Constant, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value


def named() -> dict[str, set[str]]:
    """Return the operations that the backend's source names, and the services that it may mean there."""
    found: dict[str, set[str]] = {}
    for path in AWS.rglob("*.py"):
        if path.name in NO_CALLS:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        if path.name == "api.py":
            tree.body = [node for node in tree.body if not isinstance(node, ast.Assign)]
        texts = {text for _, text in strings(tree)}
        for operation in texts & set(operations()):
            services = operations()[operation]
            here = {service for service in services if {service, service.replace("quotas", "-quotas")} & texts}
            found.setdefault(operation, set()).update(here or services)
    return found


def test_every_operation_that_the_backend_names_is_in_the_table() -> None:
    missing = [
        f"{'|'.join(sorted(services))}:{operation}"
        for operation, services in sorted(named().items())
        if not any(f"{service}:{operation}" in {*BY_ACTION, *WITHOUT_A_ROW} for service in services)
    ]
    assert missing == []


def test_the_table_has_nothing_that_the_backend_does_not_use() -> None:
    used = {f"{service}:{operation}" for operation, services in named().items() for service in services}
    assert set(BY_ACTION) - used == NO_OPERATION | (WHILE_MAKING - used)


def test_the_table_knows_only_actions_that_aws_knows() -> None:
    known = {f"{service}:{operation}" for operation, services in operations().items() for service in services}
    assert set(BY_ACTION) - known == NO_OPERATION


def test_all_actions_of_the_reference_product_are_in_the_table_or_said_to_be_needless() -> None:
    assert len(PAGE) == 50
    assert set(PAGE) == set(PAGE) & {*BY_ACTION, *NOT_NEEDED}
    assert not set(BY_ACTION) & set(NOT_NEEDED)


def test_what_is_required_is_what_the_reference_product_requires() -> None:
    """So a key that was made for it runs clusters here."""
    assert [item.action for item in PERMISSIONS if item.required and item.action not in PAGE] == []


def test_no_action_has_two_rows() -> None:
    assert len(BY_ACTION) == len(PERMISSIONS)


@pytest.mark.parametrize("item", PERMISSIONS, ids=lambda item: str(item.action))
def test_every_row_says_what_for_and_what_breaks(item: Permission) -> None:
    assert item.phases
    assert item.scopes
    assert re.match(r"[a-z]", item.use)
    assert item.breaks == breaks_without(item.action)
    assert item.required or item.without


def test_every_action_can_be_probed_or_is_known_to_need_the_simulation() -> None:
    assert set(PROBES) <= set(BY_ACTION)
    assert set(BY_ACTION) - set(PROBES) == {
        "sts:GetCallerIdentity",  # nobody can be denied it
        "iam:SimulatePrincipalPolicy",  # its use is its probe
        "iam:PassRole",
        "iam:CreateServiceLinkedRole",
        "iam:DeleteServiceLinkedRole",
        "iam:GetServiceLinkedRoleDeletionStatus",
        "ecs:CreateCluster",
        "ecs:RegisterTaskDefinition",
        "ecr:CreateRepository",
        "logs:CreateLogGroup",
    }


@pytest.mark.parametrize("action", sorted(PROBES))
def test_no_probe_is_about_anything_that_can_exist(action: str) -> None:
    probe = PROBES[action]
    text = json.dumps(dict(probe.parameters), default=str)
    only_reads = probe.operation.startswith(("List", "Describe", "Get", "BatchCheck", "BatchGet"))
    assert only_reads or probe.parameters.get("DryRun") or "does-not-exist" in text or "0" * 17 in text


def test_ec2_is_changed_by_dry_runs_only_but_where_there_are_none() -> None:
    real = {action for action, probe in PROBES.items() if probe.service == "ec2" and not probe.parameters.get("DryRun")}
    assert real == {"ec2:ModifyVpcAttribute", "ec2:ModifySubnetAttribute"}


class TestPolicies:
    @pytest.mark.parametrize("scoped", [False, True])
    def test_a_policy_of_everything_fits_into_one_managed_policy(self, scoped: bool) -> None:
        assert size(policy(scoped=scoped)) <= LIMIT
        assert size(policy(scoped=scoped, region="ap-southeast-1", account="111122223333")) <= LIMIT
        assert size(policy(scoped=scoped, region="us-gov-west-1", account="111122223333")) <= LIMIT

    def test_it_allows_all_actions_of_the_table(self) -> None:
        assert actions(policy()) == set(BY_ACTION)
        assert actions(policy(scoped=True)) == set(BY_ACTION)

    @pytest.mark.parametrize("phase", list(Phase))
    def test_a_phase_has_the_actions_of_the_phase(self, phase: Phase) -> None:
        wanted = {item.action for item in PERMISSIONS if phase in item.phases}
        assert actions(policy([phase])) == actions(policy([phase], scoped=True)) == wanted

    def test_all_phases_together_are_everything(self) -> None:
        assert policy(list(Phase)) == policy()

    def test_a_scoped_policy_changes_nothing_without_name_or_tag(self) -> None:
        """Statements about everything, and under no condition, are of what reads or cannot be limited."""
        free = {
            action
            for statement in policy(scoped=True)["Statement"]
            if statement["Resource"] == "*" and "Condition" not in statement
            for action in statement["Action"]
        }
        assert {action for action in free if not re.match(r"\w+:(Describe|List|Get)", action)} == {
            # AWS's Service Authorization Reference has no resource for these.
            "ecs:CreateCluster",
            "ecs:DeregisterTaskDefinition",
            "ecs:RegisterTaskDefinition",
        }

    def test_a_scoped_policy_passes_roles_to_tasks_only(self) -> None:
        found = next(item for item in policy(scoped=True)["Statement"] if "iam:PassRole" in item["Action"])
        assert found["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
        assert found["Resource"].endswith(":role/ropewalk-*")

    def test_a_scoped_policy_attaches_one_policy_only(self) -> None:
        found = next(item for item in policy(scoped=True)["Statement"] if "iam:AttachRolePolicy" in item["Action"])
        allowed = found["Condition"]["ArnEquals"]["iam:PolicyARN"]
        assert allowed == "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"

    def test_arns_name_partition_region_and_account(self) -> None:
        text = json.dumps(policy(scoped=True, region="cn-north-1", account="111122223333"))
        assert "arn:aws-cn:ecs:cn-north-1:111122223333:cluster/ropewalk-*" in text
        assert "arn:aws:" not in text
        assert not re.search(r"\{(partition|region|account)\}", text)

    def test_the_user_variable_survives(self) -> None:
        assert "user/${aws:username}" in json.dumps(policy(scoped=True))

    def test_a_thing_is_made_with_our_tag_and_within_what_has_it(self) -> None:
        assert set(BY_ACTION["ec2:CreateSubnet"].scopes) == {CHILDREN, PARENTS}
        assert BY_ACTION["ec2:DeleteVpc"].scopes == (OWNED,)
        assert BY_ACTION["ec2:DescribeVpcs"].scopes == (ALL,)

    def test_a_policy_of_some_permissions_has_just_these(self) -> None:
        assert actions(policy_of([BY_ACTION["ecs:RunTask"]])) == {"ecs:RunTask"}


def test_rights_of_a_feature_are_needed_when_it_is_asked_for() -> None:
    item = BY_ACTION["ec2:CreateNatGateway"]
    assert not item.needed()
    assert item.needed(frozenset({Feature.PRIVATE}))
    assert not item.needed(frozenset({Feature.PEERING}))


def actions(document: dict[str, Any]) -> set[str]:
    return {action for statement in document["Statement"] for action in statement["Action"]}
