"""Errors as problem details (RFC 9457): what is wrong, which field, what to do. No traceback, no secret, no address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from beatline.errors import (
    BeatlineError,
    ConflictError,
    NotFoundError,
    SchemaError,
    SecretError,
    ServiceError,
    SettingsError,
    TransientError,
)
from beatline.outage import server_of

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5
_UNDEFINED: Final = frozenset({"42P01", "3F000"})  # no such table, no such schema
_CANCELLED: Final = "57014"  # by the statement's time-out


class FieldError(BaseModel):
    """One field that is wrong: `where` is body, query or path."""

    field: str
    where: str
    said: str


class Problem(BaseModel):
    """What every error of this API looks like."""

    type: str = Field(description="urn:beatline:… names the kind of problem, for programs.")
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, for people.")
    errors: list[FieldError] | None = Field(default=None, description="Which fields are wrong.")
    checks: dict[str, str] | None = Field(default=None, description="Of /readyz: what each server says.")


_KINDS: Final[Mapping[int, str]] = {
    400: "bad-request", 401: "no-token", 404: "not-found", 405: "wrong-method", 408: "too-slow", 409: "conflict",
    413: "too-large", 415: "not-json", 422: "invalid", 500: "fault", 503: "unavailable",
}  # fmt: skip


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    checks: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer for one problem."""
    told = Problem(
        type=f"urn:beatline:{_KINDS.get(status, 'problem')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=list(errors) or None,
        checks=None if checks is None else dict(checks),
    )
    more = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(told.model_dump(exclude_none=True), status, {**more, **(headers or {})}, media_type=MEDIA_TYPE)


def problem_of(exc: Exception) -> JSONResponse | None:
    """The answer for an error that a caller, or who runs the servers, can mend; None for a fault of ours."""
    match exc:
        case NotFoundError():
            return problem(404, str(exc))
        case ConflictError():
            return problem(409, str(exc))
        case SchemaError():
            return problem(503, schema_words(exc))
        case SecretError() | ServiceError() | SettingsError() | TransientError():
            # Their texts name hosts and files, which the log of this process may hold and an answer may not.
            return problem(
                503, "A server, a key or a setting that this needs is not there: the log of `beatline api` says which."
            )
        case BeatlineError():
            return problem(422, str(exc))
        case _:
            return _of_server(exc)


def schema_words(exc: SchemaError) -> str:
    """What is wrong with the tables, without saying where they are."""
    if exc.state == "newer":
        return "The tables are newer than this Beatline: upgrade the code that serves this API."
    return f"The tables are {exc.state}: run `beatline db upgrade`."


def _of_server(exc: Exception) -> JSONResponse | None:
    code: str | None = getattr(getattr(exc, "orig", None), "pgcode", None)
    if code in _UNDEFINED:
        return problem(503, "The tables are missing or older than this Beatline: run `beatline db upgrade`.")
    if code == _CANCELLED:
        return problem(503, "PostgreSQL took too long over this: ask for less, with since, until or task.")
    server = server_of(exc)
    if server is None:
        return None
    return problem(503, f"{server.name} does not answer as it should. Nothing is lost: try again when it does.")


def install(app: FastAPI) -> None:
    """Let the app answer with problems where it refuses by itself."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)


async def _invalid(_: Request, exc: Exception) -> JSONResponse:
    found = exc.errors() if isinstance(exc, RequestValidationError) else ()
    errors = [_field_error(error) for error in found]
    said = "; ".join(f"{error.field}: {error.said}" if error.field else error.said for error in errors)
    return problem(422, f"{said}.", errors=errors)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    where, *path = (str(step) for step in error["loc"])
    if error["type"] == "json_invalid":
        why = str(error.get("ctx", {}).get("error", "")).rstrip(".")
        return FieldError(field="", where=where, said=f"the body is not JSON: {why} at character {'.'.join(path)}")
    said = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    return FieldError(field=".".join(path), where=where, said=_reworded(error["type"], said))


def _reworded(kind: str, said: str) -> str:
    match kind:
        case "missing":
            return "is needed"
        case "extra_forbidden":
            return "is no field of it"
        case _:
            return said.replace("Input should", "must", 1)


async def _refused(_: Request, exc: Exception) -> JSONResponse:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    headers = exc.headers if isinstance(exc, HTTPException) else None
    match status:
        case 404:
            detail = "There is nothing here: /openapi.json lists every route."
        case 405:
            detail = "This route does not know that method: /openapi.json lists what it knows."
        case 400:
            detail = "The body cannot be read as JSON."
        case _:
            detail = str(exc.detail) if isinstance(exc, HTTPException) else ""
    return problem(status, detail, headers=headers)
