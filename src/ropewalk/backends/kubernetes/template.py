"""What users may say about their pods: a small, validated part of a pod's specification.

Everything that reaches out of the pod (host paths, host networks, privileges, service account tokens) is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from ropewalk.errors import FixItError
from ropewalk.schemas.clusters import NodeRole
from ropewalk.schemas.common import Schema

PREFIX = "ropewalk-"
"""Names of Ropewalk's own objects begin so."""
MOUNT_ROOT = "/run/ropewalk"

_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LabelKey = Annotated[str, StringConstraints(pattern=_LABEL_KEY, max_length=317)]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


def _not_ours(name: str) -> str:
    if name.startswith(PREFIX):
        raise ValueError("this Secret is Ropewalk's own: it may hold another cluster's keys")
    return name


def _plain_path(path: str) -> str:
    parts = path.split("/")
    if ".." in parts or "" in parts[1:-1] or path == "/":
        raise ValueError("not a plain absolute path")
    if path.rstrip("/") in ("/run", MOUNT_ROOT) or path.startswith(MOUNT_ROOT + "/"):
        raise ValueError("Ropewalk's own files are there")
    return path


SecretName = Annotated[ObjectName, AfterValidator(_not_ours)]
MountPath = Annotated[str, StringConstraints(pattern=r"^/[^:\x00-\x1f]{0,254}$"), AfterValidator(_plain_path)]


class Toleration(Schema):
    """As in Kubernetes."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None  # noqa: N815 - Kubernetes' own word


class Volume(Schema):
    """A volume of exactly one kind, and where it is mounted."""

    mount_path: MountPath
    read_only: bool = True
    sub_path: Annotated[str, StringConstraints(pattern=r"^[^/.][^:\x00-\x1f]{0,254}$")] | None = None
    secret: SecretName | None = None
    config_map: ObjectName | None = None
    persistent_volume_claim: ObjectName | None = None
    empty_dir: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$")] | None = Field(
        None, description="Its largest size, such as 10Gi; it is always writable."
    )

    def source(self) -> dict[str, Any]:
        """Return the volume as a pod names it."""
        if self.secret is not None:
            return {"secret": {"secretName": self.secret}}
        if self.config_map is not None:
            return {"configMap": {"name": self.config_map}}
        if self.persistent_volume_claim is not None:
            return {"persistentVolumeClaim": {"claimName": self.persistent_volume_claim}}
        return {"emptyDir": {"sizeLimit": self.empty_dir}}

    def check(self) -> None:
        """Raise ValueError unless it is of exactly one kind."""
        kinds = (self.secret, self.config_map, self.persistent_volume_claim, self.empty_dir)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("exactly one of secret, config_map, persistent_volume_claim and empty_dir is needed")


class SecretKey(Schema):
    """One key of a Secret."""

    secret: SecretName
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]


class PodOptions(Schema):
    """What may be said of the pods of one role, or of both."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list, max_length=50)
    affinity: dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]] = Field(
        default_factory=dict, description="As in Kubernetes; the API server checks what is inside."
    )
    priority_class: ObjectName | None = None
    runtime_class: ObjectName | None = None
    image_pull_secrets: list[ObjectName] = Field(default_factory=list, max_length=20)
    volumes: list[Volume] = Field(default_factory=list, max_length=30)
    env_from_secrets: list[SecretName] = Field(default_factory=list, max_length=20)
    env: dict[EnvName, SecretKey] = Field(default_factory=dict)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    annotations: dict[LabelKey, Annotated[str, StringConstraints(max_length=4096)]] = Field(default_factory=dict)


class PodTemplate(PodOptions):
    """``backend_options`` of a cluster on Kubernetes; ``scheduler`` and ``worker`` win over what is for both."""

    scheduler: PodOptions = Field(default_factory=PodOptions)
    worker: PodOptions = Field(default_factory=PodOptions)

    def of(self, role: NodeRole) -> PodOptions:
        """Return what holds for one role."""
        own = self.scheduler if role is NodeRole.SCHEDULER else self.worker
        both = {name: getattr(self, name) for name in PodOptions.model_fields}
        return PodOptions.model_construct(**{**both, **{name: getattr(own, name) for name in own.model_fields_set}})


def parse_template(options: Mapping[str, Any]) -> PodTemplate:
    """Return *options* as a template.

    Raises:
        FixItError: something in it is not allowed or not understood; names the field.
    """
    try:
        template = PodTemplate.model_validate(dict(options))
        for part, where in ((template, ""), (template.scheduler, "scheduler."), (template.worker, "worker.")):
            _check(part, where)
    except ValidationError as exc:
        error = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:60] for part in error["loc"])
        known = ", ".join(PodTemplate.model_fields)
        raise FixItError(
            f"The backend option {where!r} cannot be used: {error['msg']}.",
            field=f"backend_options.{where}",
            advice=f"Options for Kubernetes are: {known}.",
        ) from None
    return template


def _check(part: PodOptions, where: str) -> None:
    for index, volume in enumerate(part.volumes):
        try:
            volume.check()
        except ValueError as exc:
            field = f"backend_options.{where}volumes.{index}"
            raise FixItError(f"That volume cannot be used: {exc}.", field=field) from None
    for key in (*part.labels, *part.annotations):
        domain = key.partition("/")[0] if "/" in key else ""
        if domain.endswith(("ropewalk.dev", "kubernetes.io", "k8s.io")):
            raise FixItError(
                f"The label or annotation {key!r} cannot be set: others rely on it.",
                field=f"backend_options.{where}{'labels' if key in part.labels else 'annotations'}",
            )
