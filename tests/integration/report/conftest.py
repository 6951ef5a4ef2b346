"""What the tests of reports share: a dataset, a mail server, and definitions in this test's own installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.serving import MakeSettings
from support.smtp import SmtpServer, smtp_server

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

Add = Callable[..., "Definition"]


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[SmtpServer]:
    """A plain SMTP server on loopback."""
    with smtp_server(tmp_path) as server:
        yield server


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    """Loopback may be reached, and a dead worker's lease ends soon."""
    return make_settings(allow_private_addresses=True, lease_s=3.0, lease_renew_s=1.0)


@pytest.fixture
def add(installation: Installation) -> Add:
    """Adds a definition as the command line does."""
    from beatline.definitions import specs, store
    from beatline.families import kinds

    def added(kind: str, name: str, **spec: Any) -> Definition:
        checked = specs.check(kinds()[kind], name, spec)
        with installation.engine.begin() as conn:
            return store.add(conn, kind, name, checked, lambda: installation.keyring, who="test")

    return added


@pytest.fixture
def weather(installation: Installation) -> None:
    """The dataset `weather`: ten days of November, as collect would have filled it."""
    from beatline.datasets.table import open_dataset

    columns: dict[str, Any] = {"day": "date", "temp": "number", "rain": "number", "sky": "text"}
    rows = b"".join(
        f"{n}\t2026-11-{n:02}\t{n - 4.5}\t{n * 1.25}\t{'rain' if n % 2 else '=1+1'}\t{{}}\n".encode()
        for n in range(1, 11)
    )
    from io import BytesIO

    with installation.engine.begin() as conn:
        open_dataset(conn, "weather", ("day",), columns).merge(conn, BytesIO(rows), "test")


@pytest.fixture
def report_spec(add: Add, mail: SmtpServer, weather: None) -> dict[str, Any]:
    """A report of the dataset, mailed to two people; change what a test is about."""
    add("connection", "post", url=mail.url, security="plain", sender="reports@example.com")
    return {
        "title": "Weather",
        "time_zone": "Europe/Berlin",
        "period": "month",
        "formats": ["html", "xlsx", "csv"],
        "queries": {
            "days": {
                "sql": "SELECT day, temp, rain, sky FROM weather WHERE day >= CAST(:period_start AS timestamptz) "
                "AND temp > :least ORDER BY day",
            }
        },
        "parameters": {"least": -100},
        "charts": {"temp": {"x": "day", "y": ["temp"]}},
        "email": {"connection": "post", "to": ["ann@example.com", "bob@example.com"]},
        "owner": {"address": "owner@example.com"},
        "retry_wait_s": 0,
    }
