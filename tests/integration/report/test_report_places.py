"""Where a report goes beside plain mail: a store, a webhook, a mail server that wants TLS and a login."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from beatline.errors import TransientError
from beatline.installation import Installation
from beatline_tasks.report.cleaning import clean_up
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.sending import send
from beatline_tasks.report.spec import Webhook
from beatline_tasks.report.webhook import call
from support.reporting import attachments, states, step, through
from support.s3 import KEY_ID, SECRET, serve_s3
from support.smtp import SmtpServer, smtp_server
from support.web import Reply, Web, serve

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from support.serving import MakeSettings

AddDefinition = Callable[..., "Definition"]


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on loopback."""
    with serve() as web:
        web.answer = lambda _: Reply(b"thanks")
        yield web


def test_a_webhook_is_told_with_its_secret_and_a_key(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], web: Web
) -> None:
    hook = {"url": f"{web.url}/hook/hush", "secret": "s3cret"}
    issue = through(
        installation, add("report", "weather", **{**report_spec, "email": None, "owner": None, "webhook": hook})
    )
    step(installation, issue, "rendered", send)
    [asked] = web.asked
    assert (asked.method, asked.path, asked.headers["x-beatline-secret"]) == ("POST", "/hook/hush", "s3cret")
    said = json.loads(asked.body)
    assert said["rows"] == {"days": 10}
    assert [file["name"] for file in said["files"]] == [
        "weather-2026-11-01.html", "weather-2026-11-01.xlsx", "weather-2026-11-01.csv",
    ]  # fmt: skip
    assert "Day: Nov 1, 2026" in said["text"]
    assert states(installation, issue) == {"127.0.0.1": "sent"}  # the path may be a secret


def test_a_webhook_that_is_in_trouble_is_told_again_under_the_same_key(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], web: Web, mail: SmtpServer
) -> None:
    web.answer = lambda _: Reply(b"busy", status=503)
    issue = through(installation, add("report", "weather", **{**report_spec, "webhook": {"url": web.url}}))
    with pytest.raises(TransientError, match="503 Service Unavailable: busy"):
        step(installation, issue, "rendered", send)
    assert len(mail.got) == 2  # the webhook holds up no mail
    web.answer = lambda _: Reply(b"")
    step(installation, issue, "rendered", send)
    assert len({asked.headers["idempotency-key"] for asked in web.asked}) == 1
    assert len(mail.got) == 2


def test_a_webhook_that_refuses_is_not_told_again_and_its_answer_shows_no_secret(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], web: Web
) -> None:
    web.answer = lambda asked: Reply(f"bad {asked.headers['x-key']}".encode(), status=403)
    hook = {"url": web.url, "header": "X-Key", "secret": "hunter2"}
    issue = through(installation, add("report", "weather", **{**report_spec, "webhook": hook}))
    with pytest.raises(ReportError, match=r"refused: 403 Forbidden: bad \*\*\*"):
        step(installation, issue, "rendered", send)


def test_a_private_address_is_refused_where_that_is_not_allowed(make_settings: MakeSettings, web: Web) -> None:
    from beatline.errors import AddressRefusedError

    closed = Installation(make_settings(allow_private_addresses=False))
    with pytest.raises(AddressRefusedError):
        call(closed, Webhook(url=web.url, secret=SecretStr("x")), {}, key="k")
    assert web.asked == []


def test_files_go_into_a_folder_and_the_mail_says_where(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    add("connection", "shelf", url=f"file://{shelf}")
    spec = report_spec | {
        "title": "A/../../B",
        "store": {"connection": "shelf", "path": "../{title}/{date}/{file}"},
        "email": {"connection": "post", "to": ["ann@example.com"], "max_attachment_bytes": 2000},
    }
    issue = through(installation, add("report", "weather", **spec))
    step(installation, issue, "rendered", send)
    found = sorted(str(path.relative_to(shelf)) for path in shelf.rglob("*") if path.is_file())
    assert found == [f"A_.._.._B/2026-11-01/weather-2026-11-01.{kind}" for kind in ("csv", "html", "xlsx")]
    [got] = mail.got
    assert list(attachments(got.message)) == ["weather-2026-11-01.csv"]
    body = got.message.get_body(("plain",))
    assert body is not None
    assert f"weather-2026-11-01.xlsx: file://{shelf}/A_.._.._B/2026-11-01/weather-2026-11-01.xlsx" in body.get_content()


def test_files_go_into_a_bucket_with_links_that_expire(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Path
) -> None:
    with serve_s3(tmp_path / "s3") as s3:
        add("connection", "bucket", url=f"s3://{s3.bucket}/reports", endpoint=s3.endpoint, access_key_id=KEY_ID,
            secret_access_key=SECRET)  # fmt: skip
        spec = report_spec | {"store": {"connection": "bucket"}}
        issue = through(installation, add("report", "weather", **spec))
        step(installation, issue, "rendered", send)
        found = s3.keys()
    assert "reports/weather/2026-11-01/weather-2026-11-01.xlsx" in found
    body = mail.got[0].message.get_body(("plain",))
    assert body is not None
    assert "X-Amz-Expires=604800" in body.get_content().replace("=\n", "")
    assert SECRET not in body.get_content()


def test_a_store_that_is_gone_holds_up_no_mail(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Path
) -> None:
    add("connection", "shelf", url=f"file://{tmp_path}/nowhere")
    issue = through(installation, add("report", "weather", **{**report_spec, "store": {"connection": "shelf"}}))
    with pytest.raises(ReportError, match=r"shelf: refused: .*there is no folder"):
        step(installation, issue, "rendered", send)
    assert states(installation, issue) == {"shelf": "refused", "ann@example.com": "sent", "bob@example.com": "sent"}
    assert "there is no folder" in str(clean_up(installation, str(issue.id)) and mail.got[-1].message.get_content())


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_goes_encrypted_and_logged_in(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, security: Any,
) -> None:  # fmt: skip
    folder = tmp_path / "secure"
    folder.mkdir()
    with smtp_server(folder, security=security, login=True) as server:
        assert server.certificate is not None
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate.file))
        add("connection", "secure", url=server.url, security=security, user=server.user, password=server.password,
            sender="reports@example.com")  # fmt: skip
        spec = report_spec | {"email": {"connection": "secure", "to": ["ann@example.com"]}}
        issue = through(installation, add("report", "weather", **spec))
        step(installation, issue, "rendered", send)
    [got] = server.got
    assert (got.user, got.encrypted, got.sender) == (server.user, True, "reports@example.com")
