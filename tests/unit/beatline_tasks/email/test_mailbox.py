"""What a mailbox may say of itself, and what is told of it that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from beatline.definitions import specs
from beatline.errors import DefinitionError
from beatline.families import kinds

GOOD: dict[str, Any] = {"host": "imap.example.com", "user": "u", "password": "hunter2"}
OAUTH = {"token_url": "https://login.example.com/token", "client_id": "c", "refresh_token": "hunter2"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": None}, "host: must be a valid string"),
        ({"port": 0}, "port: must be greater"),
        ({"security": "ssl"}, "security: must be 'tls', 'starttls' or 'plain'"),
        ({"password": None}, "password: give it or oauth"),
        ({"oauth": OAUTH}, "password: give it or oauth"),
        ({"password": "hunter2\r\nA LOGOUT"}, "password: must be text on one line"),
        ({"user": "a\r\nb"}, "user: must be text on one line"),
        ({"folders": []}, "folders"),
        ({"folders": ["inbox", "INBOX"]}, "folders: names a folder twice"),
        ({"folders": ["a\nb"]}, "must be text on one line"),
        ({"on_message": "no task"}, "on_message"),
        ({"first_sync": "since"}, "since_days goes with"),
        ({"since_days": 3}, "since_days goes with"),
        ({"keep_raw": "sometimes"}, "keep_raw"),
        ({"timeouts": {"run_s": 1000}}, "timeouts.run_s"),
        ({"interval": 60}, "interval: is no field of it"),
        ({"password": None, "oauth": {**OAUTH, "token_url": "ftp://x"}}, "oauth.token_url: must be an address"),
        ({"password": None, "oauth": {**OAUTH, "refresh_token": None}}, "oauth: needs refresh_token"),
    ],
)
def test_what_is_wrong_is_named_without_a_secret(change: dict[str, Any], words: str) -> None:
    raw = {name: value for name, value in (GOOD | change).items() if value is not None or name == "host"}
    with pytest.raises(DefinitionError) as caught:
        specs.check(kinds()["mailbox"], "box", raw)
    assert words in str(caught.value)
    assert str(caught.value).startswith("Mailbox 'box': ")
    assert "hunter2" not in str(caught.value)


def test_secrets_are_split_off_and_ports_are_known() -> None:
    from beatline_tasks.email.mailbox import Mailbox

    checked = specs.check(kinds()["mailbox"], "box", {**GOOD, "password": None, "oauth": OAUTH})
    assert checked.plain["oauth"]["refresh_token"] == "***"
    assert "hunter2" not in repr(checked)
    assert [Mailbox(**GOOD, security=kind).effective_port for kind in ("tls", "starttls", "plain")] == [993, 143, 143]
