"""IAM: new roles and keys that are not known everywhere at once, and the service-linked role under its real name.

A key of the root user is here one of a user who may do everything, and calls itself root (``root_keys`` of the
settings): ministack's own root keys are no keys that a person could have.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from ministack import app as application
from ministack.core.router import extract_access_key_id
from ministack.services import iam

from tests.support.aws_double.control import control
from tests.support.aws_double.gate import Answer, error, request_action, request_params
from tests.support.aws_double.patching import demand, replace_item

_OURS, _REAL = "AWSServiceRoleForEcs", "AWSServiceRoleForECS"


def install() -> None:
    """Follow what is made, and correct what ministack calls it."""
    demand(iam, "_roles")
    replace_item(application.SERVICE_HANDLERS, "iam", _followed)
    replace_item(application.SERVICE_HANDLERS, "sts", _rooted)


def _followed(handler: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    async def followed(method: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
        action, params = request_action.get(), request_params.get()
        ecs_role = action == "iam:CreateServiceLinkedRole" and params.get("AWSServiceName") == "ecs.amazonaws.com"
        if ecs_role and _REAL in iam._roles:
            message = f"Service role name {_REAL} has been taken in this account, please try a different suffix."
            return error("iam:", "InvalidInput", message, 400)
        trust = params.get("AssumeRolePolicyDocument" if action == "iam:CreateRole" else "PolicyDocument", "Statement")
        if action in ("iam:CreateRole", "iam:UpdateAssumeRolePolicy") and "Statement" not in trust:
            return error("iam:", "MalformedPolicyDocument", "Missing required field Statement", 400)
        status, answer_headers, answer = await handler(method, path, headers, body, query)
        if ecs_role and status < 400:
            role = iam._roles.pop(_OURS)
            iam._roles[_REAL] = role | {"RoleName": _REAL, "Arn": role["Arn"].replace(_OURS, _REAL)}
            answer = answer.replace(_OURS.encode(), _REAL.encode())
        if action == "iam:CreateRole" and status < 400:
            control.born[f"role/{params['RoleName']}"] = control.now()
        made = re.search(rb"<AccessKeyId>(\w+)</AccessKeyId>", answer)
        if action == "iam:CreateAccessKey" and made:
            control.born[f"key/{made[1].decode()}"] = control.now()
        return status, answer_headers, answer

    return followed


def _rooted(handler: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    async def answered(method: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
        status, answer_headers, answer = await handler(method, path, headers, body, query)
        root = extract_access_key_id(headers, query) in control.settings["root_keys"]
        if root and request_action.get() == "sts:GetCallerIdentity" and status < 400:
            answer = re.sub(rb":user/[^<\"]+", b":root", answer)
        return status, answer_headers, answer

    return answered
