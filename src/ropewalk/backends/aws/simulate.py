"""Ask IAM what a key may do ("SimulatePrincipalPolicy", IAM API reference).

Each scope of the table of permissions is asked about with a resource and a context that Ropewalk's own requests have,
so rights that are limited to its names and tags count as rights. Service control policies without conditions and
permissions boundaries are part of IAM's answer; resource policies are not, and Ropewalk needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.probes import Verdict
from ropewalk.errors import BackendError
from ropewalk.schemas.aws_permissions import PERMISSIONS
from ropewalk.schemas.aws_policy import filled
from ropewalk.schemas.aws_scopes import PASSED, Scope

__all__ = ["simulated"]

Simulated = dict[str, tuple[str, str | None]]
"""Action to verdict, and why it is denied if IAM says more than that no policy allows it."""


async def simulated(
    aws: Aws, principal: str, names: Mapping[str, str], roles: Sequence[str] = ()
) -> Simulated | BackendError:
    """Return a verdict for each action of the table, or the error that IAM answered.

    Args:
        aws: Whose rights to ask for with.
        principal: ARN of the user or role whose rights they are.
        names: partition, region and account, for the ARNs of the scopes.
        roles: ARNs of roles of the team's own that tasks will be given.
    """
    by_scope: dict[Scope, list[str]] = {}
    for permission in PERMISSIONS:
        for scope in permission.scopes:
            by_scope.setdefault(scope, []).append(permission.action)
    asked = [_ask(aws, principal, scope, actions, names, roles) for scope, actions in by_scope.items()]
    found: Simulated = {}
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, BackendError):
            return answer
        if isinstance(answer, BaseException):
            raise answer
        for action, said in answer.items():
            if found.get(action, (Verdict.ALLOWED,))[0] == Verdict.ALLOWED:
                found[action] = said
    return found


async def _ask(
    aws: Aws,
    principal: str,
    scope: Scope,
    actions: list[str],
    names: Mapping[str, str],
    roles: Sequence[str],
) -> Simulated:
    resources = list(roles) if scope is PASSED and roles else [_example(arn, names) for arn in scope.resources]
    results = aws.pages(
        "iam",
        "SimulatePrincipalPolicy",
        "EvaluationResults",
        PolicySourceArn=principal,
        ActionNames=actions,
        ResourceArns=resources,
        ContextEntries=_context(scope, names),
    )
    found: Simulated = {}
    async for result in results:
        action = str(result["EvalActionName"])
        said = _read(result)
        # Of several resources an action concerns one or two; the others are denied for want of sense.
        if action not in found or said[0] == Verdict.ALLOWED:
            found[action] = said
    return found


def _read(result: Mapping[str, Any]) -> tuple[str, str | None]:
    decisions = [result.get("EvalDecision")]
    decisions += [item.get("EvalResourceDecision") for item in result.get("ResourceSpecificResults") or ()]
    if "allowed" in decisions:
        return Verdict.ALLOWED, None
    if (result.get("OrganizationsDecisionDetail") or {}).get("AllowedByOrganizations") is False:
        return Verdict.DENIED, "a service control policy of the organization does not allow it"
    if (result.get("PermissionsBoundaryDecisionDetail") or {}).get("AllowedByPermissionsBoundary") is False:
        return Verdict.DENIED, "the permissions boundary does not allow it"
    return Verdict.DENIED, "a policy denies it explicitly" if "explicitDeny" in decisions else None


def _example(arn: str, names: Mapping[str, str]) -> str:
    if arn == "*":
        return arn
    concrete = {name: value if value != "*" else "check" for name, value in names.items()}
    user = arn.replace("${{aws:username}}", "check")
    return user.format(**concrete).replace("*", "check")


def _context(scope: Scope, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a request context that meets the scope's conditions."""
    entries = []
    for operator, keys in filled(scope.conditions, names).items():
        for key, value in keys.items():
            wanted = value[0] if isinstance(value, list) else value
            given = "check" if operator == "Null" else wanted.replace("*", "check")
            entries.append({"ContextKeyName": key, "ContextKeyValues": [given], "ContextKeyType": "string"})
    return entries
