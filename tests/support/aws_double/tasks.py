"""ECS tasks: limits, client tokens, capacity, interfaces with addresses, and starts and ends that take time.

Sources: the API reference of ECS (RunTask, StopTask, DescribeTasks, ListTasks), "Amazon ECS task lifecycle", "API
failure reasons", "AWS Fargate service quotas".
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import ecs, iam

from tests.support.aws_double import interfaces
from tests.support.aws_double.control import control
from tests.support.aws_double.fargate import check_definition, check_run, refuse
from tests.support.aws_double.gate import Answer, within
from tests.support.aws_double.patching import demand, replace, replace_item
from tests.support.aws_double.rates import LAUNCHES

NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
NO_QUOTA = "You've reached the limit on the number of vCPUs you can run concurrently"
_STARTING = ("PROVISIONING", "PENDING", "ACTIVATING")
_running = threading.Lock()
_tokens: dict[tuple[str, str, str], tuple[str, list[str]]] = {}

Handler = Callable[[dict[str, Any]], Answer]


def install() -> None:
    """Put checks around ministack's handlers, and time between its states."""
    demand(
        ecs, "_tasks", "_clusters", "_task_defs", "_resolve_cluster_name", "_resolve_task", "_get_docker", "_sanitize"
    )
    replace(ecs, "_mark_task_stopped", _stopped)
    replace(ecs, "reset", _reset)
    for action, make in {
        "RunTask": _run,
        "StopTask": _stop,
        "DescribeTasks": _describe,
        "ListTasks": _list,
        "RegisterTaskDefinition": _register,
        "CreateCluster": _create_cluster,
        "DeleteCluster": _delete_cluster,
    }.items():
        replace_item(ecs._ACTION_MAP, action, make)


def answer(body: Mapping[str, Any]) -> Answer:
    """Return an answer of ECS, times in seconds as on the wire."""
    result: Answer = ecs._finalize_ecs_response(ecs.json_response(body))
    return result


def end_task(task: str, stopCode: str = "UserInitiated", stoppedReason: str = "", exitCode: int | None = None) -> Any:  # noqa: N803 - AWS's names
    """End a task as something other than its owner would."""
    for _, record in ecs._tasks.all_items():
        if record["taskArn"] == task:
            account, region = task.split(":")[4], task.split(":")[3]
            with ecs.request_scope(account, region):
                ended = ecs._mark_task_stopped(task, record, stoppedReason, stopCode, exitCode)
                ecs._cleanup_task_resources(record, ecs._get_docker())
            return {"ended": ended}
    raise ValueError(f"no such task: {task}")


def _reset(reset: Callable[[], None]) -> Callable[[], None]:
    def all_gone() -> None:
        _tokens.clear()
        reset()

    return all_gone


def _unknown_cluster(data: Mapping[str, Any]) -> Answer | None:
    name = ecs._resolve_cluster_name(data.get("cluster", "default"))
    if name not in ecs._clusters or ecs._clusters[name]["status"] != "ACTIVE":
        return refuse("ClusterNotFoundException", "Cluster not found.")
    return None


def _no_service_role() -> Answer | None:
    there = any(role["Path"] == "/aws-service-role/ecs.amazonaws.com/" for role in iam._roles.values())
    if control.settings["service_linked_role"] or there:
        return None
    message = "Unable to assume the service linked role. Please verify that the ECS service linked role exists."
    return refuse("InvalidParameterException", message)


def _create_cluster(create: Handler) -> Handler:
    def created(data: dict[str, Any]) -> Answer:
        return (data.get("capacityProviders") and _no_service_role()) or create(data)

    return created


def _delete_cluster(delete: Handler) -> Handler:
    def deleted(data: dict[str, Any]) -> Answer:
        missing = _unknown_cluster(data)
        if missing:
            return missing
        arn = ecs._clusters[ecs._resolve_cluster_name(data["cluster"])]["clusterArn"]
        if any(task["clusterArn"] == arn and task["lastStatus"] != "STOPPED" for task in _advanced()):
            return refuse("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
        return delete(data)

    return deleted


def _register(register: Handler) -> Handler:
    def registered(data: dict[str, Any]) -> Answer:
        return check_definition(data) or register(data)

    return registered


def _run(run: Handler) -> Handler:
    def ran(data: dict[str, Any]) -> Answer:
        definition = ecs._task_defs.get(ecs._resolve_td_key(data.get("taskDefinition", "")))
        refusal = _unknown_cluster(data)
        if refusal is None and definition is None:
            refusal = refuse("ClientException", "TaskDefinition not found.")
        elif refusal is None and definition["status"] != "ACTIVE":
            refusal = refuse("ClientException", "TaskDefinition is inactive")
        refusal = refusal or check_run(data, definition) or _no_service_role()
        if refusal:
            return refusal
        with _running:  # requests are answered in threads
            return _again(data) or _launch(run, data, definition)

    return ran


def _token(data: Mapping[str, Any]) -> tuple[str, str, str] | None:
    token = data.get("clientToken")
    return (get_account_id(), get_region(), token) if token else None


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _again(data: Mapping[str, Any]) -> Answer | None:
    """Answer a client token that was used: with its tasks, or a conflict if the request was another one."""
    token = _token(data)
    if token is None or token not in _tokens:
        return None
    digest, arns = _tokens[token]
    if digest != _digest(data):
        return refuse(
            "ConflictException", "The provided clientToken is already in use with a different RunTask request."
        )
    records = [ecs._tasks[arn] for arn in arns if arn in ecs._tasks]
    return answer({"tasks": [ecs._sanitize(advance(record)) for record in records], "failures": []})


def _launch(run: Handler, data: dict[str, Any], definition: Mapping[str, Any]) -> Answer:
    count = data.get("count", 1)
    if not within(LAUNCHES, count):
        return refuse("ThrottlingException", "Rate exceeded")
    spot = _is_spot(data)
    places, reason = (0, NO_CAPACITY) if spot == "refused" else _places(definition)
    placed = min(count, places)
    failures = [{"reason": reason} for _ in range(count - placed)]
    arns = _start(run, data, placed) if placed else []
    token = _token(data)
    if token is not None and arns:
        _tokens[token] = (_digest(data), arns)
    launched = [_as_launched(arn) for arn in arns]
    for arn in arns if spot == "stops" else ():
        end_task(arn, "TaskFailedToStart", NO_CAPACITY)
    return answer({"tasks": launched, "failures": failures})


def _is_spot(data: Mapping[str, Any]) -> str | None:
    """Return what there is of Fargate Spot, if it is asked for."""
    providers = {entry["capacityProvider"] for entry in data.get("capacityProviderStrategy") or ()}
    return str(control.settings["spot"]) if "FARGATE_SPOT" in providers else None


def _places(definition: Mapping[str, Any]) -> tuple[int, str]:
    """Return how many tasks may still start, and why no more."""
    running = [task for task in _advanced() if task["lastStatus"] != "STOPPED"]
    capacity, quota = control.settings["capacity"], control.settings["vcpu_quota"]
    free = 1000 if capacity is None else max(0, capacity - len(running))
    if quota is None:
        return free, NO_CAPACITY
    used = sum(int(task["cpu"]) for task in running) / 1024
    affordable = max(0, int((quota - used) / (int(definition["cpu"]) / 1024)))
    return (affordable, NO_QUOTA) if affordable < free else (free, NO_CAPACITY)


def _start(run: Handler, data: dict[str, Any], count: int) -> list[str]:
    _, _, body = run({**data, "count": count})
    started: list[str] = [task["taskArn"] for task in json.loads(body)["tasks"]]
    network = (data.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}
    for arn in started:
        record = ecs._tasks[arn]
        control.born[arn] = control.now()
        record["_network"] = network
        record["_waits"] = _is_spot(data) == "waits"
        if ecs._get_docker() is None:
            record.update(lastStatus="PROVISIONING", startedAt=None, pullStartedAt=None, pullStoppedAt=None)
    return started


def _as_launched(arn: str) -> Any:
    """Return a task as RunTask does: it has a place in a subnet and nothing else yet."""
    shown = ecs._sanitize(ecs._tasks[arn])
    subnets = ecs._tasks[arn]["_network"].get("subnets", [""])
    details = [{"name": "subnetId", "value": subnets[0]}]
    attachment = {"id": arn.rpartition("/")[2], "type": "ElasticNetworkInterface", "status": "PRECREATED"}
    containers = [{**container, "lastStatus": "PENDING"} for container in shown["containers"]]
    return {**shown, "lastStatus": "PROVISIONING", "containers": containers} | {
        "attachments": [{**attachment, "details": details}]
    }


def advance(record: dict[str, Any]) -> dict[str, Any]:
    """Move a task that is no container on with time."""
    if ecs._get_docker() is None:
        with interfaces.changing:
            _move(record)
    return record


def _move(record: dict[str, Any]) -> None:
    if record["lastStatus"] == "STOPPED":
        return
    arn = record["taskArn"]
    stop = record.get("_stop")
    if stop is not None and control.visible(f"{arn}/stop", "task_stopped_after"):
        ecs._mark_task_stopped(arn, record, *stop, exit_code=143)
    if record["lastStatus"] in _STARTING and stop is None and not record["_waits"]:
        if not record["attachments"] and control.visible(arn, "task_attached_after"):
            interfaces.attach(record)
            record["lastStatus"] = "PENDING"
        if control.visible(arn, "task_running_after") and record["attachments"]:
            ecs._mark_task_running(arn, record)


def _advanced() -> list[dict[str, Any]]:
    return [advance(record) for record in list(ecs._tasks.values())]


def _stopped(mark: Callable[..., bool]) -> Callable[..., bool]:
    def marked(arn: str, record: dict[str, Any], reason: str, code: str, exit_code: int | None = None) -> bool:
        if record.get("_stop") is not None:
            # StopTask came first, so that is why it ends; ministack takes a task that is to stop for one that has.
            record["desiredStatus"] = "RUNNING"
            reason, code = record["_stop"]
        with interfaces.changing:
            ended = mark(arn, record, reason, code, exit_code)
            interfaces.detach(record)
        return ended

    return marked


def _stop(stop: Handler) -> Handler:
    def stopping(data: dict[str, Any]) -> Answer:
        missing = _unknown_cluster(data)
        name = ecs._resolve_cluster_name(data.get("cluster", "default"))
        record = None if missing else ecs._resolve_task(data.get("task", ""), name)
        if missing or record is None:
            return missing or refuse("InvalidParameterException", "The referenced task was not found.")
        if advance(record)["lastStatus"] != "STOPPED" and record.get("_stop") is None:
            _ask_to_end(record, data.get("reason", "Task stopped by user"))
        return answer({"task": ecs._sanitize(record)})

    return stopping


def _ask_to_end(record: dict[str, Any], reason: str) -> None:
    arn = record["taskArn"]
    record["_stop"] = (reason, "UserInitiated")
    control.born[f"{arn}/stop"] = control.now()
    if ecs._get_docker() is None:
        record.update(desiredStatus="STOPPED", stopCode="UserInitiated", stoppedReason=reason)
        return
    if not record.get("_docker_ids"):
        ecs._mark_task_stopped(arn, record, reason, "UserInitiated")
        ecs._cleanup_task_resources(record, ecs._get_docker())
        return
    record.update(desiredStatus="STOPPED", stopCode="UserInitiated", stoppedReason=reason)
    scope = (get_account_id(), get_region())
    ecs.spawn_background(_end_containers, record, scope, thread_name=f"stop-{arn[-8:]}")


def _end_containers(record: dict[str, Any], scope: tuple[str, str]) -> None:
    """Send SIGTERM, wait for ``stopTimeout`` (30 s by default), send SIGKILL; then the task is stopped."""
    docker = ecs._get_docker()
    code = None
    with ecs.request_scope(*scope):
        definition = ecs._task_defs.get(ecs._resolve_td_key(record["taskDefinitionArn"])) or {}
        patience = max([c.get("stopTimeout", 30) for c in definition.get("containerDefinitions", [])] or [30])
        for name in list(record["_docker_ids"]):
            try:
                container = docker.containers.get(name)
                container.stop(timeout=patience)
                code = container.wait()["StatusCode"]
            except Exception as exc:  # noqa: BLE001 - the engine may be gone; the task is, then, too
                ecs.logger.debug("stopping %s: %s", name, exc)
        ecs._mark_task_stopped(record["taskArn"], record, "", "", exit_code=code)
        ecs._cleanup_task_resources(record, docker)


def _describe(describe: Handler) -> Handler:
    def described(data: dict[str, Any]) -> Answer:
        missing = _unknown_cluster(data)
        if missing:
            return missing
        wanted = data.get("tasks", [])
        if not 1 <= len(wanted) <= 100:
            return refuse("InvalidParameterException", "Tasks must have between 1 and 100 elements.")
        _advance_all(wanted)
        hidden = [arn for arn in wanted if not control.visible(arn, "task_visible_after")]
        status, headers, body = describe({**data, "tasks": [arn for arn in wanted if arn not in hidden]})
        found = json.loads(body)
        found["failures"] += [{"arn": arn, "reason": "MISSING"} for arn in hidden]
        return status, headers, json.dumps(found).encode()

    return described


def _advance_all(arns: Iterable[str]) -> None:
    for arn in arns:
        record = ecs._tasks.get(arn)
        if record is not None:
            advance(record)


def _list(listing: Handler) -> Handler:
    def listed(data: dict[str, Any]) -> Answer:
        missing = _unknown_cluster(data)
        if missing:
            return missing
        if data.get("startedBy") and (data.get("family") or data.get("serviceName") or data.get("containerInstance")):
            return refuse("InvalidParameterException", "startedBy must be the only filter.")
        if not 1 <= data.get("maxResults", 100) <= 100:
            return refuse("InvalidParameterException", "maxResults must be between 1 and 100.")
        _advance_all(list(ecs._tasks))
        status, headers, body = listing(data)
        found = json.loads(body)
        found["taskArns"] = [arn for arn in found["taskArns"] if control.visible(arn, "task_visible_after")]
        return status, headers, json.dumps(found).encode()

    return listed
