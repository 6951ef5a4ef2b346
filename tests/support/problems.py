"""What a test expects of an error of the admin API."""

from __future__ import annotations

from typing import Any

import httpx


def said(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["type"][:13]) == (status, "urn:beatline:")
    assert found["detail"]
    assert "Traceback" not in answer.text
    return found
