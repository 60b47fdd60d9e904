"""Forms of cloud accounts: from what people type to wishes, and from errors to the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from ropewalk.errors import InputError
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.cloud_accounts import SetAws, SetKubernetes
from ropewalk.schemas.kubernetes import KubernetesSettings

__all__ = [
    "AWS_PARTS",
    "KUBERNETES_PARTS",
    "Part",
    "Text",
    "aws_settings",
    "aws_values",
    "aws_wish",
    "kubernetes_values",
    "kubernetes_wish",
    "marked",
]

_Wish = TypeVar("_Wish", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Text:
    """A field of a form, of the setting of that name."""

    name: str
    label: str
    hint: str
    example: str = ""
    lines: bool = False
    """It takes several values, one a line."""
    options: tuple[tuple[str, str], ...] = ()
    """What there is to choose from, each with its name; empty: anything may be typed."""


@dataclass(frozen=True, slots=True)
class Part:
    """Fields under one heading."""

    title: str
    fields: tuple[Text, ...]


AWS_PARTS = (
    Part(
        "A role instead of rights on the key",
        (
            Text(
                "role_arn",
                "Role to assume",
                "The key then needs the right to assume it and no other.",
                "arn:aws:iam::111122223333:role/ropewalk",
            ),
        ),
    ),
    Part(
        "Who reaches schedulers",
        (
            Text(
                "allow_ingress_from",
                "Addresses that may connect",
                "To port 8786, one block a line. Empty: the address that you come from, if it is a public one.",
                "203.0.113.0/24",
                lines=True,
            ),
        ),
    ),
    Part(
        "Network",
        (
            Text(
                "vpc_cidr", "Addresses of the new VPC", "A block that no other network of yours uses.", "10.77.0.0/16"
            ),
            Text("vpc_id", "Your own VPC", "Name its subnets, too. Empty: one is made.", "vpc-0123456789abcdef0"),
            Text(
                "subnet_ids",
                "Your own subnets",
                "Two at least, in different zones, one a line.",
                "subnet-0123456789abcdef0",
                lines=True,
            ),
            Text("security_group_id", "Your own security group", "Empty: one is made.", "sg-0123456789abcdef0"),
            Text(
                "peering",
                "VPCs to peer with",
                "One a line, with its addresses; after them its region and its AWS account, where those differ.",
                "vpc-0123456789abcdef0 10.0.0.0/16",
                lines=True,
            ),
        ),
    ),
    Part(
        "Other parts of your own",
        (
            Text("ecs_cluster", "ECS cluster", "Its name or ARN. Empty: one is made.", "research"),
            Text(
                "execution_role_arn",
                "Execution role",
                "With it ECS pulls images and writes logs. Empty: one is made.",
                "arn:aws:iam::111122223333:role/execution",
            ),
            Text(
                "task_role_arn",
                "Task role",
                "What your code may do, read data for example. Empty: a role without rights is made.",
                "arn:aws:iam::111122223333:role/data",
            ),
            Text("repository", "ECR repository", "Its name. Empty: one is made.", "research/dask"),
            Text("log_group", "Log group", "Empty: one is made.", "/research/dask"),
            Text("log_retention_days", "Days that logs are kept", "1, 3, 5, 7, 14, 30, 60, 90, 180, 365 …", "30"),
        ),
    ),
    Part(
        "Nodes",
        (
            Text(
                "image",
                "Image",
                "Of nodes, where a cluster names none.",
                "111122223333.dkr.ecr.eu-central-1.amazonaws.com/dask:1",
            ),
            Text(
                "architecture",
                "Processors",
                "The image has to be made for them.",
                options=(("X86_64", "x86"), ("ARM64", "ARM (Graviton), a fifth cheaper")),
            ),
        ),
    ),
)
"""What most people leave as it is."""

KUBERNETES_PARTS = (
    Part(
        "How schedulers are reached",
        (
            Text(
                "reach",
                "Way",
                "The gateway needs nothing but the kubeconfig.",
                options=(
                    ("auto", "By a load balancer where annotations say how, else by the gateway"),
                    ("gateway", "By the gateway of this server"),
                    ("load_balancer", "By a load balancer for each cluster"),
                    ("node_port", "By a port of the machines"),
                ),
            ),
            Text(
                "service_annotations",
                "Annotations of Services",
                "By them clouds set up load balancers; one a line.",
                "example.com/load-balancer=internal",
                lines=True,
            ),
            Text(
                "allow_ingress_from",
                "Addresses that may connect",
                "By a load balancer, one block a line. Empty: as the cloud decides.",
                "203.0.113.0/24",
                lines=True,
            ),
        ),
    ),
    Part(
        "Nodes",
        (
            Text("image", "Image", "Of nodes, where a cluster names none.", "registry.example.org/dask:1"),
            Text("image_pull_secrets", "Pull secrets", "Secrets in the namespace, one a line.", "registry", lines=True),
            Text(
                "image_registry",
                "Repository for built images",
                "Where images of software environments are pushed. Empty: none are built for it.",
                "registry.example.org/team/dask",
            ),
            Text(
                "image_registry_credentials",
                "Its credentials, by name",
                "The name under which `ropewalk env credentials set` stored who may push there.",
                "registry",
            ),
            Text("run_as_user", "User id", "Empty where Kubernetes gives one itself, as OpenShift does.", "1000"),
        ),
    ),
    Part(
        "What it costs you",
        (
            Text("core_hour_price", "A core and hour", "People see it as the cost of clusters.", "0.04"),
            Text("gib_hour_price", "A GiB of memory and hour", "As above.", "0.005"),
            Text("currency", "Currency", "Three letters.", "USD"),
        ),
    ),
)

_LISTS = frozenset({"allow_ingress_from", "subnet_ids", "image_pull_secrets"})


def _names(parts: Iterable[Part]) -> list[str]:
    return [field.name for part in parts for field in part.fields]


# AWS.


def aws_values(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a form shows of an AWS account's settings."""
    shown = {name: _shown(settings.get(name)) for name in _names(AWS_PARTS) if name != "peering"}
    network = "private" if settings.get("private_subnets") else "public"
    peers = [
        " ".join(str(peer[name]) for name in ("vpc_id", "cidr", "region", "owner_id") if peer.get(name))
        for peer in settings.get("peering", [])
    ]
    return {**shown, "peering": "\n".join(peers), "region": str(settings.get("region", "")), "network": network}


def aws_settings(typed: Mapping[str, str]) -> AwsSettings:
    """Return the settings that a form says.

    Raises:
        InputError: They are none; names the field.
    """
    return _made(AwsSettings, _aws(typed))


def aws_wish(typed: Mapping[str, str], secret: str) -> SetAws:
    """Return the wish that a form says; without a key and its secret, the stored ones stay.

    Raises:
        InputError: It is none; names the field, and never quotes a secret.
    """
    wish: dict[str, Any] = {"kind": "aws", "settings": _aws(typed)}
    key = typed.get("access_key_id", "").strip()
    if key or secret.strip():
        wish["credentials"] = {"access_key_id": key, "secret_access_key": SecretStr(secret)}
    return _made(SetAws, wish)


def _aws(typed: Mapping[str, str]) -> dict[str, Any]:
    found = {name: _read(AwsSettings, name, typed[name]) for name in _names(AWS_PARTS) if name in typed}
    if "peering" in typed:
        found["peering"] = [_peer(line) for line in _lines(typed["peering"])]
    if typed.get("region", "").strip():
        found["region"] = typed["region"].strip()
    if typed.get("network"):
        found["private_subnets"] = typed["network"] == "private"
    return found


def _peer(line: str) -> dict[str, str]:
    words = re.split(r"[\s=]+", line)
    if len(words) < 2:
        raise InputError(
            "Each VPC to peer with needs its addresses.",
            advice="Write it like vpc-0123456789abcdef0 10.0.0.0/16",
            field="peering",
        )
    peer = {"vpc_id": words[0], "cidr": words[1]}
    for word in words[2:4]:
        peer["owner_id" if word.isdecimal() else "region"] = word
    return peer


# Kubernetes.


def kubernetes_values(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a form shows of a namespace's settings."""
    shown = {name: _shown(settings.get(name)) for name in _names(KUBERNETES_PARTS) if name != "service_annotations"}
    pairs = [f"{name}={value}" for name, value in settings.get("service_annotations", {}).items()]
    return {**shown, "service_annotations": "\n".join(pairs), "context": "", "namespace": ""}


def kubernetes_wish(typed: Mapping[str, str], kubeconfig: str) -> SetKubernetes:
    """Return the wish that a form says; without a kubeconfig, what is stored stays.

    Raises:
        InputError: It is none; names the field, and never quotes the kubeconfig.
    """
    settings = {
        name: _read(KubernetesSettings, name, typed[name]) for name in _names(KUBERNETES_PARTS) if name in typed
    }
    settings["service_annotations"] = dict(_pair(line) for line in _lines(typed.get("service_annotations", "")))
    # Unset, they are those of the kubeconfig.
    settings |= {name: typed[name].strip() for name in ("context", "namespace") if typed.get(name, "").strip()}
    wish: dict[str, Any] = {"kind": "kubernetes", "settings": settings}
    if kubeconfig.strip():
        wish["kubeconfig"] = SecretStr(kubeconfig)
    return _made(SetKubernetes, wish)


def _pair(line: str) -> tuple[str, str]:
    name, separator, value = line.partition("=")
    if not name.strip() or not separator:
        raise InputError("An annotation has the form NAME=VALUE.", field="service_annotations")
    return name.strip(), value.strip()


# Both.


def marked(field: str | None) -> str | None:
    """Return the name of the form's field that an error's field means: ``settings.peering.0.cidr`` is ``peering``."""
    if field is None:
        return None
    parts = field.removeprefix("settings.").removeprefix("credentials.").split(".")
    first = parts[0].partition("[")[0]
    return {"credentials": "access_key_id", "contexts": "context", "users": "kubeconfig", "clusters": "kubeconfig"}.get(
        first, first
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(str(each) for each in value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read(model: type[BaseModel], name: str, text: str) -> Any:
    """Return what a field says; empty: what the setting is when nobody says anything."""
    if name in _LISTS:
        return [word for word in re.split(r"[\s,]+", text) if word]
    if text.strip():
        return text.strip()
    # A user id of none is a choice, and the default another one.
    return None if name == "run_as_user" else model.model_fields[name].get_default(call_default_factory=True)


def _made(model: type[_Wish], values: Mapping[str, Any]) -> _Wish:
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    name = marked(field) or ""
    labels = {each.name: each for part in (*AWS_PARTS, *KUBERNETES_PARTS) for each in part.fields}
    known = labels.get(name)
    label = known.label if known else name.replace("_", " ").capitalize()
    advice = f"For example: {known.example}" if known and known.example else None
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        reason = "it is not of that form"
    raise InputError(f"{label}: {reason[:1].lower()}{reason[1:]}.", advice=advice, field=field)
