"""A build of an image that kills itself with signal 9: ``python -m tests.support.crashing_build POINT FACTS.json``.

Points are the names in :data:`POINTS`; it dies when the function is about to return for the first time.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ropewalk.schemas.environments import EnvironmentSpec
from ropewalk.server.environments.builder import BuildRequest, Target
from ropewalk.server.environments.oci import assemble, locking, maker, push, wheels
from ropewalk.server.environments.oci.maker import ImageBuilder
from ropewalk.server.environments.oci.registry import Repository
from ropewalk.server.environments.oci.sources import Registries
from tests.images.conftest import OnePlace, Said

POINTS: dict[str, tuple[Any, str]] = {
    "resolved": (locking, "lock"),
    "installed": (wheels, "install"),
    "compiled": (wheels, "compiled"),
    "packed": (assemble, "pack"),
    "sent": (push, "_send"),
    "composed": (maker, "compose"),
    "put": (Repository, "put"),
}
"""Where each function is looked up that is done then."""


def _dying(function: Callable[..., Any]) -> Callable[..., Any]:
    async def waiting(*arguments: Any, **options: Any) -> None:
        await function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    def plain(*arguments: Any, **options: Any) -> None:
        function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return functools.wraps(function)(waiting if inspect.iscoroutinefunction(function) else plain)


def main(point: str, facts: dict[str, str]) -> None:
    holder, name = POINTS[point]
    setattr(holder, name, _dying(getattr(holder, name)))
    folder = Path(facts["folder"])
    builder = ImageBuilder(
        folder=folder,
        cache=lambda _: folder / "uv",
        places=OnePlace(facts["host"], facts["name"]),
        registries=Registries(),
        base=facts["base"],
    )
    spec = EnvironmentSpec.model_validate(facts["spec"])
    target = Target("ca-1", "ca-1", "ac-1", "linux/amd64")
    asyncio.run(builder.build(BuildRequest("b-1", spec, target), Said()))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
