"""Virtual environments on the server's machine, for hosted clusters: made by uv, shared by what is in them.

A folder is made under another name and renamed when it is complete, so whoever finds it finds all of it. It belongs to
the server; nodes with users of their own read it. Where accounts are isolated, no code of a package runs while it is
made: only wheels are installed, and files are compiled by a Python that does not look at them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

from ropewalk.backends.local.filesystem import explained
from ropewalk.errors import FixItError
from ropewalk.schemas.environments import EnvironmentSpec, Lock
from ropewalk.server.environments import uv
from ropewalk.server.environments.builder import BuildRequest, BuildResult, BuildStep, Report, Target
from ropewalk.server.environments.caches import measured
from ropewalk.server.environments.files import Files
from ropewalk.server.environments.resolve import Resolving, check_usable, explain, lock_lines, resolve

__all__ = ["VenvBuilder", "interpreter_of"]

INSTALL_SECONDS = 1800.0
"""The largest environments have some gigabytes."""
COMPILE_SECONDS = 900.0
"""Compiling takes 5 s for what Dask needs, some minutes for the largest environments."""
POST_BUILD_SECONDS = 1800.0
ABOUT = "ropewalk.json"
"""In each folder, for people who look: the lock."""


def interpreter_of(venv: Path) -> Path:
    """Return the Python of a virtual environment."""
    return venv / "bin" / "python"


UserOf = Callable[[str], Awaitable[int | None]]


class VenvBuilder:
    """Builds virtual environments.

    Args:
        files: Where they are.
        isolated: Whether nodes run as users of their own; then nothing that users wrote may run as the server.
        user_of: Says which user the nodes of an account run as, where they are isolated.
    """

    def __init__(self, files: Files, *, isolated: bool, user_of: UserOf | None = None) -> None:
        self._files = files
        self._isolated = isolated
        self._user_of = user_of

    def validate(self, spec: EnvironmentSpec, target: Target) -> None:  # noqa: ARG002 - the protocol's
        """Refuse what no virtual environment can be."""
        if spec.container is not None:
            raise FixItError(
                "Clusters on the server's own machine run in no containers.",
                advice="Leave container out and say which packages there should be.",
                field="container",
            )
        if spec.conda is not None and spec.conda.dependencies:
            raise FixItError(
                "Clusters on the server's own machine get their packages from pip's indexes only.",
                advice="Give the packages as pip=; conda packages are for clusters that run in containers.",
                field="conda",
            )
        if spec.post_build and self._isolated:
            raise FixItError(
                "Commands after the build would run with the server's rights, so they are not allowed here.",
                advice="Put what they do into a package, or use a cloud account whose nodes run in containers.",
                field="post_build",
            )

    async def build(self, request: BuildRequest, report: Report) -> BuildResult:
        """Make the virtual environment, or find that it is there."""
        self.validate(request.spec, request.target)
        cache = self._files.cache(request.target.account_id if request.credentials else None)
        base = await self._base(request.spec, cache, report)
        lock = request.lock
        if lock is None:
            how = Resolving(cache, self._files.scratch, interpreter=str(base), build=not self._isolated)
            lock = await resolve(request, how, report)
            await report.event(f"Resolved to {len(lock.packages)} packages.", step=BuildStep.RESOLVED)
        check_usable(lock)
        venv = self._place(lock, request)
        reused = venv.is_dir()
        if reused:
            text = "These very packages are installed already: nothing is to be done."
            await report.event(text, step=BuildStep.INSTALLED)
        else:
            await self._make(venv, base, lock, request, cache, report)
        return BuildResult(lock, path=str(venv), reused=reused, details={"size": await asyncio.to_thread(_size, venv)})

    async def present(self, request: BuildRequest, result: BuildResult) -> bool:  # noqa: ARG002 - the protocol's
        """Whether the folder is there."""
        return result.path is not None and await asyncio.to_thread(Path(result.path).is_dir)

    def _place(self, lock: Lock, request: BuildRequest) -> Path:
        """Return the folder: one for all accounts, unless something in it is an account's own."""
        own = [request.target.account_id] if _is_private(request) else []
        content = json.dumps([lock.hash, request.spec.post_build, sys.platform, *own])
        return self._files.venvs / sha256(content.encode()).hexdigest()[:40]

    async def _base(self, spec: EnvironmentSpec, cache: Path, report: Report) -> Path:
        """Return the Python of this machine to use, which no virtual environment has added to."""
        wanted = spec.python or ""
        own = Path(sysconfig.get_config_var("BINDIR") or "") / f"python{sysconfig.get_python_version()}"
        if wanted in (sysconfig.get_python_version(), ".".join(map(str, sys.version_info[:3]))) and own.exists():
            return own
        arguments = ["python", "find", "--system", "--no-project", "--no-python-downloads", wanted]
        done = await uv.run_uv(arguments, cache=cache, cwd=self._files.scratch, seconds=60, say=lambda _line: None)
        found = Path(done.output.strip())
        if done.status != 0 or not found.name:
            raise FixItError(
                f"The server's machine has no Python {wanted}.",
                advice=f"Use Python {sysconfig.get_python_version()}, which it has, or ask an operator to install it "
                f"there (uv python install {wanted}).",
                field="python",
            )
        if self._isolated and (closed := _closed(found)) is not None:
            raise FixItError(
                f"Python {wanted} of the server's machine cannot be used by nodes: {closed} is closed to others.",
                advice="Ask an operator to install it where other users may read.",
                field="python",
            )
        report.log(f"Python: {found}")
        return found

    async def _make(
        self, venv: Path, base: Path, lock: Lock, request: BuildRequest, cache: Path, report: Report
    ) -> None:
        with explained("Making a virtual environment", self._files.venvs):
            half = Path(tempfile.mkdtemp(dir=self._files.venvs, prefix=f"tmp-{request.build_id}-"))
        try:
            await self._fill(half, base, lock, request, cache, report)
            account, private = request.target.account_id, _is_private(request)
            user = await self._user_of(account) if private and self._user_of is not None else None
            with explained("Finishing a virtual environment", half):
                await asyncio.to_thread(_finish, half, venv, lock, user)
        finally:
            await asyncio.to_thread(shutil.rmtree, half, ignore_errors=True)

    async def _fill(
        self, half: Path, base: Path, lock: Lock, request: BuildRequest, cache: Path, report: Report
    ) -> None:
        async def step(arguments: list[str], environ: dict[str, str] | None = None) -> None:
            done = await uv.run_uv(
                arguments, cache=cache, cwd=half, seconds=INSTALL_SECONDS, say=report.log, environ=environ
            )
            if done.status != 0:
                raise explain(done, "installed")

        await step(["venv", "--relocatable", "--no-project", "--allow-existing", "--python", str(base), str(half)])
        wanted = half / "requirements.txt"
        with explained("Writing a list of packages", wanted):
            wanted.write_text("\n".join(lock_lines(lock, request)) + "\n")
        options, variables = uv.index_options(request.spec, request.credentials)
        python = str(interpreter_of(half))
        install = ["pip", "install", "--no-deps", "--python", python, "--requirements", str(wanted), *options]
        await step([*install, *(["--no-build"] if self._isolated else [])], variables)
        await self._demand_room(half, request)
        for command in request.spec.post_build:
            await self._run_after(command, half, cache, report)
        await self._compile(half, base, cache, report)
        await report.event(f"Installed {len(lock.packages)} packages.", step=BuildStep.INSTALLED)

    async def _demand_room(self, half: Path, request: BuildRequest) -> None:
        size = await asyncio.to_thread(measured, half)
        if request.room is not None and size > request.room:
            raise FixItError(
                f"The environment has {size / 2**20:.0f} MiB, and the account may add {request.room / 2**20:.0f} MiB "
                "on the server's disk.",
                advice="Ask for fewer packages, or delete environments that are not needed; an operator can set "
                "environment_account_gib.",
                field="pip",
            )

    async def _run_after(self, command: str, half: Path, cache: Path, report: Report) -> None:
        report.log(f"$ {command}")
        own = uv.base_environ(cache)
        path = os.pathsep.join([str(half / "bin"), str(Path(uv.find()).parent), own.get("PATH", "/usr/bin:/bin")])
        with tempfile.TemporaryDirectory(dir=self._files.scratch, prefix="post-") as folder:
            environ = {**own, "PATH": path, "VIRTUAL_ENV": str(half), "HOME": folder, "TMPDIR": folder}
            done = await uv.run(
                ["/bin/sh", "-c", f"exec 1>&2\n{command}"],
                environ=environ,
                cwd=Path(folder),
                seconds=POST_BUILD_SECONDS,
                say=report.log,
            )
        if done.status != 0:
            last = done.errors.strip().rpartition("\n")[2]
            raise FixItError(
                f"The command {command[:200]!r} ended with status {done.status}: {last[:500] or 'it said nothing'}",
                advice="The log has all of its output. Change it, and make the environment again.",
                field="post_build",
            )

    async def _compile(self, half: Path, base: Path, cache: Path, report: Report) -> None:
        """Compile all files once: nodes may not write there. With -I -S nothing that was installed is run."""
        command = [str(base), "-I", "-S", "-m", "compileall", "-q", "-j", "0", str(half / "lib")]
        said: Callable[[str], None] = lambda _line: None  # noqa: E731 - files for other versions of Python do not compile
        await uv.run(command, environ=uv.base_environ(cache), cwd=half, seconds=COMPILE_SECONDS, say=said)
        report.log("Compiled.")


def _is_private(request: BuildRequest) -> bool:
    """Whether there may be something in it that is not for other accounts: own code, or of an index with a password."""
    return bool(request.spec.wheels or request.credentials)


def _finish(half: Path, venv: Path, lock: Lock, user: int | None) -> None:
    """Give an environment its place. Only *user*, and its group, may enter; None: everybody who knows its name."""
    (half / "requirements.txt").unlink(missing_ok=True)
    (half / ABOUT).write_text(lock.model_dump_json(indent=1))
    if user is None:
        half.chmod(0o755)
    else:
        os.chown(half, -1, user)
        half.chmod(0o750)
    with contextlib.suppress(OSError):
        # Somebody else may have made the same meanwhile: a folder that is not empty is not replaced.
        half.rename(venv)
    if not venv.is_dir():
        half.rename(venv)


def _size(venv: Path) -> int:
    """Return the bytes of all its files."""
    total = 0
    for folder, _folders, names in os.walk(venv):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(folder, name).lstat().st_size
    return total


def _closed(path: Path) -> Path | None:
    """Return the first folder on the way to *path*, links followed, that other users may not enter."""
    for way in (path, path.resolve()):
        for folder in reversed(way.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                return folder
    return None
