"""Nobody comes in without a token that was made, has not expired and was not removed."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import select, text, update

from beatline.api import tokens
from beatline.cli import root
from beatline.clock import utc_now
from beatline.errors import ConflictError, DefinitionError, NameRefusedError
from beatline.installation import Installation
from beatline.ledger.model import audit
from beatline.settings import Settings
from support.problems import said
from support.processes import Spawned, variables_of

TOKEN: Final = re.compile(r"beatline_[0-9a-f]{8}_[\w-]{43}")
SECRET_FROM: Final = len("beatline_01234567_")
NO_TOKENS: Final = (
    None, "", "Bearer", "Bearer  x y", "Basic YTpi", "Bearer garbage", "Bearer beatline_", "Bearer beatline_00000000_x",
    "Bearer " + "x" * 5000, "Bearer beatline_%00_x", "Bearer ' OR 1=1 --",
)  # fmt: skip


def test_a_token_opens_and_its_removal_shuts(client: httpx.Client, installation: Installation) -> None:
    assert client.get("tasks").status_code == 200
    with installation.engine.begin() as conn:
        tokens.remove(conn, "ann", who="test")
    refused = client.get("tasks")
    assert "not known" in said(refused, 401)["detail"]
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="beatline", error="invalid_token"'


def test_what_is_no_token_is_refused(anyone: httpx.Client) -> None:
    for header in NO_TOKENS:
        refused = anyone.get("/admin/celery/workers", headers={} if header is None else {"Authorization": header})
        assert said(refused, 401)["type"] == "urn:beatline:no-token"
        assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="beatline"')


def test_garbage_of_another_alphabet_and_two_headers_are_refused(anyone: httpx.Client, make_token: Any) -> None:
    raw = [(b"Authorization", "Bearer beatline_é_字".encode())]
    said(anyone.get("/admin/celery/tasks", headers=raw), 401)
    good = f"Bearer {make_token()}".encode()
    said(anyone.get("/admin/celery/tasks", headers=[(b"Authorization", good), (b"Authorization", good)]), 401)


def test_every_route_but_the_open_ones_wants_a_token(anyone: httpx.Client) -> None:
    document = anyone.get("/openapi.json").json()
    wanted = [(path, method) for path, methods in document["paths"].items() for method in methods]
    assert len(wanted) > 15
    for path, method in wanted:
        answer = anyone.request(method, re.sub(r"{\w+}", "x", path))
        assert answer.status_code == (200 if path in ("/healthz", "/readyz") else 401), path
    said(anyone.get("/anything/else"), 401)


def test_one_wrong_character_is_enough(anyone: httpx.Client, make_token: Any) -> None:
    text_ = make_token()
    last = "A" if text_[-1] != "A" else "B"
    said(anyone.get("/admin/celery/tasks", headers={"Authorization": f"Bearer {text_[:-1]}{last}"}), 401)
    assert anyone.get("/admin/celery/tasks", headers={"Authorization": f"bearer {text_}"}).status_code == 200


def test_an_expired_token_is_refused_and_named(
    anyone: httpx.Client, make_token: Any, installation: Installation
) -> None:
    text_ = make_token("old")
    with installation.engine.begin() as conn:
        conn.execute(update(tokens.tokens).values(expires_at=utc_now() - timedelta(seconds=1)))
    detail = said(anyone.get("/admin/celery/tasks", headers={"Authorization": f"Bearer {text_}"}), 401)["detail"]
    assert "'old' expired on" in detail
    assert "beatline tokens add" in detail


def test_its_use_is_noted_at_most_once_a_minute(client: httpx.Client, installation: Installation) -> None:
    def noted() -> Any:
        with installation.engine.connect() as conn:
            return conn.execute(select(tokens.tokens.c.last_used_at)).scalar_one()

    assert noted() is None
    client.get("tasks")
    first = noted()
    assert first is not None
    client.get("tasks")
    assert noted() == first
    with installation.engine.begin() as conn:
        conn.execute(update(tokens.tokens).values(last_used_at=first - timedelta(seconds=61)))
    client.get("tasks")
    assert noted() > first


def test_what_is_kept_of_a_token_does_not_open_anything(make_token: Any, installation: Installation) -> None:
    made = make_token()
    with installation.engine.connect() as conn:
        kept = " ".join(str(row) for row in conn.execute(text("SELECT t.*::text FROM beatline.tokens t")))
        told = str(conn.execute(select(audit)).mappings().all())
    secret = made[SECRET_FROM:]
    assert TOKEN.fullmatch(made)
    assert secret not in kept + told
    assert made.encode().hex() not in kept


def test_logs_name_the_token_and_never_show_it(client: httpx.Client, api: Spawned) -> None:
    client.get("tasks", params={"text": "needle-in-the-query"})
    text_ = client.headers["Authorization"].removeprefix("Bearer ")
    api.stop()
    line = next(json.loads(line) for line in api.output().splitlines() if '"path": "/admin/celery/tasks"' in line)
    assert (line["by"], line["status"], line["method"]) == ("ann", 200, "GET")
    assert text_[SECRET_FROM:] not in api.output()
    assert "needle" not in api.output()


def test_names_and_lives_that_make_no_sense_are_refused(installation: Installation) -> None:
    with installation.engine.begin() as conn:
        tokens.add(conn, "ann", who="test")
        with pytest.raises(ConflictError, match="'ann' already"):
            tokens.add(conn, "ann", who="test")
        with pytest.raises(NameRefusedError):
            tokens.add(conn, "a b", who="test")
        for life in (timedelta(0), timedelta(days=-1), timedelta(days=5000)):
            with pytest.raises(DefinitionError, match="up to 3650 days"):
                tokens.add(conn, "bob", who="test", life=life)


def test_the_command_line_shows_a_token_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            root.run(["tokens", *words])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    code, out, err = run("add", "ci", "--expires", "30d")
    assert (code, TOKEN.fullmatch(out.strip()) is not None, "not shown again" in err) == (0, True, True)
    secret = out.strip()[SECRET_FROM:]
    [listed] = json.loads(run("list", "--json")[1])
    assert (listed["name"], listed["state"], listed["last_used_at"]) == ("ci", "valid", None)
    left = datetime.fromisoformat(listed["expires_at"]) - utc_now()
    assert timedelta(days=29) < left <= timedelta(days=30)
    assert secret not in run("list")[1]
    assert run("add", "x", "--expires", "soon")[0] == 1
    assert "Did you mean ci?" in run("remove", "cii", "--yes")[2]
    assert run("remove", "ci", "--yes")[0] == 0
    assert json.loads(run("list", "--json")[1]) == []
