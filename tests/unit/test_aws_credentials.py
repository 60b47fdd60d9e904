"""Only what can be a long-lived key is taken, and a refusal says what is wrong without repeating it."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from ropewalk.backends.aws.credentials import validate
from ropewalk.errors import InputError
from ropewalk.schemas.aws import AwsCredentials

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def given(key: str = KEY, secret: str = SECRET) -> AwsCredentials:
    return AwsCredentials(access_key_id=key, secret_access_key=SecretStr(secret))


def refused(credentials: AwsCredentials, token: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        validate(credentials, None if token is None else SecretStr(token))
    return caught.value


def test_a_long_lived_key_is_taken() -> None:
    validate(given())


@pytest.mark.parametrize("around", [" {} ", "{}\n", "\t{}\r\n", '"{}"', "'{}'", " '{}' \n", "`{}`"])
def test_what_copying_adds_is_taken_off(around: str) -> None:
    assert given(around.format(KEY), around.format(SECRET)) == given()


def test_a_blank_session_token_is_none() -> None:
    validate(given(), SecretStr("  "))


def test_a_session_token_is_refused_with_the_reason_and_the_alternative() -> None:
    error = refused(given(), "FwoGZXIvYXdzEBY")
    assert error.field == "session_token"
    assert "temporary" in error.message
    assert "long-lived" in str(error.advice)
    assert "role_arn" in str(error.advice)


def test_a_temporary_key_is_refused_with_the_reason_and_the_alternative() -> None:
    error = refused(given("ASIAIOSFODNN7EXAMPLE"))
    assert error.field == "access_key_id"
    assert "ASIA" in error.message
    assert "long-lived" in str(error.advice)


def test_swapped_fields_are_noticed() -> None:
    assert "swapped" in refused(given(SECRET, KEY)).message


@pytest.mark.parametrize(("prefix", "what"), [("AIDA", "user"), ("AROA", "role"), ("AGPA", "group")])
def test_ids_of_other_things_are_named(prefix: str, what: str) -> None:
    assert what in refused(given(f"{prefix}IOSFODNN7EXAMPLE")).message


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "empty"),
        ("AKIA IOSFODNN7EXAMPLE", "space"),
        ("AKIAIOSFODNN7EXAMPL", "19 characters"),
        ("akiaiosfodnn7example", "characters that none has"),
        ("aws_access_key_id=AKIA", "equals sign"),
    ],
)
def test_what_is_wrong_with_an_id_is_said(key: str, why: str) -> None:
    error = refused(given(key))
    assert error.field == "access_key_id"
    assert why in error.message


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "empty"),
        (SECRET[:-1], "39 characters instead of 40"),
        (SECRET[:20] + "\n" + SECRET[20:], "line break"),
        (SECRET[:-1] + "!", "characters that none has"),
        ("aws_secret_access_key = x", "space"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said(secret: str, why: str) -> None:
    error = refused(given(secret=secret))
    assert error.field == "secret_access_key"
    assert why in error.message


@pytest.mark.parametrize("wrong", [given(SECRET, SECRET), given(secret=SECRET[:-1]), given(secret=SECRET + "=")])
def test_a_refusal_does_not_repeat_what_was_given(wrong: AwsCredentials) -> None:
    error = refused(wrong)
    assert SECRET[:30] not in f"{error} {error.details}"
