"""Access tokens for XOAUTH2: got from the provider, used until shortly before they expire, got anew when refused.

No message shows a token or a secret: what a provider says of an error is its code and description, and no more.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from beatline.clock import monotonic_s, utc_now
from beatline.datasets.columns import clean_text
from beatline.errors import TransientError
from beatline_tasks.email.errors import MailboxError, MailError, Trouble

if TYPE_CHECKING:
    from beatline_tasks.email.mailbox import OAuth

EARLY_S: Final = 120
"""A token is renewed this long before it expires: clocks differ, and a poll takes a while."""
_ANSWER_BYTES: Final = 64 * 1024
_CONNECT_S: Final = 5.0
_REQUEST_S: Final = 20.0
_LIFE_S: Final = 3600
_LONGEST_LIFE_S: Final = 30 * 86_400
_SAID_CHARS: Final = 200
_THROTTLED: Final = 429
_WHO_ERRORS: Final = frozenset({"invalid_client", "unauthorized_client", "invalid_scope", "access_denied"})


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a provider gave. `of` says for which credentials: with others it is worth nothing."""

    access: str = field(repr=False)
    expires_at: datetime
    refresh: str | None = field(repr=False)
    of: str = field(repr=False)

    def to_json(self) -> bytes:
        """As it is stored, sealed."""
        kept = {"access": self.access, "expires_at": self.expires_at.isoformat(), "refresh": self.refresh}
        return json.dumps(kept | {"of": self.of}).encode()

    @classmethod
    def from_json(cls, stored: bytes) -> Tokens:
        """What was stored."""
        kept = json.loads(stored)
        return cls(kept["access"], datetime.fromisoformat(kept["expires_at"]), kept["refresh"], kept["of"])


def fingerprint(oauth: OAuth) -> str:
    """Tells the credentials of a definition from those it had before."""
    secrets = [secret.get_secret_value() if secret else "" for secret in (oauth.client_secret, oauth.refresh_token)]
    return hashlib.sha256("\x00".join([oauth.token_url, oauth.client_id, oauth.scope, *secrets]).encode()).hexdigest()


def usable(oauth: OAuth, kept: Tokens | None, now: datetime) -> bool:
    """Whether kept tokens are those of these credentials, and good for a poll."""
    return kept is not None and kept.of == fingerprint(oauth) and kept.expires_at - now > timedelta(seconds=EARLY_S)


def renewed(oauth: OAuth, kept: Tokens | None, *, allow_private: bool) -> Tokens:
    """New tokens from the provider. Raises MailError: TOKEN if it was revoked, LOGIN if the application is refused."""
    import httpx

    from beatline.outbound.transport import words_of

    if urlsplit(oauth.token_url).scheme != "https" and not allow_private:
        raise MailboxError("oauth.token_url must be https: the secret would go over the network in the open.")
    of = fingerprint(oauth)
    # A provider may have put another refresh token in the place of the one that was defined.
    refresh = kept.refresh if kept is not None and kept.of == of and kept.refresh else None
    if refresh is None and oauth.refresh_token is not None:
        refresh = oauth.refresh_token.get_secret_value()
    form = {"client_id": oauth.client_id, "grant_type": "refresh_token" if refresh else "client_credentials"}
    form |= {"refresh_token": refresh} if refresh else {}
    form |= {"client_secret": oauth.client_secret.get_secret_value()} if oauth.client_secret else {}
    form |= {"scope": oauth.scope} if oauth.scope else {}
    try:
        status, body = _post(oauth.token_url, form, allow_private=allow_private)
    except TransientError as exc:
        raise MailError(Trouble.NETWORK, str(exc)) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        text = f"{_place(oauth)} cannot be reached for a token: {words_of(exc)}."
        raise MailError(Trouble.NETWORK, text) from exc
    return _read(oauth, status, body, refresh, of)


def _post(url: str, form: dict[str, str], *, allow_private: bool) -> tuple[int, bytes]:
    import httpx

    from beatline.outbound.transport import Deadline, GuardedTransport

    deadline = Deadline()
    deadline.set(monotonic_s() + _REQUEST_S)
    transport = GuardedTransport(deadline, allow_private=allow_private)
    timeout = httpx.Timeout(_REQUEST_S, connect=_CONNECT_S)
    with (
        httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False) as client,
        client.stream("POST", url, data=form, headers={"accept": "application/json"}) as response,
    ):
        body = b""
        for chunk in response.iter_bytes(_ANSWER_BYTES):
            body += chunk
            if len(body) > _ANSWER_BYTES:
                break
        return response.status_code, body


def _read(oauth: OAuth, status: int, body: bytes, refresh: str | None, of: str) -> Tokens:
    said = _object(body)
    access: Any = said.get("access_token")
    if status == 200 and isinstance(access, str) and access and access.isprintable() and access.isascii():
        life: Any = said.get("expires_in")
        life_s = float(life) if isinstance(life, int | str) and str(life).isdecimal() else _LIFE_S
        replaced: Any = said.get("refresh_token")
        expires_at = utc_now() + timedelta(seconds=min(life_s, _LONGEST_LIFE_S))
        return Tokens(access, expires_at, replaced if isinstance(replaced, str) and replaced else refresh, of)
    raise _refused(oauth, status, said)


def _object(body: bytes) -> dict[str, Any]:
    try:
        said: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _refused(oauth: OAuth, status: int, said: dict[str, Any]) -> MailError:
    code = str(said.get("error") or "")[:60]
    words = clean_text(" ".join(f"{code} {said.get('error_description') or ''}".split()))[:_SAID_CHARS]
    text = f"{_place(oauth)} gave no token ({status}{f': {words}' if words else ''})."
    if code == "invalid_grant":
        return MailError(Trouble.TOKEN, f"{text} It was revoked or has expired: give a new oauth.refresh_token.")
    if code in _WHO_ERRORS:
        return MailError(Trouble.LOGIN, f"{text} Correct oauth.client_id, client_secret and scope.")
    if status == _THROTTLED:
        return MailError(Trouble.THROTTLED, text)
    if status >= 500:
        return MailError(Trouble.NETWORK, text)
    return MailError(Trouble.LOGIN, f"{text} See whether oauth.token_url is the provider's.")


def _place(oauth: OAuth) -> str:
    parts = urlsplit(oauth.token_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
