"""Tags and names by which everything that Ropewalk made in an AWS account is found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ropewalk.backends.port import Place

__all__ = [
    "ACCOUNT",
    "CLOUD_ACCOUNT",
    "CLUSTER",
    "CLUSTER_NAME",
    "INSTALLATION",
    "NODE",
    "as_tags",
    "cluster_name",
    "ec2_filters",
    "ec2_specification",
    "execution_role_name",
    "from_tags",
    "log_group_name",
    "place_tags",
    "repository_name",
    "resource_name",
    "task_role_name",
]

INSTALLATION = "ropewalk:installation"
CLOUD_ACCOUNT = "ropewalk:cloud-account"
ACCOUNT = "ropewalk:account"
CLUSTER = "ropewalk:cluster"
CLUSTER_NAME = "ropewalk:cluster-name"
NODE = "ropewalk:node"


def place_tags(place: Place) -> dict[str, str]:
    """Return the tags that everything made for a cloud account carries."""
    return {INSTALLATION: place.installation, CLOUD_ACCOUNT: place.cloud_account, ACCOUNT: place.account}


def as_tags(tags: Mapping[str, str], *, lower: bool = False) -> list[dict[str, str]]:
    """Write tags as AWS wants them: `Key`/`Value` (EC2, IAM, ECR), or with *lower* `key`/`value` (ECS)."""
    key, value = ("key", "value") if lower else ("Key", "Value")
    return [{key: name, value: content} for name, content in sorted(tags.items())]


def from_tags(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Read tags of either spelling."""
    return {tag.get("Key") or tag["key"]: tag.get("Value", tag.get("value", "")) for tag in tags}


def ec2_filters(place: Place) -> list[dict[str, object]]:
    """Return `Filters` that find what was made for a cloud account, and nothing of another installation or team."""
    return [
        {"Name": f"tag:{INSTALLATION}", "Values": [place.installation]},
        {"Name": f"tag:{CLOUD_ACCOUNT}", "Values": [place.cloud_account]},
    ]


def ec2_specification(place: Place, kind: str, name: str | None = None) -> list[dict[str, object]]:
    """Return `TagSpecifications` of a create call: tagged in the same instant as it is made."""
    tags = place_tags(place) | {"Name": name or resource_name(place)}
    return [{"ResourceType": kind, "Tags": as_tags(tags)}]


def resource_name(place: Place) -> str:
    """Return what named things are called, or begin with; policies limit rights to this prefix."""
    return f"ropewalk-{place.cloud_account}"


def cluster_name(place: Place) -> str:
    """Return the name of the ECS cluster."""
    return resource_name(place)


def execution_role_name(place: Place) -> str:
    """Return the name of the role with which ECS pulls images and writes logs; at most 64 characters."""
    return f"{resource_name(place)}-execution"


def task_role_name(place: Place) -> str:
    """Return the name of the role that users' code has."""
    return f"{resource_name(place)}-task"


def repository_name(place: Place) -> str:
    """Return the name of the ECR repository."""
    return f"ropewalk/{place.cloud_account}"


def log_group_name(place: Place) -> str:
    """Return the name of the CloudWatch log group."""
    return f"/ropewalk/{place.cloud_account}"
