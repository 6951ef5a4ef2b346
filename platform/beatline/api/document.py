"""The OpenAPI document, and a page that lists it: plain HTML, because Swagger's page loads its code from the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from beatline.api.problems import MEDIA_TYPE, Problem

_REF: Final = "#/components/schemas/{model}"
_SAID: Final = {
    400: "The address or the body cannot be read.",
    401: "No token, or one that is not known or has expired.",
    404: "Nothing has this name or id.",
    405: "The route does not know this method.",
    408: "The body did not arrive in time.",
    409: "It does not fit how things stand.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is wrong; `errors` names it.",
    503: "Redis or PostgreSQL does not answer.",
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for the document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    return {status: {"description": _SAID[status], "content": content} for status in statuses}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once; the schema of problems is in it."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = Problem.model_json_schema(ref_template=_REF)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(schema.pop("$defs", {}))
        schemas["Problem"] = schema
        app.openapi_schema = made
    return app.openapi_schema


def page(app: FastAPI) -> HTMLResponse:
    """Every route on one page, without a script, a style or an image."""
    document = describe(app)
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    rows = "".join(
        f"<tr><td>{escape(method)}</td><td><code>{escape(path)}</code></td><td>{escape(summary)}</td></tr>"
        for method, path, summary in _operations(document)
    )
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
        "<p>Send <code>Authorization: Bearer …</code>; <code>beatline tokens add NAME</code> makes a token. "
        'Parameters, bodies and answers: <a href="openapi.json">openapi.json</a>, for any OpenAPI viewer of yours.</p>'
        f"<table>{rows}</table></html>"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, str(operation.get("summary", ""))
