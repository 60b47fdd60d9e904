"""``ropewalk env``: software environments, their versions, builds and logs; and ``ropewalk install``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import ask, options, output
from ropewalk.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from ropewalk.schemas.environments import Environment, EnvironmentDetail, EnvironmentVersion

app = typer.Typer(no_args_is_help=True, help="Software environments: the packages of nodes.")
credentials = typer.Typer(no_args_is_help=True, help="Credentials of private package indexes.")
app.add_typer(credentials, name="credentials")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or account/name.", show_default=False)]


@app.command("list")
def list_(
    account: options.Account = None,
    managed: Annotated[bool, typer.Option("--managed", help="Those of package sync, too.")] = False,
    as_json: options.Json = False,
) -> None:
    """List software environments."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        found = api(calls.list_environments(api.account(account), managed=managed))
    if as_json:
        output.dump(found)
        return
    output.table(
        ["NAME", "VERSION", "STATE", "BY", "UPDATED", "SEEN BY"],
        [
            [e.name, e.version, _newest(e), e.creator, e.updated_at, "its creator" if e.private else "all"]
            for e in found
        ],
        empty="There are no software environments.",
    )


@app.command()
def create(
    name: Name,
    pip: Annotated[list[str] | None, typer.Option("--pip", help="A requirement; repeat it.")] = None,
    requirements: Annotated[Path | None, typer.Option("--requirements", "-r", help="A requirements file.")] = None,
    conda: Annotated[Path | None, typer.Option("--conda", help="An environment.yml.")] = None,
    python: Annotated[str | None, typer.Option("--python", help="Version of Python, such as 3.12.")] = None,
    container: Annotated[str | None, typer.Option("--container", help="An image to use, or to build upon.")] = None,
    wheel: Annotated[list[Path] | None, typer.Option("--wheel", help="A wheel, or a project's folder; repeat.")] = None,
    post_build: Annotated[list[str] | None, typer.Option("--post-build", help="A command to run after.")] = None,
    environ: Annotated[list[str] | None, typer.Option("--environ", "-e", help="NAME=value, for nodes.")] = None,
    index_url: Annotated[str | None, typer.Option("--index-url", help="In place of the usual index.")] = None,
    extra_index_url: Annotated[list[str] | None, typer.Option("--extra-index-url", help="A further index.")] = None,
    use_credentials: Annotated[
        list[str] | None,
        typer.Option("--credentials", help="Name of stored credentials for an index or channel; repeat."),
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", help="linux/amd64 or linux/arm64; default: of the account's nodes.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--shared", help="Whether others see it.")] = None,
    force_rebuild: Annotated[bool, typer.Option("--force-rebuild", help="Also if nothing was changed.")] = False,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Make a software environment, or a new version of one, and show its build as it goes on."""
    from ropewalk.cli.api import connect
    from ropewalk.client.environment.making import make
    from ropewalk.client.environment.reading import lines, parse_platform, specification
    from ropewalk.client.environment.wheels import Wheels
    from ropewalk.schemas.environments import EnvironmentCreate

    listed = [] if requirements is None else lines(requirements)
    own = Wheels()
    spec = specification(
        pip=[*listed, *(pip or [])],
        conda=conda,
        python=python,
        container=container,
        wheels=[own.add(path) for path in wheel or []],
        post_build=post_build,
        environ=dict(_variable(item) for item in environ or []),
        index_url=index_url,
        extra_index_urls=extra_index_url or [],
        credentials=use_credentials or [],
    )
    with connect() as api:
        slug, rest = api.locate(name, account)
        wish = EnvironmentCreate(
            name=rest, spec=spec, private=private, platform=parse_platform(platform), force_rebuild=force_rebuild
        )
        made = api.drive(make(slug, wish, own.files, _say))
    _tell(made, as_json=as_json)


@app.command()
def rebuild(name: Name, account: options.Account = None, as_json: options.Json = False) -> None:
    """Resolve and build the newest version again, as a new version: newer packages may have come out."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.client.environment.making import built

    with connect() as api:
        slug, rest = api.locate(name, account)
        made = api(calls.rebuild_environment(slug, rest))
        api.drive(built(slug, str(made.build), _say))
        made = api(calls.get_environment(slug, rest))
    _tell(made, as_json=as_json)


@app.command()
def inspect(
    name: Name,
    version: Annotated[int | None, typer.Option("--version", help="Packages of this one; default: in use.")] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Show an environment: its versions, and the packages of one of them."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, rest = api.locate(name, account)
        found = api(calls.get_environment(slug, rest))
    if as_json:
        output.dump(found)
        return
    output.say(f"{found.account}/{found.name}, seen by {'its creator' if found.private else 'all members'}")
    output.table(
        ["VERSION", "STATE", "BY", "MADE", "BUILT FOR", "WHY"],
        [[v.number, v.state, v.creator, v.created_at, _places(v), v.reason] for v in found.versions],
        empty="It has no versions.",
    )
    chosen = _version(found, version)
    output.table(
        ["PACKAGE", "VERSION", "FROM"],
        [[p.name, p.version, p.url or p.manager] for p in chosen.packages],
        empty=f"Version {chosen.number} was not resolved yet.",
    )
    for difference in (each for build in chosen.builds[:1] for each in build.differences):
        output.note(f"{difference.level}: {difference.name} {difference.here or ''}: {difference.why}")


@app.command()
def log(
    name: Name,
    version: Annotated[int | None, typer.Option("--version", help="Of this version; default: the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build is over, or Ctrl-C.")] = False,
    platform: Annotated[str | None, typer.Option("--platform", help="Of its build for this, as linux/arm64.")] = None,
    account: options.Account = None,
) -> None:
    """Print the log of the newest build of a version."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.client.environment.making import followed

    with connect() as api:
        slug, rest = api.locate(name, account)
        found = api(calls.get_environment(slug, rest))
        builds = [b for b in _version(found, version or found.latest).builds if platform in (None, b.platform)]
        if not builds:
            output.note("It was not built yet.")
            return
        if follow:
            api.drive(followed(slug, builds[0].id, output.raw, output.note))
            return
        part = api(calls.get_build_log(slug, builds[0].id))
        output.raw(part.text)
        while not part.complete and part.text:
            part = api(calls.get_build_log(slug, builds[0].id, offset=part.next))
            output.raw(part.text)


@app.command()
def diff(
    name: Name,
    before: Annotated[int | None, typer.Argument(help="Default: the version before the newest.")] = None,
    after: Annotated[int | None, typer.Argument(help="Default: the newest version.")] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Show what the packages of two versions differ in."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, rest = api.locate(name, account)
        latest = after or api(calls.get_environment(slug, rest)).latest
        found = api(calls.diff_environment(slug, rest, before or max(1, latest - 1), latest))
    if as_json:
        output.dump(found)
        return
    rows = [["+", p.name, None, p.version] for p in found.added]
    rows += [["-", p.name, p.version, None] for p in found.removed]
    rows += [["~", old.name, old.version, new.version] for old, new in found.changed]
    output.table(
        ["", "PACKAGE", f"VERSION {found.before}", f"VERSION {found.after}"],
        sorted(rows, key=lambda row: str(row[1])),
        empty="Their packages are the same.",
    )
    for field, (old, new) in found.spec.items():
        output.say(f"{field}: {old or 'nothing'} -> {new or 'nothing'}")


@app.command()
def delete(name: Name, account: options.Account = None, yes: options.Yes = False) -> None:
    """Delete an environment; clusters that use it go on."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, rest = api.locate(name, account)
        ask.confirm(f"Delete the software environment {rest} of {slug}, with all its versions?", yes=yes)
        api(calls.delete_environment(slug, rest))
    output.say(f"The software environment {rest} is deleted.")


@credentials.command("list")
def list_credentials(account: options.Account = None, as_json: options.Json = False) -> None:
    """List stored credentials, without the secrets."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        found = api(calls.list_index_credentials(api.account(account)))
    if as_json:
        output.dump(found)
        return
    rows = [[each.name, each.url, each.updated_at] for each in found]
    output.table(["NAME", "INDEX", "SET"], rows, empty="There are no credentials for package indexes.")


@credentials.command("set")
def set_credentials(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What environments call them.", show_default=False)],
    url: Annotated[
        str, typer.Option("--url", help="Address of the index, channel or registry; they are sent nowhere else.")
    ],
    username: Annotated[
        str,
        typer.Option("--username", help="__token__: of a token; __conda__: of one that is put into addresses as /t/…."),
    ] = "__token__",
    password_stdin: options.PasswordStdin = False,
    account: options.Account = None,
) -> None:
    """Store user name and password of a private package index, channel or registry, encrypted, or replace them."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.environments import IndexCredentialsSet

    password = ask.secret(f"Password or token for {url}", env="ROPEWALK_INDEX_PASSWORD", stdin=password_stdin)
    wish = ask.build(IndexCredentialsSet, url=url, username=username, password=password)
    with connect() as api:
        api(calls.set_index_credentials(api.account(account), name, wish))
    output.say(f"The credentials {name} are stored. Use them: ropewalk env create … --credentials {name}")
    output.note(f"Those of a registry: ropewalk cloud-account set kubernetes --image-registry-credentials {name}")


@credentials.command("delete")
def delete_credentials(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    account: options.Account = None,
    yes: options.Yes = False,
) -> None:
    """Delete stored credentials; environments that name them cannot be built any more."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        ask.confirm(f"Delete the credentials {name} of {slug}?", yes=yes)
        api(calls.delete_index_credentials(slug, name))
    output.say(f"The credentials {name} are deleted.")


def install(
    name: Name,
    path: Annotated[
        Path | None, typer.Option("--path", help="Folder of the new virtual environment; default: named as it.")
    ] = None,
    version: Annotated[int | None, typer.Option("--version", help="Default: the one in use.")] = None,
    account: options.Account = None,
) -> None:
    """Make a software environment here: a virtual environment with the same packages, by uv."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.client.environment.installing import install

    with connect() as api:
        slug, rest = api.locate(name, account)
        chosen = _version(api(calls.get_environment(slug, rest)), version)
        folder = install(api, slug, chosen, path or Path(rest))
    output.say(f"{rest} version {chosen.number} is in {folder}. Use it: source {folder}/bin/activate")


def _version(found: EnvironmentDetail, number: int | None) -> EnvironmentVersion:
    wanted = number or found.version or found.latest
    chosen = next((each for each in found.versions if each.number == wanted), None)
    if chosen is None:
        raise NotFoundError(
            f"{found.name} has no version {wanted}.", advice=f"Its newest is {found.latest}.", field="version"
        )
    return chosen


def _newest(found: Environment) -> str:
    """Return the state of the newest version, with its number where clusters get another one."""
    return found.state if found.version in (None, found.latest) else f"version {found.latest} {found.state}"


def _places(version: EnvironmentVersion) -> str:
    def place(target: str) -> str:
        return "the server" if target == "local" else "the cloud account"

    return ", ".join(f"{place(build.target)}, {build.platform} ({build.state})" for build in version.builds)


def _variable(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"{item!r} is not of the form NAME=VALUE.", field="environ")
    return name, value


def _say(text: str) -> None:
    for line in text.splitlines():
        output.say(line)


def _tell(made: EnvironmentDetail, *, as_json: bool) -> None:
    if as_json:
        output.dump(made)
        return
    newest = made.versions[0]
    for difference in (each for build in newest.builds[:1] for each in build.differences):
        output.note(f"{difference.level}: {difference.name} {difference.here or ''}: {difference.why}")
    count = len(newest.packages)
    output.say(
        f"{made.account}/{made.name} version {newest.number} is ready: {count} packages. "
        f"Use it: ropewalk.Cluster(software={made.name!r})"
    )
