"""``ropewalk.create_software_environment`` and its like. As the other functions, each takes ``asynchronous=``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from ropewalk.client import calls
from ropewalk.client.config import Login, split_name
from ropewalk.client.environment.making import Say, make
from ropewalk.client.environment.reading import Conda, Packages, parse_platform, specification
from ropewalk.client.environment.wheels import Wheels
from ropewalk.client.functions import account_steps, run
from ropewalk.client.http import Steps
from ropewalk.errors import InputError
from ropewalk.schemas.environments import Environment, EnvironmentCreate, EnvironmentDetail

__all__ = [
    "create_software_environment",
    "delete_software_environment",
    "inspect_software_environment",
    "list_software_environments",
]


def create_software_environment(
    name: str,
    *,
    conda: Conda | None = None,
    pip: Packages | None = None,
    python: str | None = None,
    container: str | None = None,
    wheels: Sequence[str | Path] = (),
    post_build: str | Path | Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    index_url: str | None = None,
    extra_index_urls: Sequence[str] = (),
    credentials: Sequence[str] = (),
    platform: str | None = None,
    private: bool | None = None,
    account: str | None = None,
    force_rebuild: bool = False,
    log_output: IO[str] | Literal["stdout"] | None = "stdout",
    asynchronous: bool = False,
) -> EnvironmentDetail:
    """Make a software environment, or a new version of one, and wait until it is built.

    Nothing is built if the newest version says the same already.

    Args:
        name: ``name`` or ``account/name``.
        conda: Packages, the content of an ``environment.yml``, or its path.
        pip: Requirements, or the path of a requirements file.
        python: Version of Python, for example ``"3.12"``; by default the server's own.
        container: An image: alone it is used as it is, with packages it is what they are put upon.
        wheels: Files of wheels, or folders of projects that wheels are built of: your own code.
        post_build: Commands that run after the packages are installed, where that is possible.
        environ: Environment variables of the nodes. All members of the account see them: no secrets.
        index_url: Address of a package index in place of the server's usual one.
        extra_index_urls: Further ones, which come first.
        credentials: Names of credentials for private indexes and conda channels, stored with ``ropewalk env
            credentials set``.
        platform: What it is built for now, ``"linux/amd64"`` or ``"linux/arm64"``; by default what the account's nodes
            run on. It is built for the other as soon as a cluster asks for such nodes.
        private: Nobody else sees it.
        account: Whose it is, if the name does not say.
        force_rebuild: Resolve and build also if nothing was changed.
        log_output: Where the log of the build is written as it goes on: a file, ``"stdout"``, or None for nowhere.
        asynchronous: Return an awaitable.

    Raises:
        InputError: An argument is wrong.
        FixItError: It could not be built; the resolver's own explanation.
    """
    account, rest = _names(name, account)
    if isinstance(wheels, str | Path):
        raise InputError("wheels is a list of files or folders.", field="wheels")

    def steps(login: Login) -> Steps[EnvironmentDetail]:
        own = Wheels()
        spec = specification(
            conda=conda,
            pip=pip,
            python=python,
            container=container,
            wheels=[own.add(Path(each)) for each in wheels],
            post_build=post_build,
            environ=environ,
            index_url=index_url,
            extra_index_urls=extra_index_urls,
            credentials=credentials,
        )
        slug = yield from account_steps(login, account)
        wish = EnvironmentCreate(
            name=rest, spec=spec, private=private, platform=parse_platform(platform), force_rebuild=force_rebuild
        )
        detail: EnvironmentDetail = yield from make(slug, wish, own.files, _say(log_output))
        return detail

    result: EnvironmentDetail = run(steps, asynchronous)
    return result


def _say(given: IO[str] | Literal["stdout"] | None) -> Say:
    # Looked up now: notebooks and tests put another one in its place.
    stream = sys.stdout if given == "stdout" else given

    def say(text: str) -> None:
        if stream is not None:
            stream.write(text)
            stream.flush()

    return say


def list_software_environments(
    account: str | None = None, *, managed: bool = False, asynchronous: bool = False
) -> list[Environment]:
    """Return an account's software environments by name.

    Args:
        account: Whose; by default the configured one, or your own.
        managed: Those that package sync made, too.
        asynchronous: Return an awaitable.
    """

    def steps(login: Login) -> Steps[list[Environment]]:
        slug = yield from account_steps(login, account)
        found: list[Environment] = yield calls.list_environments(slug, managed=managed)
        return found

    result: list[Environment] = run(steps, asynchronous)
    return result


def inspect_software_environment(
    name: str, account: str | None = None, *, asynchronous: bool = False
) -> EnvironmentDetail:
    """Return a software environment with its versions, what each was resolved to, and its builds.

    Args:
        name: ``name`` or ``account/name``.
        account: Whose it is, if the name does not say.
        asynchronous: Return an awaitable.
    """
    account, rest = _names(name, account)

    def steps(login: Login) -> Steps[EnvironmentDetail]:
        slug = yield from account_steps(login, account)
        found: EnvironmentDetail = yield calls.get_environment(slug, rest)
        return found

    result: EnvironmentDetail = run(steps, asynchronous)
    return result


def delete_software_environment(name: str, account: str | None = None, *, asynchronous: bool = False) -> None:
    """Delete a software environment; clusters that use it go on.

    Args:
        name: ``name`` or ``account/name``.
        account: Whose it is, if the name does not say.
        asynchronous: Return an awaitable.
    """
    account, rest = _names(name, account)

    def steps(login: Login) -> Steps[None]:
        slug = yield from account_steps(login, account)
        yield calls.delete_environment(slug, rest)

    result: None = run(steps, asynchronous)
    return result


def _names(name: str, account: str | None) -> tuple[str | None, str]:
    account, rest = split_name(name, account)
    if rest is None:
        raise InputError("A name is needed.", advice="For example 'mine', or 'team/ours'.", field="name")
    return account, rest
