"""What goes along with a request, and what may not come out of it again: the source's own headers and secrets. Pure."""

from __future__ import annotations

from base64 import b64encode
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from beatline.clock import utc_now
from beatline_tasks.collect.source import BasicAuth, BearerAuth, HeaderAuth, Source


def own_headers(source: Source, url: str) -> dict[str, str]:
    """The source's headers for an address; none on another host than the source's, since they may hold keys."""
    return source.headers | auth_headers(source) if _origin(url) == _origin(source.url or "") else {}


def auth_headers(source: Source) -> dict[str, str]:
    """The headers that carry the source's secret."""
    match source.auth:
        case HeaderAuth(name=name, value=value):
            return {name: value.get_secret_value()}
        case BearerAuth(token=token):
            return {"authorization": f"Bearer {token.get_secret_value()}"}
        case BasicAuth(user=user, password=password):
            pair = f"{user}:{password.get_secret_value()}".encode()
            return {"authorization": f"Basic {b64encode(pair).decode()}"}
        case None:
            return {}


def mask_secrets(text: str, source: Source) -> str:
    """The text with the source's secrets taken out, as they are and as they are sent."""
    sent = (value.rpartition(" ")[2] for value in auth_headers(source).values())
    for secret in sorted({*source.secrets(), *sent}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; None if it does not say."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment - utc_now()).total_seconds()) if moment.tzinfo else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
