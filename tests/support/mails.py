"""Messages for tests, as they go over the wire."""

from __future__ import annotations

from collections.abc import Mapping


def mail(
    subject: str = "hello", body: str = "text", headers: Mapping[str, str] | None = None, message_id: str | None = None
) -> bytes:
    """A plain message; with no Message-ID unless one is given."""
    head = {"From": "Ann <ann@example.com>", "To": "box@example.com", "Subject": subject, **(headers or {})}
    if message_id is not None:
        head["Message-ID"] = f"<{message_id}>"
    lines = [f"{name}: {value}" for name, value in head.items()]
    return "\r\n".join([*lines, "", body, ""]).encode()
