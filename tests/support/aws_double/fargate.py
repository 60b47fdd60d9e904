"""What Fargate runs and refuses ("Amazon ECS task definition differences for Fargate", API reference of ECS)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ministack.services import ecs, iam

from tests.support.aws_double.control import control
from tests.support.aws_double.gate import Answer, error

_GIB = 1024
PAIRS = {
    256: (512, 1 * _GIB, 2 * _GIB),
    512: tuple(range(1 * _GIB, 4 * _GIB + 1, _GIB)),
    1024: tuple(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2048: tuple(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4096: tuple(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8192: tuple(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16384: tuple(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
}
"""CPU units (1024 to a vCPU) to MiB of memory ("Task CPU and memory")."""

_LARGEST_DEFINITION = 65536
_FAMILY = re.compile(r"[A-Za-z0-9_-]{1,255}")


def refuse(code: str, message: str) -> Answer:
    """Return an error of ECS."""
    return error("ecs:", code, message, 400)


def pair(cpu: Any, memory: Any) -> str | None:
    """Say what is wrong with a CPU and memory of Fargate, None if nothing."""
    try:
        units, mib = int(str(cpu)), int(str(memory))
    except ValueError:
        return f"Invalid setting for container. cpu: {cpu}, memory: {memory}."
    if mib in PAIRS.get(units, ()):
        return None
    return "No Fargate configuration exists for given values."


def role_unusable(arn: str) -> bool:
    """Tell whether ECS cannot assume a role, or not yet."""
    name = arn.rpartition("/")[2]
    born = f"role/{name}"
    return name not in iam._roles or not control.visible(born, "role_visible_after")


def check_definition(data: Mapping[str, Any]) -> Answer | None:
    """Refuse a task definition as RegisterTaskDefinition does."""
    message = _wrong_definition(data)
    return refuse("ClientException", message) if message else None


def _wrong_definition(data: Mapping[str, Any]) -> str | None:
    size = len(json.dumps(data))
    if size > _LARGEST_DEFINITION:
        return f"Actual length: '{size}'. Max allowed length is '{_LARGEST_DEFINITION}' bytes."
    if not _FAMILY.fullmatch(str(data.get("family", ""))):
        return "Family contains invalid characters."
    for role in (data.get("executionRoleArn"), data.get("taskRoleArn")):
        if role and role_unusable(role):
            return "Role is not valid"
    if "FARGATE" not in data.get("requiresCompatibilities", []):
        return None
    return _wrong_for_fargate(data)


def _wrong_for_fargate(data: Mapping[str, Any]) -> str | None:
    if data.get("networkMode") != "awsvpc":
        return "Fargate only supports network mode 'awsvpc'."
    storage = (data.get("ephemeralStorage") or {}).get("sizeInGiB", 21)
    if not 21 <= storage <= 200:
        return "Fargate ephemeral storage size must be between 21 and 200 GiB."
    for container in data.get("containerDefinitions", []):
        if container.get("privileged"):
            return "Fargate does not support privileged containers."
        logs = (container.get("logConfiguration") or {}).get("logDriver") == "awslogs"
        if (logs or ".dkr.ecr." in container["image"]) and not data.get("executionRoleArn"):
            return "Fargate requires task definition to have execution role ARN to support log driver awslogs."
        if container.get("stopTimeout", 30) > 120:
            return "Fargate stopTimeout must be at most 120 seconds."
    return pair(data.get("cpu"), data.get("memory"))


def check_run(data: Mapping[str, Any], definition: Mapping[str, Any]) -> Answer | None:
    """Refuse a RunTask as ECS does once it knows cluster and definition."""
    message = _wrong_request(data) or _wrong_network(data, definition) or _wrong_overrides(data, definition)
    if message:
        return refuse("InvalidParameterException", message)
    for role in (definition.get("executionRoleArn"), definition.get("taskRoleArn")):
        if role and role_unusable(role):
            return refuse("ClientException", f"ECS was unable to assume the role '{role}' that was provided.")
    return None


def _wrong_request(data: Mapping[str, Any]) -> str | None:
    if not 1 <= data.get("count", 1) <= 10:
        return "Count must be between 1 and 10."
    if not re.fullmatch(r"[A-Za-z0-9/_-]{0,128}", data.get("startedBy", "")):
        return "startedBy must be at most 128 letters, numbers, hyphens, forward slashes and underscores."
    if not re.fullmatch(r"[!-~]{0,64}", data.get("clientToken", "")):
        return "clientToken must be at most 64 ASCII characters in the range of 33-126."
    if len(data.get("tags", [])) > 50:
        return "Too many tags."
    if data.get("launchType") and data.get("capacityProviderStrategy"):
        return "Specifying both a launch type and capacity provider strategy is not supported."
    return None


def _wrong_network(data: Mapping[str, Any], definition: Mapping[str, Any]) -> str | None:
    if definition.get("networkMode") != "awsvpc":
        return None
    from ministack.services import ec2  # noqa: PLC0415 - networks.py prepares it, which is installed later

    network = (data.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
    if not network.get("subnets"):
        return "Network Configuration must be provided when networkMode 'awsvpc' is specified."
    ec2._ensure_defaults_initialized()
    for subnet in network["subnets"]:
        if subnet not in ec2._subnets:
            return f"Error retrieving subnet information for [{subnet}]: The subnet ID '{subnet}' does not exist"
    vpcs = {ec2._subnets[subnet]["VpcId"] for subnet in network["subnets"]}
    for group in network.get("securityGroups", []):
        if group not in ec2._security_groups:
            return f"Error retrieving security group information for [{group}]: does not exist"
        vpcs.add(ec2._security_groups[group]["VpcId"])
    return "Subnets and security groups must be in the same VPC." if len(vpcs) > 1 else None


def _wrong_overrides(data: Mapping[str, Any], definition: Mapping[str, Any]) -> str | None:
    overrides = data.get("overrides") or {}
    length = len(json.dumps(overrides, separators=(",", ":"), ensure_ascii=False))
    if length > 8192:
        return "Container Overrides length must be at most 8192"
    names = {container["name"] for container in definition["containerDefinitions"]}
    for override in overrides.get("containerOverrides", []):
        if override.get("name") not in names:
            return f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
    fargate = data.get("launchType") == "FARGATE" or data.get("capacityProviderStrategy")
    if fargate and "FARGATE" not in definition.get("compatibilities", []):
        return "Task definition does not support launch_type FARGATE."
    return _wrong_provider(data) or _wrong_size(overrides, definition, bool(fargate))


def _wrong_size(overrides: Mapping[str, Any], definition: Mapping[str, Any], fargate: bool) -> str | None:
    if not fargate:
        return None
    return pair(overrides.get("cpu") or definition["cpu"], overrides.get("memory") or definition["memory"])


def _wrong_provider(data: Mapping[str, Any]) -> str | None:
    cluster = ecs._clusters[ecs._resolve_cluster_name(data.get("cluster", "default"))]
    for entry in data.get("capacityProviderStrategy", []):
        if entry["capacityProvider"] not in cluster["capacityProviders"]:
            return f"The specified capacity provider {entry['capacityProvider']} is not associated with the cluster."
    return None
