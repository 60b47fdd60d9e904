"""``ropewalk server``: run the server and look after it, on the machine that it runs on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ropewalk.cli import ask, options, output
from ropewalk.schemas.identity import UserCreate
from ropewalk.server.settings import LoadedSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ropewalk.server.context import Context
    from ropewalk.server.db.engine import Database
    from ropewalk.server.settings import Settings

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Run and maintain the server.")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file with settings; default: ropewalk.toml in the data directory."
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Database, keys, local clusters.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", help="sqlite:///path or postgresql://user@host/name.")
]


@app.command()
def start(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any that is free; default: 8780.")] = None,
    gateway_port: Annotated[
        int | None, typer.Option(help="Port through which clients reach clusters; 0: any that is free; default: 8786.")
    ] = None,
    public_url: Annotated[str | None, typer.Option(metavar="URL", help="Address that users see.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate an older PostgreSQL database first.")] = False,
) -> None:
    """Run the server until Ctrl-C or SIGTERM. Clusters keep running, and the next start takes them over."""
    with _nothing_collected():
        from ropewalk.server.run import run

    flags = {
        "data_dir": data_dir,
        "database_url": database_url,
        "host": host,
        "port": port,
        "gateway_port": gateway_port,
        "public_url": public_url,
        "log_level": log_level,
        "log_format": log_format,
    }
    run(load_settings(flags, config=config).settings, migrate_now=migrate, ready=_ready)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Look for no garbage while modules are imported, and never in what they made.

    Their 200,000 objects live as long as the server: to look through them takes a quarter of its start, and later a
    fifth of a second at a time, in which it answers nobody.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _ready(settings: Settings) -> None:
    output.say(f"Ropewalk is ready at {settings.public_url} (data in {settings.data_dir}). Stop it with Ctrl-C.")
    if (settings.data_dir / "setup-code").exists():
        place = f"--data-dir '{settings.data_dir}'"
        output.say(f"It has no operator yet. Make one with: ropewalk server setup --username NAME {place}")


@app.command("config")
def show_config(
    config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, json: options.Json = False
) -> None:
    """Show the settings in force and where each comes from. Secrets are hidden."""
    loaded = load_settings({"data_dir": data_dir, "database_url": database_url}, config=config)
    shown = loaded.settings.shown()
    if json:
        entries = {name: {"value": value, "source": str(loaded.sources[name])} for name, value in shown.items()}
        output.dump({"file": None if loaded.file is None else str(loaded.file), "settings": entries})
        return
    rows = [(name, value, _source(loaded, name)) for name, value in shown.items()]
    output.table(("SETTING", "VALUE", "FROM"), rows, empty="")


def _source(loaded: LoadedSettings, name: str) -> str:
    source = loaded.sources[name]
    return {
        "file": f"file {loaded.file}",
        "env": f"environment ROPEWALK_{name.upper()}",
        "flag": f"flag --{name.replace('_', '-')}",
    }.get(source, "default")


@app.command()
def migrate(
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    to: Annotated[
        str, typer.Option(metavar="REVISION", help="Revision to go to; `base` removes every table.")
    ] = "head",
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements, change nothing.")] = False,
    yes: options.Yes = False,
) -> None:
    """Bring the database to the schema of this version, or to another revision."""
    from ropewalk.server.datadir import make_data_dir, only_server
    from ropewalk.server.db import migrate as migrations

    settings = load_settings({"data_dir": data_dir, "database_url": database_url}, config=config).settings
    make_data_dir(settings)
    if sql:
        output.raw(_with_database(settings, lambda db: migrations.sql(db, to)))
        return
    before = _with_database(settings, migrations.state)
    if to != "head" and before.revision is not None:
        ask.confirm(f"Go from revision {before.revision} to {to}? What a later revision added would be lost.", yes=yes)
    with only_server(settings):
        after = _with_database(settings, lambda db: migrations.move(db, to))
    if after.revision == before.revision:
        output.say(f"The database is at revision {after.revision}; there was nothing to do.")
    else:
        output.say(f"The database went from revision {before.revision or 'base'} to {after.revision or 'base'}.")


def _with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    from ropewalk.server.db.engine import Database

    async def connected() -> T:
        db = Database(settings.database_url)
        try:
            return await work(db)
        finally:
            await db.close()

    return asyncio.run(connected())


@app.command()
def setup(
    username: Annotated[str, typer.Option(help="Name of the first operator.", show_default=False)],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    email: Annotated[str | None, typer.Option(help="Address of the operator.")] = None,
    password_stdin: options.PasswordStdin = False,
) -> None:
    """Make the first operator, on the server's machine. The server may be running or not."""
    from ropewalk.server.setup import create_operator

    settings = load_settings({"data_dir": data_dir, "database_url": database_url}, config=config).settings
    password = ask.secret(f"Password of {username}", env="ROPEWALK_PASSWORD", stdin=password_stdin, repeat=True)
    request = ask.build(UserCreate, username=username, password=password, email=email, operator=True)
    _maintain(settings, lambda context: create_operator(context, request))
    output.say(f"The operator {username} was created. Log in with: ropewalk login")


@app.command("reset-password")
def reset_password(
    username: Annotated[str, typer.Option(help="Whose password; an operator's, for example.", show_default=False)],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    password_stdin: options.PasswordStdin = False,
) -> None:
    """Set a password that was forgotten, on the server's machine. The server may be running or not.

    It ends the user's sessions in browsers, and is written into the audit trail. Their tokens go on.
    """
    from ropewalk.schemas.identity import UserUpdate
    from ropewalk.server.identity.users import reset_password as reset

    settings = load_settings({"data_dir": data_dir, "database_url": database_url}, config=config).settings
    secret = ask.secret(f"New password of {username}", env="ROPEWALK_NEW_PASSWORD", stdin=password_stdin, repeat=True)
    password = ask.build(UserUpdate, password=secret).password
    assert password is not None  # noqa: S101 - it was given
    user = _maintain(settings, lambda context: reset(context, username, password))
    output.say(f"The password of {user.username} was reset. Log in with: ropewalk login")
    if user.disabled:
        output.note(f"{user.username} is disabled; an operator lets them in again: ropewalk user update --enable")


def _maintain(settings: Settings, work: Callable[[Context], Awaitable[T]]) -> T:
    from ropewalk.server.logs import configure_logs
    from ropewalk.server.run import maintenance

    async def prepared() -> T:
        async with maintenance(settings) as context:
            return await work(context)

    configure_logs("warning", settings.log_format)
    return asyncio.run(prepared())


@app.command("move-hosted")
def move_hosted(
    config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, yes: options.Yes = False
) -> None:
    """Let hosted clusters run on this machine from now on; those on the former one are given up."""
    from ropewalk.server.cloud_accounts import local_machine

    settings = load_settings({"data_dir": data_dir, "database_url": database_url}, config=config).settings
    ask.confirm(
        "Let hosted clusters run on this machine? No server may use the former directory any more, "
        "and what still runs there is not stopped.",
        yes=yes,
    )
    _maintain(settings, lambda context: local_machine.claim(context, move=True))
    output.say(f"Hosted clusters run on this machine from now on, in {settings.local_dir}.")


@app.command("rotate-key")
def rotate_key(
    config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, yes: options.Yes = False
) -> None:
    """Encrypt all stored secrets with a new key. Stop the server first; clusters keep running."""
    from ropewalk.server.datadir import make_data_dir, only_server
    from ropewalk.server.rotate import rotate

    settings = load_settings({"data_dir": data_dir, "database_url": database_url}, config=config).settings
    ask.confirm("Encrypt all secrets with a new key? Every server on this database must be stopped.", yes=yes)
    make_data_dir(settings)
    with only_server(settings):
        done = _maintain(settings, lambda context: rotate(context.settings, context.db))
    output.say(f"The key {done.key_id} is in force. Secrets that were encrypted with it: {done.encrypted}.")
    if settings.encryption_key is None:
        output.say(f"Make a backup of {settings.encryption_key_file}: without it, the secrets are lost.")
    elif done.dropped:
        output.say(f"These keys are not needed any more; remove them from encryption_key: {', '.join(done.dropped)}.")
