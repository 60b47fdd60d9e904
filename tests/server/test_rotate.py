from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from ropewalk.errors import SecretsError
from ropewalk.server import keys, rotate, setup
from ropewalk.server.cloud_accounts import rotation
from ropewalk.server.context import Context
from ropewalk.server.db.models import CloudAccount, Installation
from ropewalk.server.secrets import format_key, generate_key, key_file_text
from ropewalk.server.settings import Settings


@pytest.fixture
async def installed(context: Context) -> Context:
    """An installation with credentials in 250 cloud accounts."""
    context.settings.data_dir.mkdir()
    context.vault = await setup.open_vault(context.settings, context.db, context.clock.now())
    await fill(context, [f"ca-{number:04}" for number in range(250)])
    return context


async def fill(context: Context, ids: Sequence[str]) -> None:
    now = context.clock.now()
    async with context.db.transaction() as session:
        for row_id in ids:
            sealed = context.vault.encrypt(row_id.encode(), table="cloud_accounts", row=row_id, field="credentials")
            row = CloudAccount(
                id=row_id, kind="aws", backend="aws", settings={}, credentials=sealed, created_at=now, updated_at=now
            )
            session.add(row)
        session.add(
            CloudAccount(id="ca-none", kind="hosted", backend="local", settings={}, created_at=now, updated_at=now)
        )


async def check(context: Context, key_id: str) -> None:
    """Every secret is readable with the one key that is configured now, and the server would start."""
    vault = await setup.open_vault(context.settings, context.db, context.clock.now())
    assert vault.key_ids == (key_id,)
    async with context.db.read() as session:
        query = select(CloudAccount.id, CloudAccount.credentials).where(CloudAccount.credentials.is_not(None))
        rows = (await session.execute(query)).all()
        installation = (await session.scalars(select(Installation))).one()
    assert len(rows) == 250
    for row_id, sealed in rows:
        assert sealed is not None
        assert not vault.needs_rotation(sealed)
        assert vault.decrypt(sealed, table="cloud_accounts", row=row_id, field="credentials") == row_id.encode()
    assert not vault.needs_rotation(installation.key_check)


async def test_every_secret_is_encrypted_with_the_new_key_and_the_old_one_is_gone(installed: Context) -> None:
    old = installed.vault.current
    done = await rotate.rotate(installed.settings, installed.db)
    assert done.encrypted == 251
    assert done.dropped == (old,)
    assert done.key_id != old
    await check(installed, done.key_id)


async def test_an_interrupted_rotation_leaves_everything_readable_and_goes_on(
    installed: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, batches = rotation._batch, 0

    async def interrupted(*arguments: object) -> object:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return await batch(*arguments)  # type: ignore[arg-type] # passed on

    with monkeypatch.context() as patch:
        patch.setattr(rotation, "_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await rotate.rotate(installed.settings, installed.db)
    vault = await setup.open_vault(installed.settings, installed.db, installed.clock.now())
    assert len(vault.key_ids) == 2
    done = await rotate.rotate(installed.settings, installed.db)
    assert done.key_id == vault.current
    assert done.encrypted == 151
    await check(installed, done.key_id)


async def test_keys_of_the_environment_are_rotated_to_the_first_of_them(installed: Context) -> None:
    (old,) = keys.read_key_file(installed.settings.encryption_key_file)
    new = generate_key()
    given = SecretStr(f"{format_key(new)},{format_key(old)}")
    both = installed.settings.model_copy(update={"encryption_key": given})
    done = await rotate.rotate(both, installed.db)
    assert (done.key_id, done.dropped) == (new.id, (old.id,))
    installed.settings = installed.settings.model_copy(update={"encryption_key": SecretStr(format_key(new))})
    await check(installed, new.id)


async def test_rotating_with_one_key_in_the_environment_changes_nothing(installed: Context) -> None:
    (only,) = keys.read_key_file(installed.settings.encryption_key_file)
    one = installed.settings.model_copy(update={"encryption_key": SecretStr(format_key(only))})
    done = await rotate.rotate(one, installed.db)
    assert (done.key_id, done.encrypted, done.dropped) == (only.id, 0, ())


async def test_a_secret_that_cannot_be_read_keeps_the_old_keys(installed: Context) -> None:
    async with installed.db.transaction() as session:
        damaged = update(CloudAccount).where(CloudAccount.id == "ca-0200").values(credentials=b"damaged")
        await session.execute(damaged)
    with pytest.raises(SecretsError, match="damaged"):
        await rotate.rotate(installed.settings, installed.db)
    assert len(keys.read_key_file(installed.settings.encryption_key_file)) == 2


def test_key_files_are_read_newest_first(tmp_path: Path) -> None:
    made = [generate_key(), generate_key()]
    settings = Settings(data_dir=tmp_path)
    keys.replace(settings.encryption_key_file, key_file_text(made))
    assert keys.load_vault(settings, create=False).key_ids == tuple(key.id for key in made)
