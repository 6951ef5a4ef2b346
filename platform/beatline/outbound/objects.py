"""S3-style stores: opened with short time-outs, their failures told in words and by whether they may pass.

obstore connects by itself, so an address that a definition names is checked before it is opened (`check_endpoint`);
where private addresses are refused its endpoint must be https, and a name that changes its answer afterwards meets TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from beatline.errors import BeatlineError, TransientError
from beatline.outbound.guard import resolve

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential, S3Store

_CONNECT: Final = timedelta(seconds=3)
_REQUEST: Final = timedelta(seconds=20)
"""One request moves at most a part of an upload, or a buffer of a download."""
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3}[^:\n]{0,40})")
_REFUSALS: Final = {
    "InvalidAccessKeyId": "it does not know the access_key_id",
    "SignatureDoesNotMatch": "the secret_access_key is wrong",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "PermanentRedirect": "the bucket is in another region",
    "NoSuchBucket": "there is no such bucket",
}
_CAUSES: Final = {
    "dns error": "the name of its host cannot be resolved",
    "Connection refused": "it refuses the connection: no server listens there",
    "certificate": "its certificate is not trusted",
    "TimedOut": "it does not answer in time",
    "timed out": "it does not answer in time",
}


class StoreRefusedError(BeatlineError):
    """A store refuses its keys, or has no such bucket: a person must mend that."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where an S3-style store is: `s3://bucket/prefix`, and how to reach it."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)

    def open(self) -> S3Store:
        """The store; connects when first used. Without a key, that of the usual AWS_ variables."""
        from obstore.store import S3Store

        parts = urlsplit(self.url)
        config: S3Config = {"disable_bulk_delete": True, "region": self.region or "us-east-1"}
        if self.endpoint is not None:
            config["endpoint"] = self.endpoint.rstrip("/")
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=config,
            client_options={"connect_timeout": _CONNECT, "timeout": _REQUEST, "allow_http": self._plain},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=10)},
            credential_provider=self._own_key(),
        )

    def _own_key(self) -> Callable[[], S3Credential] | None:
        """The key that was given; as a provider, so that no token of the worker's own AWS_ variables goes with it."""
        if self.access_key_id is None or self.secret_access_key is None:
            return None
        key: S3Credential = {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "expires_at": None,
        }
        return lambda: key

    @property
    def _plain(self) -> bool:
        return self.endpoint is not None and self.endpoint.startswith("http://")


def check_endpoint(endpoint: str, *, allow_private: bool) -> None:
    """Return only if a definition may name this endpoint.

    Raises AddressRefusedError, StoreRefusedError, or TransientError if its name cannot be resolved.
    """
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    resolve(parts.hostname or "", port, allow_private=allow_private)
    if parts.scheme != "https" and not allow_private:
        raise StoreRefusedError(
            f"endpoint: {endpoint} is not encrypted: use https. If a store on your own network is meant, set "
            "BEATLINE_ALLOW_PRIVATE_ADDRESSES=true for the workers."
        )


@contextmanager
def in_words(place: str) -> Generator[None]:
    """Turn obstore's errors into StoreRefusedError or TransientError; an absent object stays FileNotFoundError."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as exc:
        if "NoSuchBucket" not in str(exc):
            raise
        raise StoreRefusedError(f"{place}: there is no such bucket.") from exc
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as exc:
        raise StoreRefusedError(f"{place}: {_refusal(str(exc))}.") from exc
    except exceptions.BaseError as exc:
        said = str(exc)
        code = _CODE.search(said)
        if code is not None and code[1] in _REFUSALS:
            raise StoreRefusedError(f"{place}: {_refusal(said)}.") from exc
        raise TransientError(f"{place}: {_cause(said)}.") from exc


def _refusal(said: str) -> str:
    code = _CODE.search(said)
    if code is None:
        return "access is refused: correct access_key_id and secret_access_key, or the rights of that key"
    return _REFUSALS.get(code[1]) or f"access is refused ({code[1]}): correct the keys, or their rights"


def _cause(said: str) -> str:
    for mark, words in _CAUSES.items():
        if mark in said:
            return words
    status, code = _STATUS.search(said), _CODE.search(said)
    if status is not None:
        return f"it answers {status[1].strip()}" + (f" ({code[1]})" if code else "")
    return said.splitlines()[0][:200].rstrip(".")
