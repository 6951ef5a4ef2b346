"""Secrets at rest and on show: an AES-GCM keyring, and masks for whatever people or logs get to see.

Sealed bytes: version (1), length of the key id, key id, nonce (12 bytes), ciphertext with tag. The additional data is
what the bytes are bound to plus the key id, so that sealed bytes moved to another row do not open.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretBytes, SecretStr

from beatline.errors import KeyMissingError, SecretError

if TYPE_CHECKING:
    from beatline.settings import Settings

MASK: Final = "***"
KEY_FILE: Final = "secret_keys"

_VERSION: Final = 1
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_EXAMPLE: Final = "Example: BEATLINE_SECRET_KEYS=k1:<32 bytes in base64>"

_DEEPEST: Final = 40
_SECRET_KEY: Final = re.compile(
    r"passw(or)?d|passphrase|secret|token|api_?key|access_?key|private_?key|secret_?key|credential|authorization|cookie",
    re.IGNORECASE,
)
# A broker's or database's password may hold a bare / or @: everything up to the last @ of such a word is its secret.
_SERVER_URL: Final = re.compile(
    r"\b((?:rediss?|redis\+socket|sentinel|postgres(?:ql)?|amqps?)[\w+.-]*://)([^\s\"'<>]*)@", re.IGNORECASE
)
_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]*://)([^\s/?#\"'<>@]*)@", re.IGNORECASE)
_QUERY: Final = re.compile(
    rf"([?&](?:\w*(?:{_SECRET_KEY.pattern})\w*|auth|key|sig|signature)=)[^&\s\"'<>#]+", re.IGNORECASE
)


def mask_urls(text: str) -> str:
    """The text with the passwords and the secret parameters of every URL in it replaced by ***."""
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{MASK}", _URL.sub(_without_password, _SERVER_URL.sub(_without_password, text)))


def _without_password(match: re.Match[str]) -> str:
    user, colon, _ = match[2].partition(":")
    # Without a colon it is one word, which may as well be a token.
    return f"{match[1]}{user}:{MASK}@" if colon else f"{match[1]}{MASK}@"


def mask(value: object) -> object:
    """A copy for people: values under secret-looking keys, secret types and passwords in URLs replaced by ***."""
    return _masked(value, 0)


def _masked(value: object, depth: int) -> object:
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, SecretStr | SecretBytes) or depth > _DEEPEST:
        return MASK
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {k: MASK if _is_secret(k, v) else _masked(v, depth + 1) for k, v in pairs}
    if isinstance(value, list | tuple):
        return [_masked(item, depth + 1) for item in cast("list[object]", value)]
    return value


def _is_secret(key: object, value: object) -> bool:
    return value is not None and isinstance(key, str) and _SECRET_KEY.search(key) is not None


def new_key() -> str:
    """A new key as BEATLINE_SECRET_KEYS takes it: a random id, a colon, 32 random bytes in base64."""
    return f"k{secrets.token_hex(3)}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"


def ensure_keys(home: Path) -> Path:
    """The key file of a data folder, made with a new key (0600) if there is none; never overwritten.

    Safe beside another process that does the same: one of the two keys wins, whole.
    """
    path = home / KEY_FILE
    if path.exists():
        return path
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = home / f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster
            os.link(draft, path)  # unlike a rename, it never replaces
    finally:
        draft.unlink(missing_ok=True)
    _keep_names(home)
    return path


def put_new_key(home: Path) -> str:
    """Put a new key in front of those in the key file of a data folder; its id. The file is replaced whole (0600).

    Two at once wait for one another: no key is lost. Raises SecretError if there is no such file.
    """
    path = home / KEY_FILE
    with _only_writer(home):
        kept = _read_file(path)
        Keyring.parse(kept, source=str(path))
        made = new_key()
        draft = home / f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{made}\n{kept}")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _keep_names(home)
    return made.partition(":")[0]


def _keep_names(folder: Path) -> None:
    """Bring the folder itself to the disk: a key that a crash takes back would leave all it sealed unopened."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _only_writer(home: Path) -> Generator[None]:
    try:
        handle = os.open(home / f".{KEY_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SecretError(f"The data folder {home} cannot be written: {exc.strerror}.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read_file(path: Path) -> str:
    """The text of a key file. Raises SecretError if it is absent, or may be read by others."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii")
    except FileNotFoundError:
        raise SecretError(
            f"There is no secret key: BEATLINE_SECRET_KEYS is not set and {path} does not exist. "
            "`beatline up` makes that file; elsewhere set BEATLINE_SECRET_KEYS to the same keys on every machine."
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise SecretError(f"The key file {path} cannot be read: {reason}.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise SecretError(f"The key file {path} can be read by others: run chmod 600 on it.")
    return text


def head_of(key_id: str) -> bytes:
    """How everything begins that was sealed with this key."""
    return bytes((_VERSION, len(key_id))) + key_id.encode("ascii")


def key_id_of(sealed: bytes) -> str | None:
    """The id of the key that sealed these bytes; None if they are none that a key has sealed."""
    if len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1] + _NONCE_BYTES:
        return None
    return sealed[2 : 2 + sealed[1]].decode("ascii", "replace")


class Keyring:
    """The keys that seal what is stored: the first encrypts, all decrypt. Its repr shows ids only.

    A keyring of a key file reads it again once it was replaced: a new key reaches the processes that run.
    """

    __slots__ = ("_file", "_keys", "_source", "_stamp")

    def __init__(self, keys: Mapping[str, bytes], *, source: str = "BEATLINE_SECRET_KEYS") -> None:
        if not keys:
            raise SecretError(f"{source} holds no key. {_EXAMPLE}")
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._source = source
        self._file: Path | None = None
        self._stamp: tuple[int, int] | None = None

    @classmethod
    def load(cls, settings: Settings) -> Keyring:
        """The keyring of BEATLINE_SECRET_KEYS, else of the data folder.

        Raises KeyMissingError if there is neither, or if what there is cannot be read.
        """
        path, stamp = settings.home / KEY_FILE, _stamp(settings.home / KEY_FILE)
        try:
            if settings.secret_keys is not None:
                return cls.parse(settings.secret_keys.get_secret_value(), source="BEATLINE_SECRET_KEYS")
            ring = cls.parse(_read_file(path), source=str(path))
        except SecretError as exc:
            raise KeyMissingError(str(exc)) from None
        ring._file, ring._stamp = path, stamp
        return ring

    @classmethod
    def parse(cls, text: str, *, source: str) -> Keyring:
        """The keyring of `id:base64, …`. Raises SecretError, which never repeats any of it."""
        keys: dict[str, bytes] = {}
        for number, part in enumerate((p.strip() for p in re.split(r"[,\s]+", text) if p.strip()), start=1):
            key_id, _, encoded = part.partition(":")
            if not _KEY_ID.fullmatch(key_id):
                raise SecretError(
                    f"Key {number} of {source} has no valid id: letters, digits, dash and underscore, at most 32, "
                    f"before a colon. {_EXAMPLE}"
                )
            if key_id in keys:
                raise SecretError(f"{source} holds the key id {key_id!r} twice: give each key its own id.")
            keys[key_id] = _decoded(encoded, key_id, source)
        return cls(keys, source=source)

    def encrypt(self, plain: bytes, *, bound_to: str) -> bytes:
        """Sealed bytes that open only for the same `bound_to`."""
        self._look_again()
        key_id, key = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return head_of(key_id) + nonce + key.encrypt(nonce, plain, _context(bound_to, key_id))

    def decrypt(self, sealed: bytes, *, bound_to: str) -> bytes:
        """What was sealed for `bound_to`.

        Raises KeyMissingError if this process does not hold the key, SecretError if the key or the bytes are wrong.
        """
        key_id = key_id_of(sealed)
        if key_id is None:
            raise SecretError(f"The secret of {bound_to} is damaged, or was written by a newer version: set it again.")
        body = 2 + sealed[1]
        if key_id not in self._keys:
            self._look_again()
        key = self._keys.get(key_id)
        if key is None:
            raise KeyMissingError(
                f"The secret of {bound_to} was encrypted with the key {key_id!r}, which {self._source} does not hold: "
                "put that key behind the first one and restart, or set the secret again."
            )
        try:
            return key.decrypt(
                sealed[body : body + _NONCE_BYTES], sealed[body + _NONCE_BYTES :], _context(bound_to, key_id)
            )
        except InvalidTag:
            raise SecretError(
                f"The secret of {bound_to} does not open with the key {key_id!r} of {self._source}: another key has "
                "that id, or the bytes were changed. Put the right key back, or set the secret again."
            ) from None

    @property
    def first(self) -> str:
        """The id of the key that encrypts."""
        self._look_again()
        return next(iter(self._keys))

    def _look_again(self) -> None:
        """Take the keys of the file if it was replaced; one that is gone or damaged now changes nothing."""
        if self._file is None or (stamp := _stamp(self._file)) == self._stamp:
            return
        with suppress(SecretError):
            self._keys = Keyring.parse(_read_file(self._file), source=self._source)._keys
        self._stamp = stamp

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _context(bound_to: str, key_id: str) -> bytes:
    return f"{bound_to}|{key_id}".encode()


def _decoded(encoded: str, key_id: str, source: str) -> bytes:
    try:
        key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise SecretError(
            f"The key {key_id!r} of {source} is not {_KEY_BYTES} bytes in base64. "
            "Make one with: openssl rand -base64 32"
        )
    return key
