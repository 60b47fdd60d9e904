"""Running uv: in a clean environment, with a deadline, its lines as they come, and ended with whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.environments import EnvironmentSpec, covers
from ropewalk.server.environments.builder import Credential

__all__ = ["Done", "find", "index_options", "quiet", "run", "run_uv"]

LINE_BYTES = 2**20
"""Of one line of output; what is longer is a fault of the program that runs."""
END_SECONDS = 5.0
"""For a program to end that was asked to."""

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_PASSED_PREFIXES = ("SSL_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "GIT_SSL_")
"""What operators set for uv: certificates, proxies, indexes. Anything else may be a secret of the server's."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended, and what it said on its two outputs."""

    status: int
    output: str
    errors: str


def find() -> str:
    """Return the path of uv.

    Raises:
        FixItError: It is not installed.
    """
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin  # noqa: PLC0415 - an optional dependency, of servers

        return find_uv_bin()
    found = shutil.which("uv")
    if found is None:
        raise FixItError(
            "The server cannot build software environments: uv is not installed.",
            advice="An operator runs, in the server's checkout of Ropewalk: pip install '.[server]', and restarts it.",
        )
    return found


def base_environ(cache: Path) -> dict[str, str]:
    """Return the environment of programs that build."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.upper().startswith(_PASSED_PREFIXES)
    }
    return {**own, "LANG": "C.UTF-8", "UV_CACHE_DIR": str(cache), "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def index_options(spec: EnvironmentSpec, credentials: Sequence[Credential]) -> tuple[list[str], dict[str, str]]:
    """Return the options for the indexes of *spec*, and the variables that hold what opens them.

    Packages of an extra index come first, and from the first index only that has them: nobody can put a package of the
    same name and a higher version on a public index, and have it taken.
    """
    options: list[str] = []
    variables: dict[str, str] = {}
    wanted = [("--default-index", spec.index_url)] if spec.index_url else []
    wanted += [("--index", url) for url in spec.extra_index_urls]
    for number, (option, url) in enumerate(wanted):
        name = f"ropewalk{number}"
        options += [option, f"{name}={url}"]
        credential = next((each for each in credentials if covers(each.url, url)), None)
        if credential is not None:
            variables[f"UV_INDEX_{name.upper()}_USERNAME"] = credential.username
            variables[f"UV_INDEX_{name.upper()}_PASSWORD"] = credential.password
    return options, variables


async def run_uv(
    arguments: Sequence[str],
    *,
    cache: Path,
    cwd: Path,
    seconds: float,
    say: Callable[[str], None],
    environ: Mapping[str, str] | None = None,
) -> Done:
    """Run uv with *arguments*; see :func:`run`."""
    command = [await asyncio.to_thread(find), *arguments]
    return await run(command, environ={**base_environ(cache), **(environ or {})}, cwd=cwd, seconds=seconds, say=say)


async def run(
    command: Sequence[str], *, environ: Mapping[str, str], cwd: Path, seconds: float, say: Callable[[str], None]
) -> Done:
    """Run a program in a process group of its own; what it says on standard error is passed on line by line.

    Args:
        command: The program and its arguments, without secrets.
        environ: All of its environment.
        cwd: Where it runs.
        seconds: How long it may take.
        say: Gets each line of standard error.

    Raises:
        FixItError: It did not end in time.
        TryAgainError: It could not be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environ),
            cwd=cwd,
            start_new_session=True,
            umask=0o022,  # nodes may run as other users, who read what is installed
            limit=LINE_BYTES,
        )
    except OSError as exc:
        raise TryAgainError(f"{Path(command[0]).name} could not be started: {exc.strerror}.", delay=10.0) from exc
    try:
        async with asyncio.timeout(seconds):
            return await _follow(process, say)
    except TimeoutError:
        name = " ".join([Path(command[0]).name, *command[1:2]])
        raise FixItError(
            f"{name} did not end within {seconds:.0f} seconds.",
            advice="The log says how far it came. Ask for fewer packages, or for versions that need no building.",
        ) from None
    finally:
        await _end(process)


async def _follow(process: asyncio.subprocess.Process, say: Callable[[str], None]) -> Done:
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("both outputs are pipes")
    errors: list[str] = []

    def heard(line: str) -> None:
        errors.append(line)
        say(line)

    reading = asyncio.create_task(_text(process.stdout))
    try:
        await _lines(process.stderr, heard)
        output = await reading
    finally:
        reading.cancel()
    return Done(await process.wait(), output, "\n".join(errors))


async def _text(stream: asyncio.StreamReader) -> str:
    return (await stream.read()).decode("utf-8", "replace")


async def _lines(stream: asyncio.StreamReader, say: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than the limit: left out
        if not line:
            return
        say(line.decode("utf-8", "replace").rstrip())


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the program and all that it started; harmless if it has ended by itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if process.returncode is not None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.wait()


_NOISE = re.compile(r"^(warning: The `?--python-version|Resolved \d|Prepared \d|Audited \d)")


def quiet(errors: str) -> str:
    """Return what uv said without what is no explanation."""
    return "\n".join(line for line in errors.splitlines() if not _NOISE.match(line)).strip()
