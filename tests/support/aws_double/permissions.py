"""Permissions that AWS asks for beside the action itself, which ministack does not check.

* ``iam:PassRole`` for the roles of a task, when its definition is registered and when it is run ("Actions, resources,
  and condition keys for Amazon ECS": dependent action of both).
* Tagging on creation: ``ecs:TagResource``, ``ec2:CreateTags``, ``iam:TagRole``, ``ecr:TagResource`` and
  ``logs:TagResource`` when the request that creates something carries tags ("Grant permission to tag resources on
  creation" of each service). By default (no account setting) ECS authorises it, too.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ministack.core import iam_actions, iam_evaluator
from ministack.services import ecs

from tests.support.aws_double.gate import request_action, request_params
from tests.support.aws_double.patching import demand, replace

_TAGGING = {"ecs": "ecs:TagResource", "ec2": "ec2:CreateTags", "ecr": "ecr:TagResource", "logs": "logs:TagResource"}
_denied: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("denied", default=None)


def install() -> None:
    """Check more in ministack's ``enforce``, and name what was denied in its answer."""
    demand(ecs, "_task_defs", "_resolve_td_key")
    replace(iam_evaluator, "enforce", _enforce)
    replace(iam_actions, "access_denied_response", _answer)


def passed_roles(action: str, params: Mapping[str, Any]) -> Iterable[str]:
    """Return the roles that a request hands to ECS."""
    found = {params.get("executionRoleArn"), params.get("taskRoleArn")}
    if action == "ecs:RunTask":
        overrides = params.get("overrides") or {}
        found = {overrides.get("executionRoleArn"), overrides.get("taskRoleArn")}
        definition = ecs._task_defs.get(ecs._resolve_td_key(params.get("taskDefinition", ""))) or {}
        found |= {definition.get("executionRoleArn"), definition.get("taskRoleArn")}
    return sorted(role for role in found if role)


def further(action: str, params: Mapping[str, Any], resource: str) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Return what else a request needs: action, resource and condition keys."""
    if action in {"ecs:RegisterTaskDefinition", "ecs:RunTask"}:
        for role in passed_roles(action, params):
            yield "iam:PassRole", role, {"iam:passedtoservice": "ecs-tasks.amazonaws.com"}
    service, _, operation = action.partition(":")
    if action == "iam:CreateRole" and any(name.startswith("Tags.") for name in params):
        yield "iam:TagRole", resource, {}
    creates = operation.startswith(("Create", "Register", "Run", "Allocate", "Authorize"))
    tagged = params.get("tags") or any(name.startswith("TagSpecification.") for name in params)
    if creates and tagged and service in _TAGGING and operation != "CreateTags":
        yield _TAGGING[service], resource, {f"{service}:createaction": operation}


def _enforce(enforce: Callable[..., Any]) -> Callable[..., Any]:
    def enforced(
        key: str, action: str, service: str, region: str, resource_arn: str = "*", service_context: Any = None
    ) -> Any:
        _denied.set(None)
        refusal = enforce(key, action, service, region, resource_arn=resource_arn, service_context=service_context)
        if refusal is not None or action != request_action.get(""):
            return refusal
        for more, resource, context in further(action, request_params.get({}), resource_arn):
            given = {**(service_context or {}), **context}
            refusal = enforce(key, more, more.partition(":")[0], region, resource_arn=resource, service_context=given)
            if refusal is not None:
                _denied.set((more, resource))
                return refusal
        return None

    return enforced


def _answer(response: Callable[..., Any]) -> Callable[..., Any]:
    def answered(service: str, action: str, principal_arn: str, request_id: str, **facts: Any) -> Any:
        denied = _denied.get()
        if denied is not None:
            action, facts["resource_arn"] = denied
        if service == "ec2" or not (facts.get("message") or facts.get("error_code")):
            facts["message"] = _message(principal_arn, action, facts)
        return response(service, action, principal_arn, request_id, **facts)

    return answered


def _message(principal: str, action: str, facts: Mapping[str, Any]) -> str:
    """Return AWS's sentence, which names the resource ("Troubleshoot access denied error messages" of IAM)."""
    resource = facts.get("resource_arn") or "*"
    why = (
        "with an explicit deny in an identity-based policy"
        if facts.get("explicit_deny")
        else f"because no identity-based policy allows the {action} action"
    )
    prefix = "You are not authorized to perform this operation. " if action.startswith("ec2:") else ""
    return f"{prefix}User: {principal} is not authorized to perform: {action} on resource: {resource} {why}"
