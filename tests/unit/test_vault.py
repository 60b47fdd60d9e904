"""The vault opens only what it sealed, where it sealed it, and says what is wrong without saying what is secret."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import SecretsError, SettingsError
from ropewalk.server.secrets import Key, Vault, format_key, generate_key, key_file_text, parse_keys

PLACE = {"table": "clusters", "row": "c-1", "field": "secret"}
SECRET = b"a certificate's private key"


@given(st.binary(max_size=4096))
def test_what_was_encrypted_is_decrypted(plaintext: bytes) -> None:
    vault = Vault([generate_key()])
    assert vault.decrypt(vault.encrypt(plaintext, **PLACE), **PLACE) == plaintext


def test_the_same_text_gives_another_ciphertext_each_time() -> None:
    vault = Vault([generate_key()])
    assert len({vault.encrypt(SECRET, **PLACE) for _ in range(100)}) == 100


def test_a_ciphertext_does_not_contain_its_plaintext_or_its_key() -> None:
    key = generate_key()
    ciphertext = Vault([key]).encrypt(SECRET, **PLACE)
    assert SECRET not in ciphertext
    assert key.secret not in ciphertext
    assert key.id.encode() in ciphertext


@pytest.mark.parametrize(
    "place",
    [
        {"table": "cloud_accounts", "row": "c-1", "field": "secret"},
        {"table": "clusters", "row": "c-2", "field": "secret"},
        {"table": "clusters", "row": "c-1", "field": "other"},
        # The same letters, cut elsewhere.
        {"table": "clustersc", "row": "-1", "field": "secret"},
        {"table": "clusters", "row": "c-1s", "field": "ecret"},
    ],
)
def test_a_ciphertext_that_was_moved_does_not_open(place: dict[str, str]) -> None:
    vault = Vault([generate_key()])
    with pytest.raises(SecretsError, match="copied from another place"):
        vault.decrypt(vault.encrypt(SECRET, **PLACE), **place)


def test_any_changed_byte_is_noticed() -> None:
    vault = Vault([generate_key()])
    ciphertext = vault.encrypt(SECRET, **PLACE)
    for position in range(len(ciphertext)):
        damaged = bytearray(ciphertext)
        damaged[position] ^= 1
        with pytest.raises(SecretsError):
            vault.decrypt(bytes(damaged), **PLACE)


def test_any_cut_ciphertext_is_refused() -> None:
    vault = Vault([generate_key()])
    ciphertext = vault.encrypt(SECRET, **PLACE)
    for length in range(len(ciphertext)):
        with pytest.raises(SecretsError):
            vault.decrypt(ciphertext[:length], **PLACE)


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_the_right_error(garbage: bytes) -> None:
    with pytest.raises(SecretsError):
        Vault([generate_key()]).decrypt(garbage, **PLACE)


def test_the_newest_key_encrypts_and_older_ones_still_open() -> None:
    old, new = generate_key(), generate_key()
    before = Vault([old]).encrypt(SECRET, **PLACE)
    both = Vault([new, old])
    assert both.current == new.id
    assert both.key_ids == (new.id, old.id)
    assert both.decrypt(before, **PLACE) == SECRET
    after = both.encrypt(SECRET, **PLACE)
    assert Vault([new]).decrypt(after, **PLACE) == SECRET
    assert both.needs_rotation(before)
    assert not both.needs_rotation(after)


def test_a_missing_key_is_named() -> None:
    old, new = generate_key(), generate_key()
    with pytest.raises(SecretsError, match=old.id) as caught:
        Vault([new]).decrypt(Vault([old]).encrypt(SECRET, **PLACE), **PLACE)
    assert "not among the configured keys" in caught.value.message
    assert "clusters.secret of 'c-1'" in caught.value.message


def test_another_key_under_the_same_id_is_told_from_damaged_data() -> None:
    ciphertext = Vault([Key("k", b"1" * 32)]).encrypt(SECRET, **PLACE)
    other = Vault([Key("k", b"2" * 32)])
    with pytest.raises(SecretsError, match="another key than the one"):
        other.decrypt(ciphertext, **PLACE)
    assert other.needs_rotation(ciphertext)
    with pytest.raises(SecretsError, match="the key 'k' is right, the data is not"):
        Vault([Key("k", b"1" * 32)]).decrypt(ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]), **PLACE)


def test_errors_and_representations_never_show_a_key() -> None:
    key = generate_key()
    vault = Vault([key])
    forms = [key.secret.hex(), base64.b64encode(key.secret).decode(), repr(key.secret)]
    with pytest.raises(SecretsError) as caught:
        vault.decrypt(vault.encrypt(SECRET, **PLACE)[:-1], **PLACE)
    shown = [repr(key), repr(vault), str(caught.value), repr(caught.value.body()), repr(caught.value.__cause__)]
    assert not [form for form in forms for text in shown if form in text]


def test_keys_are_written_and_read_newest_first() -> None:
    keys = [generate_key() for _ in range(3)]
    assert parse_keys(key_file_text(keys)) == keys
    assert parse_keys(",".join(format_key(key) for key in keys)) == keys
    assert parse_keys(f"# made today\n\n  {format_key(keys[0])}  \n") == [keys[0]]


def test_generated_keys_differ() -> None:
    keys = [generate_key() for _ in range(50)]
    assert len({key.id for key in keys}) == len({key.secret for key in keys}) == 50
    assert all(len(key.secret) == 32 for key in keys)


SOME_BASE64 = base64.b64encode(b"canary-canary-canary-canary-1234").decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no encryption key"),
        ("# only a comment", "no encryption key"),
        (SOME_BASE64, "does not begin with an id"),
        (f"bad id:{SOME_BASE64}", "does not begin with an id"),
        (f":{SOME_BASE64}", "does not begin with an id"),
        (f"{'x' * 33}:{SOME_BASE64}", "does not begin with an id"),
        ("k:not base64!", "not valid base64"),
        (f"k:{SOME_BASE64[:-5]}===", "not valid base64"),
        ("k:" + base64.b64encode(b"short").decode(), "has 5 bytes; it must have 32"),
        (f"k:{SOME_BASE64},k:{SOME_BASE64}", "the same id"),
    ],
)
def test_a_wrong_key_setting_is_explained_without_showing_it(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        parse_keys(text, field="encryption_key_file")
    assert caught.value.field == "encryption_key_file"
    assert SOME_BASE64[:20] not in str(caught.value)


def test_a_vault_needs_keys_with_different_ids() -> None:
    key = generate_key()
    with pytest.raises(ValueError, match="at least one key"):
        Vault([])
    with pytest.raises(ValueError, match="different ids"):
        Vault([key, Key(key.id, b"2" * 32)])
