"""The OpenAPI document is complete, and the page of it needs nothing from the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from beatline.api.app import create_api
from beatline.api.context import PREFIX
from beatline.api.document import page
from beatline.errors import SettingsError
from beatline.installation import Installation
from beatline.settings import Settings

ROUTES = {
    ("get", "/workers"), ("get", "/queues"), ("get", "/tasks"), ("get", "/tasks/{task_id}"), ("post", "/tasks/sync"),
    ("post", "/tasks/{task_id}/retry"), ("post", "/tasks/{task_id}/cancel"), ("get", "/schedules"), ("post", "/schedules"),
    ("get", "/schedules/{name}"),
    ("patch", "/schedules/{name}"), ("delete", "/schedules/{name}"), ("post", "/schedules/{name}/pause"),
    ("post", "/schedules/{name}/resume"), ("post", "/schedules/{name}/run-now"), ("get", "/schedules/{name}/next"),
}  # fmt: skip


@pytest.fixture
def api(tmp_path: Path) -> FastAPI:
    database_url = "postgresql://127.0.0.1:1/none"
    return create_api(
        Installation(Settings.load(redis_url="redis://127.0.0.1:1/0", database_url=database_url, home=tmp_path))
    )


def test_every_route_says_what_it_gives_and_how_it_refuses(api: FastAPI) -> None:
    document: dict[str, Any] = api.openapi()
    found = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert found == {(method, PREFIX + path) for method, path in ROUTES} | {("get", "/healthz"), ("get", "/readyz")}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            [given] = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            assert "$ref" in given["content"]["application/json"]["schema"], path
            refused = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            assert {tuple(answer["content"]) for answer in refused.values()} <= {("application/problem+json",)}, path
            if path.startswith(PREFIX):
                assert operation["security"] == [{"token": []}]
                assert {"401", "404", "409", "422", "503"} <= refused.keys()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_every_reference_in_it_leads_somewhere(api: FastAPI) -> None:
    document = api.openapi()
    names = set(re.findall(r"#/components/schemas/([\w-]+)", str(document)))
    assert {"Problem", "FieldError", "Run", "Attempt"} <= names <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_page_lists_every_route_and_loads_nothing(api: FastAPI) -> None:
    text = bytes(page(api).body).decode()
    for _, path in ROUTES:
        assert f"<code>{PREFIX}{path}</code>" in text
    assert not re.search(r"https?://|<script|<link|<img|style", text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_needs_no_leave(tmp_path: Path, host: str) -> None:
    assert Settings.load(services=False, home=tmp_path, api_host=host).api_host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost.example.com"])  # noqa: S104  # refused
def test_beyond_it_there_must_be_leave(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="BEATLINE_API_EXPOSED=true"):
        Settings.load(services=False, home=tmp_path, api_host=host)
    assert Settings.load(services=False, home=tmp_path, api_host=host, api_exposed=True).api_host == host
