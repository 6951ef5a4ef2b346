"""What people read of an error of the network."""

from __future__ import annotations

import httpcore
import httpx
import pytest

from beatline.outbound.transport import words_of


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), "Connection refused"),
        (OSError("[Errno -2] Name or service not known."), "Name or service not known"),
        (httpcore.ReadTimeout(), "ReadTimeout"),
        (httpx.ReadError("the peer closed"), "the peer closed"),
    ],
)
def test_it_is_words_without_a_number(exc: Exception, words: str) -> None:
    assert words_of(exc) == words
