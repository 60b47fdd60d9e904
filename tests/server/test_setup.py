from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text
from structlog.testing import capture_logs

from ropewalk.errors import ConflictError, DatabaseError, SecretsError, SettingsError
from ropewalk.schemas.identity import UserCreate
from ropewalk.server import keys, setup
from ropewalk.server.app import create_app
from ropewalk.server.clock import SystemClock
from ropewalk.server.context import Context
from ropewalk.server.db import migrate
from ropewalk.server.db.engine import Database
from ropewalk.server.db.models import CloudAccount, Event, Installation, User
from ropewalk.server.secrets import Vault, generate_key, key_file_text
from ropewalk.server.settings import Settings
from tests.support.api import Api

OPERATOR = UserCreate(username="ada", password=SecretStr("correct horse battery"), operator=True)
REQUEST = {"username": "ada", "password": "correct horse battery"}


@pytest.fixture
def data_dir(settings: Settings) -> Path:
    settings.data_dir.mkdir()
    return settings.data_dir


@pytest.fixture
async def ready(context: Context, data_dir: Path) -> Context:
    """A context whose installation exists."""
    context.vault = await setup.open_vault(context.settings, context.db, context.clock.now())
    return context


def code_of(settings: Settings) -> str:
    return (settings.data_dir / "setup-code").read_text().strip()


# The schema.


async def test_a_new_database_is_migrated_by_the_first_start(empty_database_url: str) -> None:
    db = Database(empty_database_url)
    try:
        await setup.check_schema(db, migrate_now=False)
        assert (await migrate.state(db)).pending == ()
    finally:
        await db.close()


async def test_an_older_database_is_migrated_on_sqlite_and_by_a_person_on_postgresql(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = migrate.SchemaState("0000", ("0001",), empty=False)
    migrated = []

    async def state(_db: Database) -> migrate.SchemaState:
        return older

    async def upgrade(_db: Database) -> migrate.SchemaState:
        migrated.append(True)
        return migrate.SchemaState("0001", (), empty=False)

    monkeypatch.setattr(migrate, "state", state)
    monkeypatch.setattr(migrate, "upgrade", upgrade)
    if database.is_sqlite:
        await setup.check_schema(database, migrate_now=False)
    else:
        with pytest.raises(DatabaseError, match="needs 1 migration") as caught:
            await setup.check_schema(database, migrate_now=False)
        assert "ropewalk server migrate" in str(caught.value.advice)
        assert migrated == []
        await setup.check_schema(database, migrate_now=True)
    assert migrated == [True]


async def test_a_database_newer_than_the_server_is_refused(settings: Settings, database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    app = create_app(settings)
    with pytest.raises(DatabaseError, match="newer version"):
        async with app.router.lifespan_context(app):
            pass


# The key.


async def test_the_first_start_makes_key_and_installation(context: Context, data_dir: Path) -> None:
    await setup.open_vault(context.settings, context.db, context.clock.now())
    assert (data_dir / "encryption.key").exists()
    async with context.db.read() as session:
        installation = (await session.scalars(select(Installation))).one()
        codes = list(await session.scalars(select(Event.code)))
    assert installation.setup_code_hash is None
    assert installation.created_at == context.clock.now()
    assert codes == ["installation.created"]


async def test_the_second_start_takes_the_same_key_and_changes_nothing(ready: Context) -> None:
    again = await setup.open_vault(ready.settings, ready.db, ready.clock.now())
    assert again.key_ids == ready.vault.key_ids
    async with ready.db.read() as session:
        assert await session.scalar(select(func.count()).select_from(Installation)) == 1


async def test_a_lost_key_file_is_an_error_and_no_new_one_is_made(ready: Context, data_dir: Path) -> None:
    (data_dir / "encryption.key").unlink()
    with pytest.raises(SettingsError, match="is missing"):
        await setup.open_vault(ready.settings, ready.db, ready.clock.now())
    assert not (data_dir / "encryption.key").exists()


async def test_another_key_is_recognised_at_start(ready: Context, data_dir: Path) -> None:
    (data_dir / "encryption.key").unlink()
    other = data_dir.with_name("other")
    other.mkdir()
    settings = Settings(data_dir=other, database_url=ready.settings.database_url)
    keys.load_vault(settings, create=True)
    with pytest.raises(SecretsError, match="not the one that this database was made with") as caught:
        await setup.open_vault(settings, ready.db, ready.clock.now())
    assert "Restore the key file" in str(caught.value.advice)


async def test_another_key_under_the_same_id_is_recognised_too(ready: Context, data_dir: Path) -> None:
    path = data_dir / "encryption.key"
    key_id = path.read_text().partition(":")[0]
    other = generate_key()
    keys.replace(path, key_file_text([type(other)(key_id, other.secret)]))
    with pytest.raises(SecretsError, match="not the one"):
        await setup.open_vault(ready.settings, ready.db, ready.clock.now())


async def test_servers_that_start_at_once_make_one_installation(
    database_url: str, settings: Settings, data_dir: Path
) -> None:
    databases = [Database(database_url) for _ in range(4)]
    try:
        now = SystemClock().now()
        vaults = await asyncio.gather(*(setup.open_vault(settings, db, now) for db in databases))
        async with databases[0].read() as session:
            assert await session.scalar(select(func.count()).select_from(Installation)) == 1
    finally:
        for db in databases:
            await db.close()
    assert len({vault.current for vault in vaults}) == 1


# The first operator.


async def test_the_first_start_offers_a_one_time_code_in_a_file_and_only_there(settings: Settings) -> None:
    app = create_app(settings)
    with capture_logs() as logs:
        async with app.router.lifespan_context(app), Api(app) as api:
            path = settings.data_dir / "setup-code"
            code = code_of(settings)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            async with api.context.db.read() as session:
                installation = (await session.scalars(select(Installation))).one()
                assert await session.get(CloudAccount, "ca-hosted") is not None
            assert installation.setup_code_hash not in {None, code}
    (line,) = [entry for entry in logs if entry["event"] == "setup.waiting"]
    assert line["file"] == str(path)
    assert code not in str(logs)
    assert len(code) >= 22


async def test_a_restart_keeps_the_code_that_nobody_used(settings: Settings) -> None:
    codes = []
    for _ in range(2):
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            codes.append(code_of(settings))
    assert codes[0] == codes[1]


async def test_a_lost_or_changed_file_gets_a_new_code(ready: Context, data_dir: Path) -> None:
    await setup.offer_setup(ready)
    first = code_of(ready.settings)
    (data_dir / "setup-code").unlink()
    await setup.offer_setup(ready)
    second = code_of(ready.settings)
    (data_dir / "setup-code").write_bytes(b"\xff")
    await setup.offer_setup(ready)
    assert len({first, second, code_of(ready.settings)}) == 3


async def test_the_code_makes_the_operator_once(api: Api) -> None:
    request = {**REQUEST, "code": code_of(api.context.settings)}
    response = await api.client.post("/api/v1/setup", json=request)
    assert response.status_code < 300, response.text
    ada = await api.connect(response.json()["token"])
    me = (await ada.get("/api/v1/me")).json()
    assert me["user"]["operator"] is True
    assert me["default_account"] == "ada"
    assert not (api.context.settings.data_dir / "setup-code").exists()
    again = await api.client.post("/api/v1/setup", json={**request, "username": "eve"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


async def test_of_two_that_use_the_code_at_once_one_wins(api: Api) -> None:
    code = code_of(api.context.settings)
    names = ["ada", "eve", "bob"]
    answers = await asyncio.gather(
        *(api.client.post("/api/v1/setup", json={**REQUEST, "username": name, "code": code}) for name in names)
    )
    assert sorted(answer.status_code // 100 for answer in answers) == [2, 4, 4]
    async with api.context.db.read() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 1


async def test_a_wrong_code_makes_nobody(api: Api) -> None:
    response = await api.client.post("/api/v1/setup", json={**REQUEST, "code": "wrong"})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "not_authenticated")
    async with api.context.db.read() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 0


async def test_a_server_with_an_operator_offers_no_code_and_removes_an_old_one(ready: Context, data_dir: Path) -> None:
    assert await setup.offer_setup(ready) is not None
    await setup.create_operator(ready, OPERATOR)
    assert not (data_dir / "setup-code").exists()
    (data_dir / "setup-code").write_text("left behind")
    assert await setup.offer_setup(ready) is None
    assert not (data_dir / "setup-code").exists()
    async with ready.db.read() as session:
        assert (await session.scalars(select(Installation.setup_code_hash))).one() is None


async def test_an_operator_made_at_the_machine_can_log_in_and_ends_the_code(api: Api) -> None:
    code = code_of(api.context.settings)
    await setup.create_operator(api.context, OPERATOR)
    response = await api.client.post("/api/v1/login", json=REQUEST)
    assert response.status_code == 200, response.text
    response = await api.client.post("/api/v1/setup", json={**REQUEST, "username": "eve", "code": code})
    assert response.status_code == 409


async def test_a_second_operator_cannot_be_made_at_the_machine(ready: Context) -> None:
    await setup.create_operator(ready, OPERATOR)
    with pytest.raises(ConflictError, match="operator already: ada"):
        await setup.create_operator(ready, OPERATOR.model_copy(update={"username": "eve"}))


async def test_of_two_operators_made_at_once_one_is(ready: Context) -> None:
    wishes = [OPERATOR, OPERATOR.model_copy(update={"username": "eve"})]
    results = await asyncio.gather(*(setup.create_operator(ready, one) for one in wishes), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [ConflictError]


async def test_a_vault_with_the_wrong_key_never_reaches_the_reconciler(settings: Settings, database: Database) -> None:
    settings.data_dir.mkdir()
    wrong = Vault([generate_key()])
    async with database.transaction() as session:
        check = wrong.encrypt(setup.KEY_CHECK, table="installation", row="i-x", field="key_check")
        session.add(Installation(id="i-x", created_at=SystemClock().now(), key_check=check))
    keys.load_vault(settings, create=True)
    app = create_app(settings)
    with pytest.raises(SecretsError):
        async with app.router.lifespan_context(app):
            pass
    assert not hasattr(app.state, "reconciler")
