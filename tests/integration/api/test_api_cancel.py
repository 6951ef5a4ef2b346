"""A run is cancelled over HTTP: 202, or 409 with how it has ended."""

from __future__ import annotations

import httpx

from beatline.installation import Installation
from beatline.ledger.intake import Entry
from beatline.ledger.write import write
from support.ledger import accepted, run_row


def test_a_run_that_waits_is_cancelled_by_the_token(installation: Installation, client: httpx.Client) -> None:
    write(installation.engine, [Entry("1-0", accepted("aaaa1111-waits").to_json())], installation.keyring)
    refused = client.post("tasks/aaaa1111-waits/cancel", json={"reason": "no", "harder": True})
    assert (refused.status_code, "harder" in refused.text) == (422, True)
    answer = client.post("tasks/aaaa/cancel", json={"reason": "typed wrong"})
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"run_id": "aaaa1111-waits", "how": "ended", "worker": None}
    with installation.engine.connect() as conn:
        row = run_row(conn, "aaaa1111-waits")
    assert (row["state"], row["reason"]) == ("cancelled", "cancelled by token:ann: typed wrong")
    again = client.post("tasks/aaaa1111-waits/cancel")
    assert again.status_code == 409
    assert "it was cancelled at" in again.json()["detail"]
    assert client.post("tasks/nobody/cancel").status_code == 404
