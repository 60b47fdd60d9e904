"""What a cluster is to be: arguments, then configuration, checked before anything is sent.

An argument that is not given is looked up as ``ropewalk.cluster.<argument>``; what that does not say either is left out
of the request, so that the cluster configuration (template) or the server decides.
"""

from __future__ import annotations

import json
import math
import operator
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from ropewalk.client import config
from ropewalk.errors import InputError
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail, ClusterScale, ClusterSpec, ClusterUpdate
from ropewalk.schemas.common import Seconds

__all__ = [
    "UNSET",
    "Unset",
    "Wait",
    "WaitFor",
    "build_request",
    "check_spec",
    "from_config",
    "parse_limits",
    "parse_scale",
    "parse_seconds",
    "parse_wait",
    "random_name",
]

M = TypeVar("M", ClusterCreate, ClusterScale, ClusterSpec, ClusterUpdate)

WaitFor = bool | int | float

_NEVER = frozenset({"idle_timeout", "no_client_timeout", "cluster_timeout"})
"""Arguments for which None says something: no such limit."""

_PRIVATE = frozenset({"environ", "worker_options", "scheduler_options", "backend_options"})
"""Arguments whose values may be secrets, so that no message shows them."""


class Unset(Enum):
    """The type of :data:`UNSET`."""

    UNSET = "not given"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Not given, where None has a meaning of its own."""


def random_name(user: str) -> str:
    """Return a name that nobody else has: the user's, and 40 random bits. At most 40 characters."""
    return f"{user[:29].rstrip('-')}-{secrets.token_hex(5)}"


def from_config(argument: str, value: Any) -> Any:
    """Return *value*, or where it is not given, what the configuration says about *argument*."""
    given = value is not UNSET and (value is not None or argument in _NEVER)
    return value if given else config.get(f"cluster.{argument}")


def build_request(arguments: Mapping[str, Any]) -> ClusterCreate:
    """Return the request for a cluster of these *arguments* (those of :class:`ClusterCreate`).

    Raises:
        InputError: one of them is wrong; names it.
    """
    wanted: dict[str, Any] = {}
    for argument, value in arguments.items():
        chosen = from_config(argument, value)
        explicit_never = chosen is None and value is None and argument in _NEVER
        if chosen is not None or explicit_never:
            wanted[argument] = _plain(argument, chosen)
    return _validated(ClusterCreate, wanted)


def check_spec(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return *arguments* of a cluster as a template keeps them: checked, in plain units, and only those given."""
    spec = _validated(ClusterSpec, {name: _plain(name, value) for name, value in arguments.items()})
    return spec.model_dump(mode="json", exclude_unset=True)


def parse_scale(n_workers: Any) -> ClusterScale:
    """Return the request for another number of workers, or [minimum, maximum]."""
    return _validated(ClusterScale, {"n_workers": _plain("n_workers", n_workers)})


def parse_limits(limits: Mapping[str, Any]) -> ClusterUpdate:
    """Return the request for those of the new *limits* that are given."""
    return _validated(ClusterUpdate, {name: value for name, value in limits.items() if value is not UNSET})


def _validated(model: type[M], values: dict[str, Any]) -> M:
    try:
        checked = model.model_validate(values)
    except ValidationError as exc:
        raise _wrong(exc, values) from None
    for argument in _PRIVATE.intersection(values):
        _check_json(argument, values[argument])
    return checked


def _check_json(argument: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        # The message of json names types, or says that a float has no JSON; it quotes no values.
        raise InputError(
            f"{argument} cannot be sent to the server: {exc}.",
            advice="Use text, numbers, booleans, lists and dicts with text keys.",
            field=argument,
        ) from None


def _plain(argument: str, value: Any) -> Any:
    """Turn what Python programs have at hand into what JSON can say."""
    if argument == "worker_class" and isinstance(value, type):
        if value.__module__ == "__main__":
            raise InputError(
                f"worker_class={value.__name__} is defined in the program itself, which workers cannot import.",
                advice="Move it into a module that is installed on the cluster.",
                field="worker_class",
            )
        return f"{value.__module__}.{value.__qualname__}"
    if argument == "n_workers":
        return [_index(each) for each in value] if isinstance(value, list | tuple) else _index(value)
    return value


def _index(value: Any) -> Any:
    """Return an int for NumPy's integers; booleans and everything else stay, to be refused."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return value


def _wrong(exc: ValidationError, values: Mapping[str, Any]) -> InputError:
    """Say what is wrong with the first wrong argument."""
    errors = exc.errors(include_url=False)
    # A rule of our own explains better than "should be an integer", where a value could have been of several types.
    error = next((each for each in errors if each["type"] == "value_error"), errors[0])
    argument = str(error["loc"][0]) if error["loc"] else ""
    message = error["msg"].removeprefix("Value error, ")
    if argument == "n_workers" and error["type"] != "value_error":
        message = "give a whole number from 0 to 10000, or [minimum, maximum]"
    if not argument:
        # A rule about several fields begins with the name of the wrong one: `worker_cpu=1.5 is not…`.
        return InputError(f"{message}.", field=message.partition("=")[0])
    inside = "".join(f"[{part!r}]" for part in error["loc"][1:]) if argument in _PRIVATE else ""
    shown = "" if argument in _PRIVATE else f"={_short(values.get(argument))}"
    return InputError(f"{argument}{inside}{shown}: {message}.", field=argument)


def _short(value: Any, longest: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[:longest] + "…"


@lru_cache
def _seconds() -> TypeAdapter[float]:
    return TypeAdapter(Seconds)


def parse_seconds(value: Any, field: str) -> float:
    """Return a duration in seconds from a number or text such as ``"5 minutes"``."""
    try:
        return _seconds().validate_python(value)
    except ValidationError as exc:
        message = exc.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{field}: {message}.", field=field) from None


# How many workers to wait for.


@dataclass(frozen=True)
class Wait:
    """How many workers a start waits for: a number of them, or a fraction."""

    count: int | None
    fraction: float | None = None

    def of(self, detail: ClusterDetail) -> int:
        """Return the number of workers to wait for in a cluster.

        Raises:
            InputError: it will never have so many.
        """
        wanted = detail.n_workers if detail.minimum is None else detail.minimum
        most = wanted if detail.maximum is None else detail.maximum
        if self.count is None:
            return math.ceil((self.fraction or 0.0) * wanted)
        if self.count > most:
            raise InputError(
                f"wait_for_workers={self.count} is more than the {most} workers that {detail.name!r} can have.",
                advice="Wait for fewer, or ask for more workers.",
                field="wait_for_workers",
            )
        return self.count


def parse_wait(value: Any) -> Wait:
    """Return what ``wait_for_workers`` means: True all, False none, a whole number, or a fraction of them."""
    if value is None or value is False:
        return Wait(0)
    if value is True:
        return Wait(None, 1.0)
    number = _index(value)
    if isinstance(number, int) and number >= 0:
        return Wait(number)
    if isinstance(number, float) and 0 <= number <= 1:
        return Wait(None, float(number))
    raise InputError(
        f"wait_for_workers={_short(value)}: give True, False, a whole number, or a fraction from 0.0 to 1.0.",
        field="wait_for_workers",
    )
