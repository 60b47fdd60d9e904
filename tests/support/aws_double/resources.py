"""Which resources and conditions a request is authorised for ("Service Authorization Reference").

ministack takes one resource for each request, often ``*``, and knows few condition keys; its policy simulation knows no
context. Policies that are limited to names and tags need both. AWS authorises each resource of a request: what is
made, with the tags in the request, and what it is made in, with the tags it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import ec2, ecs, iam

from tests.support.aws_double.gate import request_action, request_params
from tests.support.aws_double.patching import demand, replace

Target = tuple[str, dict[str, Any]]
"""ARN and condition keys."""

_TYPES = {
    "vpc": "vpc",
    "subnet": "subnet",
    "igw": "internet-gateway",
    "rtb": "route-table",
    "sg": "security-group",
    "eipalloc": "elastic-ip",
    "nat": "natgateway",
    "pcx": "vpc-peering-connection",
    "eni": "network-interface",
}
_MADE = {
    "CreateVpc": "vpc",
    "CreateSubnet": "subnet",
    "CreateInternetGateway": "internet-gateway",
    "CreateRouteTable": "route-table",
    "CreateSecurityGroup": "security-group",
    "AllocateAddress": "elastic-ip",
    "CreateNatGateway": "natgateway",
    "CreateVpcPeeringConnection": "vpc-peering-connection",
}
# What of a request's ids is a resource of the action; of all others, all are.
_ONLY = {
    "CreateRoute": ("RouteTableId",),
    "ReplaceRoute": ("RouteTableId",),
    "CreateVpcPeeringConnection": ("VpcId",),
    "AuthorizeSecurityGroupIngress": ("GroupId",),
    "RevokeSecurityGroupIngress": ("GroupId",),
}
_SERVICE_ROLE = "aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS"


def install() -> None:
    """Authorise each resource of a request; simulate with a context."""
    demand(iam_evaluator, "caller_arn", "evaluate", "EvalContext")
    demand(ec2, "_tags", "_route_tables")
    demand(ecs, "_resolve_td_key")
    replace(iam_evaluator, "enforce", _enforce)
    replace(iam, "_extract_simulate_params", _extract)
    replace(iam, "_build_simulate_results_real", _simulate)


def targets(action: str, params: Mapping[str, Any]) -> list[Target]:
    """Return what a request is authorised for; empty: what ministack says."""
    service, _, operation = action.partition(":")
    find = {"ec2": _ec2, "ecs": _ecs, "ecr": _ecr, "iam": _iam}.get(service)
    return list(find(operation, params)) if find else []


def _arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{'' if service == 'iam' else get_region()}:{get_account_id()}:{name}"


def _ec2(operation: str, params: Mapping[str, Any]) -> Iterator[Target]:
    if operation.startswith("Describe"):
        yield "*", {}
        return
    if kind := _MADE.get(operation):
        yield _arn("ec2", f"{kind}/*"), _request_tags(params, "TagSpecification.1.Tag")
    wanted = _ONLY.get(operation)
    for name, value in params.items():
        known = re.fullmatch(r"([a-z]+)-[0-9a-f]{8,17}", str(value))
        if operation == "DisassociateRouteTable" and name == "AssociationId":
            yield from (_existing(table) for table in _tables_of(str(value)))
        elif known and known[1] in _TYPES and (wanted is None or name in wanted):
            arn, tags = _existing(str(value))
            yield arn, tags | (_request_tags(params, "Tag") if operation == "CreateTags" else {})


def _existing(id_: str) -> Target:
    tags = {f"aws:resourcetag/{tag['Key']}".lower(): tag["Value"] for tag in ec2._tags.get(id_, [])}
    return _arn("ec2", f"{_TYPES[id_.partition('-')[0]]}/{id_}"), tags


def _tables_of(association: str) -> Iterable[str]:
    return [
        id_
        for id_, table in ec2._route_tables.items()
        if any(item.get("RouteTableAssociationId") == association for item in table.get("Associations", ()))
    ]


def _request_tags(params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    keys = {name: value for name, value in params.items() if re.fullmatch(rf"{re.escape(prefix)}\.\d+\.Key", name)}
    return {
        f"aws:requesttag/{key}".lower(): params.get(name.removesuffix("Key") + "Value", "")
        for name, key in keys.items()
    }


def _ecs(operation: str, params: Mapping[str, Any]) -> Iterator[Target]:
    cluster = _named("cluster", params.get("cluster") or params.get("clusterName") or "default")
    where = {"ecs:cluster": cluster}
    if operation == "RunTask":
        key = str(ecs._resolve_td_key(params.get("taskDefinition", ""))).rpartition("/")[2]
        yield _arn("ecs", f"task-definition/{key}"), where
    elif operation in {"DescribeTasks", "StopTask"}:
        home = f"task/{cluster.rpartition('/')[2]}"
        for task in params.get("tasks") or [params.get("task", "")]:
            yield _arn("ecs", f"{home}/{str(task).rpartition('/')[2]}"), where
    elif operation == "ListTasks":
        yield "*", where
    elif operation == "DescribeClusters":
        yield from ((_named("cluster", name), {}) for name in params.get("clusters") or ["default"])
    elif operation in {"CreateCluster", "DeleteCluster", "PutClusterCapacityProviders"}:
        yield cluster, {}
    elif operation == "RegisterTaskDefinition":
        yield _arn("ecs", f"task-definition/{params.get('family')}:1"), {}
    elif operation == "DeleteTaskDefinitions":
        yield from ((_named("task-definition", name), {}) for name in params.get("taskDefinitions", ()))
    elif operation in {"TagResource", "UntagResource"}:
        yield str(params.get("resourceArn")), {}
    else:
        yield "*", {}


def _named(kind: str, name: str) -> str:
    return name if name.startswith("arn:") else _arn("ecs", f"{kind}/{name}")


def _ecr(operation: str, params: Mapping[str, Any]) -> Iterator[Target]:
    if operation in {"TagResource", "UntagResource"}:
        yield str(params.get("resourceArn")), {}
    for name in params.get("repositoryNames") or ():
        yield _arn("ecr", f"repository/{name}"), {}


def _iam(operation: str, params: Mapping[str, Any]) -> Iterator[Target]:
    if operation == "SimulatePrincipalPolicy":
        # ministack knows no variables in policies, so what is the caller itself is called as the variable is.
        source, caller = str(params.get("PolicySourceArn")), iam_evaluator.caller_arn()
        yield _arn("iam", "user/${aws:username}") if source == caller else source, {}
    elif operation == "CreateServiceLinkedRole":
        yield _arn("iam", f"role/{_SERVICE_ROLE}"), {"iam:awsservicename": params.get("AWSServiceName")}
    elif operation == "GetServiceLinkedRoleDeletionStatus":
        path = str(params.get("DeletionTaskId")).removeprefix("task/").rpartition("/")[0]
        yield _arn("iam", f"role/{path}"), {}
    elif role := params.get("RoleName"):
        name = _SERVICE_ROLE if role == "AWSServiceRoleForECS" else role
        yield _arn("iam", f"role/{name}"), {"iam:policyarn": params["PolicyArn"]} if "PolicyArn" in params else {}


def _enforce(enforce: Callable[..., Any]) -> Callable[..., Any]:
    def enforced(
        key: str, action: str, service: str, region: str, resource_arn: str = "*", service_context: Any = None
    ) -> Any:
        found = targets(action, request_params.get({})) if action == request_action.get("") else []
        for resource, context in found or [(resource_arn, {})]:
            given = {**(service_context or {}), **context}
            refusal = enforce(key, action, service, region, resource_arn=resource, service_context=given)
            if refusal is not None:
                return refusal
        return None

    return enforced


def _extract(_: Callable[..., Any]) -> Callable[..., Any]:
    def extracted(params: Any) -> tuple[list[str], list[str]]:
        return _members(params, "ActionNames"), _members(params, "ResourceArns") or ["*"]

    return extracted


def _members(params: Any, prefix: str) -> list[str]:
    names = (f"{prefix}.member.{number}" for number in range(1, 1000))
    found = []
    for name in names:
        value = iam._p(params, name)
        if not value:
            break
        found.append(value)
    return found


def _simulate(_: Callable[..., Any]) -> Callable[..., Any]:
    def simulated(actions: list[str], resources: list[str], principal: str, account: str, policies: Any) -> str:
        return "".join(_result(action, arn, principal, account, policies) for action in actions for arn in resources)

    return simulated


def _result(action: str, resource: str, principal: str, account: str, policies: Any) -> str:
    context = iam_evaluator.EvalContext(
        principal_arn=principal,
        principal_type="User",
        principal_account=account,
        action=action,
        resource_arn=resource,
        region=get_region(),
        service_context=_given(request_params.get({})),
        principal_keys={"aws:username": principal.rpartition("/")[2]},
    )
    decision = iam_evaluator.evaluate(context, policies).decision if policies else "ImplicitDeny"
    word = {"Allow": "allowed", "Deny": "explicitDeny"}.get(decision, "implicitDeny")
    return (
        f"<member><EvalActionName>{action}</EvalActionName><EvalResourceName>{resource}</EvalResourceName>"
        f"<EvalDecision>{word}</EvalDecision></member>"
    )


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the context entries of a simulation."""
    return {
        str(value).lower(): params.get(name.replace("ContextKeyName", "ContextKeyValues.member.1"), "")
        for name, value in params.items()
        if re.fullmatch(r"ContextEntries\.member\.\d+\.ContextKeyName", name)
    }
