"""IAM policies made from the table of permissions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ropewalk.schemas.aws_permissions import PERMISSIONS, Permission, Phase
from ropewalk.schemas.aws_scopes import ALL, Conditions, Scope

__all__ = ["LIMIT", "filled", "partition", "policy", "policy_of", "size"]

LIMIT = 6144
"""Characters of a managed policy, without white space ("IAM and AWS STS quotas")."""


def policy(
    phases: Collection[Phase] = (), *, scoped: bool = False, region: str = "*", account: str = "*"
) -> dict[str, Any]:
    """Return the policy for some phases, or for all.

    Args:
        phases: Which rights; empty: all.
        scoped: Limit them to Ropewalk's names and tags; otherwise to nothing.
        region: Region in the scoped policy's ARNs.
        account: Id of the AWS account in the scoped policy's ARNs.
    """
    wanted = [item for item in PERMISSIONS if not phases or set(item.phases) & set(phases)]
    return policy_of(wanted, scoped=scoped, region=region, account=account)


def policy_of(
    permissions: Iterable[Permission], *, scoped: bool = False, region: str = "*", account: str = "*"
) -> dict[str, Any]:
    """Return a policy that allows just these."""
    by_scope: dict[Scope, list[str]] = {}
    for item in permissions:
        for scope in item.scopes if scoped else (ALL,):
            by_scope.setdefault(scope, []).append(item.action)
    names = {"partition": partition(region), "region": region, "account": account}
    statements = [_statement(scope, actions, names) for scope, actions in by_scope.items()]
    return {"Version": "2012-10-17", "Statement": statements}


def size(document: dict[str, Any]) -> int:
    """Return a policy's size as IAM counts it."""
    return len(json.dumps(document, separators=(",", ":")))


def _statement(scope: Scope, actions: list[str], names: dict[str, str]) -> dict[str, Any]:
    resources = [resource.format(**names) for resource in scope.resources]
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": resources if len(resources) > 1 else resources[0],
    }
    if scope.conditions:
        statement["Condition"] = filled(scope.conditions, names)
    return statement


def filled(conditions: Conditions, names: Mapping[str, str]) -> dict[str, dict[str, str | list[str]]]:
    """Return conditions with the names of partition, region and account in them."""
    return {
        operator: {key: value.format(**names) if isinstance(value, str) else list(value) for key, value in keys.items()}
        for operator, keys in conditions.items()
    }


def partition(region: str) -> str:
    """Return the first part of ARNs: China and GovCloud have their own ("ARN format", IAM user guide)."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"
