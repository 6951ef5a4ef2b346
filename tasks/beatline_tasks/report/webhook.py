"""A word to an address of the user's own, as JSON: guarded, bounded in time, and recognisable when it is repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from beatline.clock import monotonic_s
from beatline.outbound.transport import Deadline, GuardedTransport, words_of
from beatline_tasks.report.spec import Webhook

if TYPE_CHECKING:
    from beatline.installation import Installation

_WHOLE_S: Final = 30.0
_STEP_S: Final = 10.0
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Answered:
    """What the other side said; `passing` if it may take it later. Without a status it said nothing."""

    ok: bool
    passing: bool
    words: str
    status: int | None = None


def call(installation: Installation, webhook: Webhook, said: Mapping[str, Any], *, key: str) -> Answered:
    """POST what is said. A repetition carries the same Idempotency-Key, so that the other side can drop it.

    Raises AddressRefusedError for a private address that is not allowed.
    """
    body = json.dumps(said, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "user-agent": "beatline", "idempotency-key": key}
    if webhook.secret is not None:
        headers[webhook.header] = webhook.secret.get_secret_value()
    return _request(installation, webhook, "POST", headers, body)


def reachable(installation: Installation, webhook: Webhook) -> Answered:
    """Whether a server answers at the address, whatever it says: it is not given anything."""
    answered = _request(installation, webhook, "HEAD", {"user-agent": "beatline"}, None)
    return replace(answered, ok=answered.status is not None)


def _request(
    installation: Installation, webhook: Webhook, method: str, headers: Mapping[str, str], body: bytes | None
) -> Answered:
    deadline = Deadline()
    deadline.set(monotonic_s() + _WHOLE_S)
    transport = GuardedTransport(deadline, allow_private=installation.settings.allow_private_addresses)
    where = urlsplit(webhook.url).hostname or ""  # the path is often the secret of such an address
    try:
        with (
            httpx.Client(transport=transport, timeout=_STEP_S, trust_env=False, follow_redirects=False) as client,
            client.stream(method, webhook.url, headers=dict(headers), content=body) as response,
        ):
            start = next(response.iter_bytes(_SHOWN_CHARS), b"")[:_SHOWN_CHARS]
    except httpx.InvalidURL:
        return Answered(ok=False, passing=False, words=f"{where} is no address of http or https.")
    except httpx.HTTPError as exc:
        return Answered(ok=False, passing=True, words=f"{where} cannot be reached: {words_of(exc)}.")
    text = _plain(start, webhook)
    words = f"{response.status_code} {response.reason_phrase}{f': {text}' if text else ''}"
    return Answered(response.is_success, response.status_code in _PASSING, words, response.status_code)


def _plain(start: bytes, webhook: Webhook) -> str:
    text = " ".join(start.decode("utf-8", "replace").split())
    secret = webhook.secret.get_secret_value() if webhook.secret else ""
    return text.replace(secret, "***") if secret else text
