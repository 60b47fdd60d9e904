"""Lending a cluster the user's AWS credentials: short-lived, renewed, and seen by nobody else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ropewalk.client import credentials
from ropewalk.client.credentials import RETRY_SECONDS, Forwarder, Token, check_choice, local_token
from ropewalk.errors import InputError
from tests.support.waiting import PATIENCE

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def token(number: int = 1, *, good_for: timedelta | None = timedelta(hours=1)) -> Token:
    expires = None if good_for is None else NOW + good_for
    return Token(f"ASIA{number}", "canary-secret", f"canary-token-{number}", expires)


class World:
    """Where tokens come from and go to, with a clock that only waiting moves."""

    def __init__(self, *makes: Token | Exception) -> None:
        self.makes = list(makes)
        self.sent: list[Token] = []
        self.waits: list[float] = []
        self.now = NOW
        self.done = asyncio.Event()

    def make(self) -> Token:
        made = self.makes.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    async def deliver(self, token: Token) -> None:
        self.sent.append(token)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        if not self.makes:
            self.done.set()
            await asyncio.Event().wait()

    def forwarder(self) -> Forwarder:
        return Forwarder(self.deliver, self.make, now=lambda: self.now, sleep=self.sleep)


async def run(world: World) -> None:
    forwarder = world.forwarder()
    await forwarder.start()
    await asyncio.wait_for(world.done.wait(), PATIENCE)
    await forwarder.stop()


async def test_a_token_is_renewed_at_half_of_its_time() -> None:
    world = World(token(1), token(2, good_for=timedelta(hours=2)))
    await run(world)
    assert [sent.access_key_id for sent in world.sent] == ["ASIA1", "ASIA2"]
    assert world.waits[0] == 1800


async def test_a_renewal_that_fails_is_tried_again_and_told(caplog: pytest.LogCaptureFixture) -> None:
    world = World(token(1), InputError("no network"), OSError("gone"), token(2))
    await run(world)
    assert [sent.access_key_id for sent in world.sent] == ["ASIA1", "ASIA2"]
    assert world.waits[1:3] == [RETRY_SECONDS] * 2
    assert "no network" in caplog.text
    assert "canary" not in caplog.text


async def test_a_token_about_to_expire_does_not_make_it_ask_all_the_time() -> None:
    world = World(token(1, good_for=timedelta(seconds=1)), token(2))
    await run(world)
    assert world.waits[0] == RETRY_SECONDS


async def test_without_a_first_token_the_start_fails() -> None:
    with pytest.raises(InputError):
        await World(InputError("none here")).forwarder().start()


def test_a_token_shows_no_secret_and_says_when_it_expires() -> None:
    shown = token()
    assert "canary" not in repr(shown)
    assert shown.environ["AWS_CREDENTIAL_EXPIRATION"] == "2026-01-02T01:00:00+00:00"
    assert "AWS_CREDENTIAL_EXPIRATION" not in token(good_for=None).environ


@pytest.mark.parametrize("value", ["account", "local", None])
def test_choices_are_kept(value: str | None) -> None:
    assert check_choice(value) == value


@pytest.mark.parametrize("value", ["mine", True, 1])
def test_other_choices_are_refused(value: object) -> None:
    with pytest.raises(InputError) as caught:
        check_choice(value)
    assert caught.value.field == "credentials"


class Session:
    """A session of botocore."""

    def __init__(self, found: Any, answer: Any = None) -> None:
        self.found, self.answer = found, answer
        self.asked: list[dict[str, Any]] = []

    def get_credentials(self) -> Any:
        return self.found

    def get_config_variable(self, _name: str) -> None:
        return None

    def create_client(self, service: str, region_name: str) -> Any:
        assert (service, region_name) == ("sts", "us-east-1")
        return SimpleNamespace(get_session_token=self._token)

    def _token(self, **parameters: Any) -> Any:
        self.asked.append(parameters)
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"Credentials": self.answer}


def keys(session_token: str | None = None, **facts: Any) -> Any:
    frozen = SimpleNamespace(access_key="AKIA1", secret_key="s", token=session_token)
    return SimpleNamespace(get_frozen_credentials=lambda: frozen, **facts)


def use(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    module = SimpleNamespace(get_session=lambda: session)
    monkeypatch.setattr(credentials, "import_module", lambda _name: module)


def test_long_lived_keys_are_never_lent_but_a_token_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"AccessKeyId": "ASIA1", "SecretAccessKey": "s2", "SessionToken": "t", "Expiration": NOW}
    session = Session(keys(), answer)
    use(monkeypatch, session)
    assert local_token() == Token("ASIA1", "s2", "t", NOW)
    assert session.asked == [{"DurationSeconds": 3600}]


def test_tokens_are_lent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Session(keys("t", _expiry_time=NOW)))
    assert local_token() == Token("AKIA1", "s", "t", NOW)


@pytest.mark.parametrize("session", [Session(None), Session(keys(), RuntimeError("denied"))])
def test_what_cannot_be_lent_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    use(monkeypatch, session)
    with pytest.raises(InputError) as caught:
        local_token()
    assert caught.value.field == "credentials"
    assert caught.value.advice


def test_workers_without_this_package_take_a_token() -> None:
    """The plugin that carries it is unpickled where nothing of Ropewalk is installed."""
    from distributed.protocol.pickle import dumps  # noqa: PLC0415 - this test's only

    sent = dumps(credentials._plugin({"AWS_SESSION_TOKEN": "t"}))  # type: ignore[no-untyped-call] # distributed's
    script = (
        "import os, sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.startswith('ropewalk'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "import pickle\n"
        "pickle.loads(sys.stdin.buffer.read()).setup(None)\n"
        "print(os.environ['AWS_SESSION_TOKEN'])\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True, check=False, env=environ)
    assert done.stdout == b"t\n", done.stderr
