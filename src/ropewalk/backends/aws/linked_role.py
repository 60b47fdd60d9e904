"""The service-linked role of ECS, without which ECS may not attach tasks to a network.

An AWS account has it from the day somebody first used ECS in the console. ("Using service-linked roles for Amazon ECS",
ECS developer guide.)
"""

from __future__ import annotations

from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.errors import FixItError

__all__ = ["COMMAND", "ROLE", "ensure_linked_role", "linked_role_exists"]

ROLE = "AWSServiceRoleForECS"
SERVICE = "ecs.amazonaws.com"
COMMAND = f"aws iam create-service-linked-role --aws-service-name {SERVICE}"


async def linked_role_exists(aws: Aws) -> bool | None:
    """Return whether the role exists; None: the key may not see it."""
    try:
        await aws.call("iam", "GetRole", RoleName=ROLE)
    except FixItError as error:
        if aws_code(error) in {"NoSuchEntity", "NoSuchEntityException"}:
            return False
        if error.details.get("action"):
            return None
        raise
    return True


async def ensure_linked_role(aws: Aws) -> bool:
    """Create the role if it is missing; return whether it was made now.

    Raises:
        FixItError: It is missing and the key may not create it; the advice is the command to run.
    """
    if await linked_role_exists(aws) is not False:
        return False
    try:
        await aws.call("iam", "CreateServiceLinkedRole", AWSServiceName=SERVICE)
    except FixItError as error:
        if aws_code(error) in {"InvalidInput", "EntityAlreadyExists"}:  # it "has been taken": somebody was faster
            return False
        if not error.details.get("action"):
            raise
        raise FixItError(
            f"The service-linked role {ROLE} is missing, and the key may not create it.",
            advice=f"Run `{COMMAND}` as an administrator of the AWS account, once, then prepare again.",
            field="access_key_id",
            details=error.details,
        ) from error
    return True
