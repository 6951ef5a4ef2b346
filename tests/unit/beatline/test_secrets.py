"""The keyring opens only what it sealed, for whom it sealed it; masks hide what people must not see."""

from __future__ import annotations

import base64
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from beatline.errors import KeyMissingError, SecretError
from beatline.secrets import KEY_FILE, MASK, Keyring, ensure_keys, mask, mask_urls, new_key, put_new_key
from beatline.settings import Settings


def key(fill: str) -> str:
    return base64.b64encode(fill.encode() * 32).decode()


def ring(text: str) -> Keyring:
    return Keyring.parse(text, source="BEATLINE_SECRET_KEYS")


OLD = f"old:{key('o')}"
NEW = f"new:{key('n')}"


@given(plain=st.binary(max_size=500), bound_to=st.text(max_size=50))
def test_what_is_sealed_opens_again_and_looks_different_each_time(plain: bytes, bound_to: str) -> None:
    keys = ring(OLD)
    sealed = keys.encrypt(plain, bound_to=bound_to)
    assert keys.decrypt(sealed, bound_to=bound_to) == plain
    assert keys.encrypt(plain, bound_to=bound_to) != sealed


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    sealed = ring(OLD).encrypt(b"hush", bound_to="a")
    rotated = ring(f"{NEW}, {OLD}")
    assert rotated.decrypt(sealed, bound_to="a") == b"hush"
    assert ring(NEW).decrypt(rotated.encrypt(b"hush", bound_to="a"), bound_to="a") == b"hush"


def test_sealed_bytes_moved_to_another_row_do_not_open() -> None:
    keys = ring(OLD)
    with pytest.raises(SecretError, match="does not open with the key 'old'"):
        keys.decrypt(keys.encrypt(b"hush", bound_to="definition:1"), bound_to="definition:2")


def test_changed_bytes_never_open() -> None:
    keys = ring(OLD)
    sealed = keys.encrypt(b"hush", bound_to="a")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(SecretError):
            keys.decrypt(bytes(changed), bound_to="a")
    for length in range(len(sealed)):
        with pytest.raises(SecretError):
            keys.decrypt(sealed[:length], bound_to="a")


def test_a_missing_key_and_a_wrong_one_are_told_apart() -> None:
    sealed = ring(OLD).encrypt(b"hush", bound_to="a")
    with pytest.raises(KeyMissingError, match="'old', which BEATLINE_SECRET_KEYS does not hold"):
        ring(NEW).decrypt(sealed, bound_to="a")
    with pytest.raises(SecretError, match="another key has that id") as wrong:
        ring(f"old:{key('x')}").decrypt(sealed, bound_to="a")
    assert not isinstance(wrong.value, KeyMissingError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        (" , ", "holds no key"),
        (key("h"), "Key 1 of BEATLINE_SECRET_KEYS has no valid id"),
        (f"{OLD},{'x' * 33}:{key('h')}", "Key 2"),
        ("k1:hush", "'k1' of BEATLINE_SECRET_KEYS is not 32 bytes"),
        ("k1:" + base64.b64encode(b"hush" * 4).decode(), "openssl rand -base64 32"),
        (f"{OLD},{OLD}", "'old' twice"),
    ],
)
def test_malformed_keys_are_named_and_never_shown(text: str, said: str) -> None:
    with pytest.raises(SecretError) as refused:
        ring(text)
    assert said in str(refused.value)
    assert key("h")[:8] not in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_repr_shows_ids_only() -> None:
    assert repr(ring(f"{NEW},{OLD}")) == "Keyring(new, old)"


def test_a_new_key_is_one_that_the_keyring_takes() -> None:
    assert ring(new_key()).encrypt(b"", bound_to="")
    assert new_key() != new_key()


def test_keys_come_from_the_variable_else_from_the_data_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(SecretError, match=r"BEATLINE_SECRET_KEYS is not set and .*secret_keys does not exist"):
        Keyring.load(Settings(home=home))
    path = ensure_keys(home)
    sealed = Keyring.load(Settings(home=home)).encrypt(b"hush", bound_to="a")
    with pytest.raises(SecretError, match="which BEATLINE_SECRET_KEYS does not hold"):
        Keyring.load(Settings(home=home, secret_keys=SecretStr(OLD))).decrypt(sealed, bound_to="a")
    assert path == home / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


def test_an_existing_key_file_is_never_replaced_whoever_comes_at_once(tmp_path: Path) -> None:
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait()
        texts.append(ensure_keys(tmp_path).read_text())

    texts: list[str] = []
    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert set(texts) == {(tmp_path / KEY_FILE).read_text()}
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_a_new_key_is_on_the_disk_with_its_name_before_anyone_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash must not take back the key that something was sealed with."""
    folders_synced: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            assert os.fstat(handle).st_ino == tmp_path.stat().st_ino
            folders_synced.append((tmp_path / KEY_FILE).read_text())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    path = ensure_keys(tmp_path)
    assert folders_synced == [path.read_text()]
    put_new_key(tmp_path)
    assert folders_synced[1:] == [path.read_text()]


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_keys(tmp_path).chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600"):
        Keyring.load(Settings(home=tmp_path))


def test_a_key_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    ensure_keys(tmp_path).write_bytes(b"\xff\xfe")
    with pytest.raises(SecretError, match="it is not text"):
        Keyring.load(Settings(home=tmp_path))


def test_secret_looking_keys_are_masked_at_any_depth() -> None:
    value = {
        "user": "ann",
        "Password": "hush",
        "apiKey": "hush",
        "nested": [{"auth_token": "hush", "n": 1}, ("x", SecretStr("hush"))],
        "client_secret": {"a": "hush"},
        "empty_token": None,
        5: "five",
    }
    masked = mask(value)
    assert masked == {
        "user": "ann",
        "Password": MASK,
        "apiKey": MASK,
        "nested": [{"auth_token": MASK, "n": 1}, ["x", MASK]],
        "client_secret": MASK,
        "empty_token": None,
        5: "five",
    }
    assert value["Password"] == "hush"  # the original stays as it is


def test_masking_ends_however_deep_it_goes() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert MASK in repr(mask(endless))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:hush@h:1/0", "redis://:***@h:1/0"),
        ("postgresql+psycopg2://ann:hush@h/d", "postgresql+psycopg2://ann:***@h/d"),
        ("sentinel://:hush@a:1;sentinel://:hush@b:2", "sentinel://:***@b:2"),
        ("amqp://ann:hu/sh@x@h//", "amqp://ann:***@h//"),
        ("see https://ann:hush@h/a?b=c@d, then", "see https://ann:***@h/a?b=c@d, then"),
        ("https://hushtoken@h/", "https://***@h/"),
        ("https://h/?page=2&api_key=hush&x=1", "https://h/?page=2&api_key=***&x=1"),
        ("https://h/?X-Amz-Signature=1&access_token=hush#f", "https://h/?X-Amz-Signature=1&access_token=***#f"),
        ("redis://h:1/0?password=hush", "redis://h:1/0?password=***"),
        ("ann@example.com writes to h:1", "ann@example.com writes to h:1"),
        ("https://h:8080/people/ann@example.com", "https://h:8080/people/ann@example.com"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, masked: str) -> None:
    assert mask_urls(text) == masked
    assert mask([text]) == [masked]
