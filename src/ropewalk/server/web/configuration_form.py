"""The form of a cluster configuration: from stored fields to what is typed, and back. What is empty is not kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import InputError

__all__ = ["CHOICES", "FIELDS", "Field", "arguments", "parse", "typed"]


@dataclass(frozen=True)
class Field:
    """One input of the form."""

    name: str
    label: str
    kind: str = "text"
    """``text``, ``lines`` (``key=value``, one a line), ``json`` or ``choice``."""
    hint: str = ""
    group: str = "more"


FIELDS = (
    Field("minimum", "Workers", hint="default: 4", group="size"),
    Field("maximum", "At most, if it adapts", hint="it does not", group="size"),
    Field("worker_cpu", "Cores of a worker", hint="default: 1", group="size"),
    Field("worker_memory", "Memory of a worker", hint="default: 4 GiB", group="size"),
    Field("worker_gpu", "GPUs of a worker", hint="default: 0", group="size"),
    Field("scheduler_cpu", "Cores of the scheduler", hint="default: 1", group="size"),
    Field("scheduler_memory", "Memory of the scheduler", hint="default: 4 GiB", group="size"),
    Field("spot_policy", "Spot capacity for workers", kind="choice", group="size"),
    Field("idle_timeout", "Stop after so long without work", hint="default: 20 minutes; or: never", group="end"),
    Field("no_client_timeout", "Stop after so long without a client", hint="default: never", group="end"),
    Field("cluster_timeout", "Stop at this age", hint="default: never", group="end"),
    Field("software", "Software environment", hint="default: the cloud account's own"),
    Field("container", "Image of the nodes", hint="default: the cloud account's own"),
    Field("worker_class", "Class of the workers", hint="default: distributed.Nanny"),
    Field("tags", "Tags", kind="lines", hint="key=value, one a line"),
    Field("worker_options", "Arguments of the worker class", kind="json", hint='for example {"lifetime": "1 hour"}'),
    Field("scheduler_options", "Arguments of the scheduler", kind="json", hint="as JSON"),
    Field("backend_options", "Options of the backend", kind="json", hint="as JSON"),
)

CHOICES = ("on-demand", "spot", "spot_with_fallback")

_DURATIONS = frozenset({"idle_timeout", "no_client_timeout", "cluster_timeout"})
_NUMBERS = frozenset({"worker_cpu", "scheduler_cpu"})


def typed(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return what the form shows for stored fields."""
    shown = {field.name: "" for field in FIELDS}
    for name, value in spec.items():
        if name == "n_workers":
            least, most = value if isinstance(value, list) else (value, "")
            shown |= {"minimum": str(least), "maximum": str(most)}
        elif name == "tags":
            shown[name] = "\n".join(f"{key}={text}" for key, text in value.items())
        elif name.endswith("_options"):
            shown[name] = json.dumps(value, indent=1)
        else:
            shown[name] = _text(name, value)
    return shown


def arguments(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return stored fields as people read them."""
    words = {name: text for name, text in typed(spec).items() if text}
    least, most = words.pop("minimum", ""), words.pop("maximum", "")
    workers = f"{least} to {most}" if most else least
    labels = {field.name: field.label for field in FIELDS}
    facts = [(labels[name], " ".join(text.split())) for name, text in words.items()]
    return [("Workers", workers), *facts] if workers else facts


def _text(name: str, value: Any) -> str:
    if name in _DURATIONS:
        return "never" if value is None else _minutes(value)
    if name.endswith("_memory"):
        gib = value / 2**30
        return f"{gib:g} GiB" if gib == round(gib, 3) else f"{value} B"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _minutes(seconds: float) -> str:
    """Return seconds as text that gives the same number when it is read."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"{seconds / size:g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:g} s"


def parse(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that *form* has.

    Raises:
        InputError: Text that cannot be read; names the field as ``spec.…``, as the service does.
    """
    given = {name: text.strip() for name, text in form.items() if text.strip()}
    least, most = given.pop("minimum", None), given.pop("maximum", None)
    spec: dict[str, Any] = {name: _value(name, text) for name, text in given.items()}
    if most is not None:
        spec["n_workers"] = [_count(least or "0", "minimum"), _count(most, "maximum")]
    elif least is not None:
        spec["n_workers"] = _count(least, "minimum")
    return spec


def _value(name: str, text: str) -> Any:
    if name in _DURATIONS:
        return None if text.lower() == "never" else text
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            raise InputError(f"{text[:40]!r} is not a number.", field=f"spec.{name}") from None
    if name == "worker_gpu":
        return _count(text, name)
    if name == "tags":
        return _pairs(text)
    if name.endswith("_options"):
        return _json(name, text)
    return text


def _count(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{text[:40]!r} is not a whole number.", field=f"spec.{name}") from None


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        key, equals, value = line.partition("=")
        if not equals:
            raise InputError(f"The tag {line[:40]!r} has no value; write key=value.", field="spec.tags")
        pairs[key.strip()] = value.strip()
    return pairs


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InputError(f"This is not JSON: {exc}.", field=f"spec.{name}") from None
    if not isinstance(value, dict):
        raise InputError('Write names with values, such as {"nthreads": 2}.', field=f"spec.{name}")
    return value
