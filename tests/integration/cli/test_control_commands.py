"""Cancelling, pausing and draining on the command line and over HTTP: what is said, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from beatline.cli.root import run as run_command_line
from beatline.installation import Installation
from beatline.ledger.intake import Entry
from beatline.ledger.states import EventKind
from beatline.ledger.write import write
from beatline.settings import Settings
from support.ledger import accepted, event, run_row
from support.processes import variables_of

Beatline = Callable[..., tuple[int, str, str]]


@pytest.fixture
def beatline(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Beatline:
    """Type a command: its exit code, what it printed, and what it remarked."""
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)

    def type_(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_command_line(list(words))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return type_


def told(installation: Installation, *events: Any) -> None:
    entries = [Entry(f"{number}-0", one.to_json()) for number, one in enumerate(events)]
    assert write(installation.engine, entries, installation.keyring) == 0


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # of redis-py, by Celery
def test_a_run_is_cancelled_once_and_what_has_ended_says_how(installation: Installation, beatline: Beatline) -> None:
    told(
        installation,
        accepted("aaaa1111-waits"),
        accepted("bbbb2222-done"),
        event(EventKind.SUCCEEDED, "bbbb2222-done", fence=1, worker="w"),
    )
    code, _, err = beatline("runs", "cancel", "bbbb")
    assert code == 1
    assert "Run bbbb2222-done has ended: it has succeeded at " in err
    code, out, _ = beatline("runs", "cancel", "aaaa", "--reason", "a typing error", "--json")
    assert (code, json.loads(out)) == (0, {"run_id": "aaaa1111-waits", "how": "ended", "worker": None})
    code, _, err = beatline("runs", "cancel", "aaaa1111-waits")
    assert code == 1
    assert "it was cancelled at " in err
    assert ": a typing error)" in err
    code, _, err = beatline("runs", "cancel", "cccc3333")
    assert (code, "There is no run 'cccc3333'" in err) == (1, True)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # of redis-py, by Celery
def test_a_delayed_run_and_one_that_is_only_accepted_end_too(installation: Installation, beatline: Beatline) -> None:
    told(
        installation,
        accepted("accepted-only", queued=None),
        accepted("waits-for-its-time", queued=None, delayed=True, eta="2030-01-01T00:00:00+00:00"),
    )
    for run_id, before in (("accepted-only", "accepted"), ("waits-for-its-time", "delayed")):
        with installation.engine.connect() as conn:
            assert run_row(conn, run_id)["state"] == before
        assert beatline("runs", "cancel", run_id)[0] == 0
        with installation.engine.connect() as conn:
            assert run_row(conn, run_id)["state"] == "cancelled"


def test_a_queue_is_paused_shown_and_resumed(beatline: Beatline) -> None:
    code, _, err = beatline("queues", "pause", "emails")
    assert (code, "Queues: collect, default, email" in err) == (1, True)
    code, out, _ = beatline("queues", "pause", "email", "--reason", "the server moves", "--json")
    assert (code, json.loads(out)) == (0, {"queue": "email", "paused": True, "told": True})
    code, _, err = beatline("queues", "pause", "email")
    assert code == 1
    assert ": the server moves. `beatline queues resume email` ends that." in err
    code, out, err = beatline("queues")
    assert (code, "PAUSED SINCE" in out) == (0, True)
    assert "email is paused by " in err
    _, out, _ = beatline("queues", "--json")
    [line] = [one for one in json.loads(out)["queues"] if one["queue"] == "email"]
    assert (line["pause_reason"], line["paused_since"][-1]) == ("the server moves", "Z")
    code, _, err = beatline("queues", "resume", "email")
    assert (code, "take from it again" in err) == (0, True)
    assert beatline("queues", "resume", "email")[0] == 1
    assert "PAUSED SINCE" not in beatline("queues")[1]


def test_a_worker_that_is_not_there_cannot_be_drained(beatline: Beatline) -> None:
    assert beatline("workers", "drain", "w1") == (1, "", "There is no worker 'w1'. No worker answers.\n")
    assert "Name a worker" in beatline("workers", "drain")[2]
    assert "There is no worker of the queue 'email'" in beatline("workers", "drain", "--all-of", "email")[2]
    assert beatline("workers")[0] == 0
