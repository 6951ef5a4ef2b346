"""What people type to look at runs, queues, workers and tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.cli.root import run as run_command_line
from beatline.clock import monotonic_s, utc_now
from beatline.ledger.events import Event
from beatline.ledger.intake import Entry
from beatline.ledger.migrations import KNOWN
from beatline.ledger.states import EventKind
from beatline.ledger.write import write
from support.ledger import accepted, event, tell
from support.processes import variables_of

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.processes import StartWorker
    from support.serving import MakeSettings

Beatline = Callable[..., tuple[int, str, str]]


@pytest.fixture
def beatline(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Beatline:
    """Type a command: its exit code, what it printed, and what it remarked."""
    ours = settings

    def type_(*words: str, settings: Settings | None = None) -> tuple[int, str, str]:
        for name, value in variables_of(settings or ours).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            run_command_line(list(words))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return type_


@pytest.fixture
def history(installation: Installation) -> None:
    now = utc_now().timestamp()
    _write(
        installation,
        accepted("aaaa1111-done", at=now - 9000),
        event(EventKind.STARTED, "aaaa1111-done", at=now - 8990, worker="w@x", fence=1),
        event(EventKind.SUCCEEDED, "aaaa1111-done", at=now - 8988.5, worker="w@x", fence=1, result="'ok'"),
        accepted("bbbb2222-sick", at=now - 60, schedule="nightly", kwargs_shown="{'password': '***'}"),
        event(EventKind.STARTED, "bbbb2222-sick", at=now - 50, worker="w@x", fence=2),
        event(EventKind.FAILED, "bbbb2222-sick", at=now - 49, worker="w@x", fence=2, error="ValueError('\x1b[31mno')",
              traceback="Traceback (most recent call last): …"),
    )  # fmt: skip


def _write(installation: Installation, *events: Event) -> None:
    entries = [Entry(f"{number}-0", one.to_json()) for number, one in enumerate(events)]
    assert write(installation.engine, entries, installation.keyring) == 0


@pytest.mark.usefixtures("history")
def test_runs_are_listed_for_people_and_for_programs(beatline: Beatline) -> None:
    code, out, _ = beatline("runs", "list")
    assert code == 0
    assert out.index("bbbb2222") < out.index("aaaa1111")
    assert "\x1b[31m" not in out
    code, out, _ = beatline("runs", "list", "--state", "failed", "--since", "2h", "--json")
    [run] = json.loads(out)
    assert (run["id"], run["state"], run["schedule"]) == ("bbbb2222-sick", "failed", "nightly")
    assert run["accepted_at"].endswith("Z")
    assert beatline("runs", "list", "--task", "nothing.*") == (0, "", "No run is like that.\n")


@pytest.mark.usefixtures("history")
def test_one_run_is_shown_with_its_attempts_and_what_to_do(beatline: Beatline) -> None:
    code, out, err = beatline("runs", "show", "bbbb")
    assert code == 0
    for expected in ("bbbb2222-sick", "ValueError", "w@x", "'password': '***'", "Traceback (most"):
        assert expected in out
    assert "\x1b" not in out
    assert "beatline runs retry bbbb2222-sick" in err
    _, out, _ = beatline("runs", "show", "aaaa1111", "--json")
    shown = json.loads(out)
    assert (shown["result"], shown["suggestion"]) == ("'ok'", None)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs", "show", "nowhere"), "There is no run 'nowhere'. `beatline runs list` shows the last ones."),
        (("runs", "list", "--state", "sleeping"), "There is no state 'sleeping'. States: accepted, delayed"),
        (("runs", "list", "--since", "yesterday"), "--since 'yesterday' is no time: write 15m"),
    ],
)
def test_a_wrong_word_is_one_sentence(beatline: Beatline, words: tuple[str, ...], said: str) -> None:
    code, out, err = beatline(*words)
    assert (code, out) == (1, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_delayed_runs_are_listed_with_their_time_and_moved(beatline: Beatline, installation: Installation) -> None:
    due = (utc_now() + timedelta(days=2)).astimezone()
    _write(installation, accepted("later-1", queued=None, delayed=True, eta=due.isoformat()), accepted("queued-1"))
    code, out, _ = beatline("runs", "list", "--state", "delayed")
    assert code == 0
    assert "later-1" in out
    assert f"{due:%Y-%m-%d %H:%M:%S}" in out
    assert "beatline runs move later-1" in beatline("runs", "show", "later")[2]

    code, out, _ = beatline("runs", "move", "later", "--in", "90m", "--json")
    moved = json.loads(out)
    assert (code, moved["run_id"]) == (0, "later-1")
    assert abs(datetime.fromisoformat(moved["due"]) - utc_now() - timedelta(minutes=90)) < timedelta(seconds=30)
    assert beatline("runs", "move", "later-1", "--to", "2031-02-03T04:05") == (
        0, "", "Run later-1 is due at 2031-02-03 04:05:00.\n",
    )  # fmt: skip
    [run] = json.loads(beatline("runs", "list", "--state", "delayed", "--json")[1])
    assert datetime.fromisoformat(run["eta"]) == datetime.fromisoformat("2031-02-03T04:05").astimezone()
    for words, said in (
        (("queued-1", "--in", "1h"), "Run queued-1 is queued and not delayed"),
        (("later-1",), "Say when: either --to 2026-11-22T14:00 or --in 90m."),
        (("later-1", "--in", "1h", "--to", "2031-01-01"), "Say when: either"),
        (("later-1", "--in", "-5"), "--in '-5' is no time to come: write"),
        (("later-1", "--in", "soon"), "--in 'soon' is no time to come"),
        (("later-1", "--in", "9999999w"), "--in '9999999w' is no time to come"),
        (("later-1", "--to", "tomorrow"), "--to 'tomorrow' is no date: write"),
        (("nobody", "--in", "1h"), "There is no run 'nobody'."),
    ):
        code, out, err = beatline("runs", "move", *words)
        assert (code, out) == (1, "")
        assert err.startswith(said)


def test_queues_show_what_waits_and_who_serves(
    beatline: Beatline, installation: Installation, worker: StartWorker
) -> None:
    worker("collect", pool="threads", concurrency=2)
    client: Any = installation.redis
    client.lpush(installation.keys.queue("etl"), "x", "y")
    client.lpush(installation.keys.queue("etl\x06\x166"), "z")
    tell(installation, [accepted("r1")])
    asked = monotonic_s()
    code, out, _ = beatline("queues", "--json")
    assert code == 0
    assert monotonic_s() - asked < 5
    told = json.loads(out)
    queues = {line["queue"]: line for line in told["queues"]}
    assert (queues["etl"]["waiting"], queues["etl"]["workers"]) == (3, 0)
    assert (queues["collect"]["waiting"], queues["collect"]["workers"], queues["collect"]["slots"]) == (0, 1, 2)
    assert told["ledger"]["events"] == 1
    assert told["ledger"]["lag_s"] >= 0
    _, out, err = beatline("queues")
    assert "heavy" in out
    assert "Nobody who answers serves etl: start `beatline worker -Q etl`." in err

    code, out, _ = beatline("workers", "--json")
    [shown] = json.loads(out)
    assert (shown["queues"], shown["pool"], shown["slots"], shown["answers"]) == (["collect"], "threads", 2, True)
    assert shown["name"].startswith("worker1@")
    client.delete(installation.keys.queue("etl"), installation.keys.queue("etl\x06\x166"))


def test_no_worker_is_said_with_what_to_start(beatline: Beatline) -> None:
    code, out, err = beatline("workers")
    assert (code, out) == (0, "")
    assert "start one with `beatline worker -Q default`" in err


def test_the_tables_are_upgraded_and_shown(
    beatline: Beatline, make_settings: MakeSettings, empty_database: str
) -> None:
    settings = make_settings(database_url=empty_database)
    code, out, err = beatline("db", "status", settings=settings)
    assert code == 1
    assert "run `beatline db upgrade`" in err
    code, _, err = beatline("db", "upgrade", settings=settings)
    assert code == 0
    assert "applied migration 0001" in err
    code, out, _ = beatline("db", "upgrade", "--json", settings=settings)
    assert json.loads(out) == {"revision": KNOWN[-1], "done": []}
    code, out, _ = beatline("db", "status", "--json", settings=settings)
    assert code == 0
    assert [(t["table"], t["partitions"], t["rows_in_default"]) for t in json.loads(out)["tables"]] == [
        ("occurrences", 4, 0),
        ("runs", 4, 0),
        ("attempts", 4, 0),
    ]


def test_a_newer_schema_is_one_sentence(beatline: Beatline, installation: Installation) -> None:
    with installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.alembic_version SET version_num = '9999'"))
    for words in (("db", "upgrade"), ("db", "status")):
        code, _, err = beatline(*words)
        assert code == 1
        assert "newer than this Beatline" in err
