"""What a schedule is: its spec, checked field by field where it enters, and the row that keeps it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self, cast
from uuid import UUID

from cronsim import CronSim, CronSimError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from beatline.errors import DefinitionError, NameRefusedError
from beatline.names import check_name, check_queue, check_task
from beatline.schedules.zones import check_zone, is_zone, read_duration_s, read_time

ARGS_LIMIT_BYTES: Final = 64 * 1024
"""Of args and kwargs together, as JSON: a schedule passes the id of its data, not the data."""

EVERY_MIN_S: Final = 0.1
EVERY_MAX_S: Final = 10 * 366 * 86_400.0

Owner = Literal["operator", "file", "code", "beatline", "redbeat"]

_CRON_FIELDS: Final = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
_CRON_ALLOWED: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L or LW",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, 5L, MON#1",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _InZone(_Part):
    tz: str = "UTC"

    @field_validator("tz")
    @classmethod
    def _zone(cls, value: str) -> str:
        return check_zone(value)


class Cron(_InZone):
    """The times that a cron expression of 5 or 6 fields (seconds first) names, in its zone."""

    type: Literal["cron"] = "cron"
    expr: str

    @field_validator("expr")
    @classmethod
    def _expr(cls, value: str) -> str:
        return check_cron(value)


class Interval(_InZone):
    """start, start + every, start + 2 · every …: anchored, so that lateness never adds up.

    A schedule written without `start` is anchored at the moment it is added, and first fires one interval later.
    """

    type: Literal["interval"] = "interval"
    every_s: float
    start: datetime | None = None

    @field_validator("every_s", mode="before")
    @classmethod
    def _every(cls, value: Any) -> float:
        if not isinstance(value, str | int | float):
            raise ValueError("a duration is a number of seconds or text like 5m")  # noqa: TRY004  # pydantic reads ValueError
        seconds = read_duration_s(value)
        if not math.isfinite(seconds) or not EVERY_MIN_S <= seconds <= EVERY_MAX_S:
            raise ValueError(f"an interval is between {EVERY_MIN_S:g} s and ten years, not {seconds:g} s")
        return round(seconds, 6)

    @model_validator(mode="before")
    @classmethod
    def _local(cls, raw: Any) -> Any:
        return _read_local(raw, "start")

    @property
    def every(self) -> timedelta:
        """The period."""
        return timedelta(microseconds=round(self.every_s * 1_000_000))


class Date(_InZone):
    """One moment, once."""

    type: Literal["date"] = "date"
    at: datetime

    @model_validator(mode="before")
    @classmethod
    def _local(cls, raw: Any) -> Any:
        return _read_local(raw, "at")


def _read_local(raw: Any, field: str) -> Any:
    """The raw trigger with its date in UTC: a naive one is local time in the trigger's own zone."""
    if not isinstance(raw, dict):
        return raw
    found = cast("dict[str, Any]", raw)
    moment, tz = found.get(field), found.get("tz", "UTC")
    if moment is None or not isinstance(tz, str) or not is_zone(tz):
        return found  # the zone's own field says so
    try:
        if not isinstance(moment, str | datetime):
            raise ValueError("a date is text in ISO 8601, such as 2027-01-31T09:00")  # noqa: TRY004  # pydantic reads ValueError
        return {**found, field: read_time(moment, tz)}
    except ValueError as exc:
        error: InitErrorDetails = {
            "type": "value_error",
            "loc": (field,),
            "input": moment,
            "ctx": {"error": exc},
        }
        raise ValidationError.from_exception_data("date", [error]) from None


Trigger = Annotated[Cron | Interval | Date, Field(discriminator="type")]


def check_cron(expr: str) -> str:
    """A cron expression, its white space made single. Raises ValueError that names the field that is wrong."""
    parts = expr.split()
    if len(parts) not in (5, 6):
        raise ValueError(f"{expr[:80]!r} has {len(parts)} fields; cron has 5, or 6 with seconds first")
    try:
        CronSim(" ".join(parts), datetime(2000, 1, 1))  # noqa: DTZ001  # only parsed
    except CronSimError as exc:
        raise ValueError(_bad_cron(expr, parts, str(exc).removeprefix("Bad "))) from None
    except (ValueError, TypeError, AssertionError, IndexError):
        raise ValueError(f"{expr[:80]!r} is not a cron expression") from None
    return " ".join(parts)


def _bad_cron(expr: str, parts: list[str], field: str) -> str:
    if field not in _CRON_FIELDS:
        return f"{expr[:80]!r} is not a cron expression: {field}"
    part = parts[_CRON_FIELDS.index(field) - 6 + len(parts)]
    if field == "day-of-month" and re.fullmatch(r"(30|31)(,31)?", part):
        return f"{expr[:80]!r} never comes: no month {parts[-2]} has a day {part}"
    return f"bad {field} {part[:40]!r} in {expr[:80]!r}; it takes {_CRON_ALLOWED[field]}"


def _check_json(value: Any, where: str, depth: int = 0) -> None:
    if depth > 64:
        raise ValueError(f"{where[:80]} is nested deeper than 64 levels")
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError(f"{where} holds a NUL character, which PostgreSQL cannot store")
        if any(0xD800 <= ord(char) < 0xE000 for char in value):
            raise ValueError(f"{where} holds half a surrogate pair, which is no text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold")
    elif isinstance(value, dict):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}; keys are text")  # noqa: TRY004  # pydantic reads ValueError
            _check_json(key, f"a key of {where}", depth + 1)
            _check_json(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("list[Any]", value)):
            _check_json(item, f"{where}[{index}]", depth + 1)
    elif value is not None and not isinstance(value, bool | int):
        raise ValueError(f"{where} is a {type(value).__name__}, which JSON cannot hold; pass text or a number")


def _json_list(value: Any) -> Any:
    _check_json(value, "args")
    if not isinstance(value, list | tuple):
        raise ValueError('args is a JSON list, such as ["weather"]')  # noqa: TRY004  # pydantic reads ValueError
    return cast("list[Any]", value)


def _json_object(value: Any) -> Any:
    _check_json(value, "kwargs")
    if not isinstance(value, dict):
        raise ValueError('kwargs is a JSON object, such as {"full": true}')  # noqa: TRY004  # pydantic reads ValueError
    return cast("dict[str, Any]", value)


class ScheduleSpec(_Part):
    """What a person or a file says of a schedule. Read one with read_spec, which explains what is wrong."""

    name: str
    task: str
    args: Annotated[tuple[Any, ...], BeforeValidator(_json_list)] = ()
    kwargs: Annotated[dict[str, Any], BeforeValidator(_json_object)] = Field(default_factory=dict[str, Any])
    queue: str | None = None
    priority: int | None = Field(default=None, ge=0, le=9)
    trigger: Trigger

    @field_validator("name", "task", "queue")
    @classmethod
    def _names(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        try:
            if info.field_name == "name":
                return check_name("schedule", value)
            return check_task(value) if info.field_name == "task" else check_queue(value)
        except NameRefusedError as exc:
            raise ValueError(str(exc)) from None

    @model_validator(mode="after")
    def _size(self) -> Self:
        size_bytes = len(json.dumps([self.args, self.kwargs], separators=(",", ":")).encode())
        if size_bytes > ARGS_LIMIT_BYTES:
            raise ValueError(
                f"args and kwargs have {size_bytes:,} bytes as JSON and {ARGS_LIMIT_BYTES:,} are accepted: "
                "store the data and pass its id"
            )
        return self

    @property
    def stored_trigger(self) -> dict[str, Any]:
        """The trigger as it stands in the data base: JSON, times in UTC."""
        return self.trigger.model_dump(mode="json", exclude_none=True)


def read_spec(name: str, raw: Mapping[str, Any]) -> ScheduleSpec:
    """The spec of what a person wrote. Raises DefinitionError that names the schedule and every wrong field.

    The trigger is `trigger = {type = "cron", …}` or, flat, one of `cron`, `every` and `at`, with `tz` and `start`.
    """
    try:
        return ScheduleSpec.model_validate({**_unfold(raw), "name": name})
    except ValidationError as exc:
        said = explain(exc)
    except ValueError as exc:
        said = str(exc)
    raise DefinitionError(f"Schedule {name[:80]!r}: {said}{'' if said.endswith('?') else '.'}")


def _unfold(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The raw spec with its flat trigger fields folded into `trigger`."""
    rest = {key: value for key, value in raw.items() if value is not None}
    kinds = {"cron": ("cron", "expr"), "every": ("interval", "every_s"), "at": ("date", "at")}
    given = [key for key in kinds if key in rest]
    if "trigger" in rest:
        if given:
            raise ValueError(f"trigger and {given[0]} both say when it runs; give one")
        return rest
    if len(given) != 1:
        raise ValueError(f"it runs when? give one of cron, every and at, not {' and '.join(given) or 'none'}")
    kind, field = kinds[given[0]]
    trigger = {"type": kind, field: rest.pop(given[0])}
    trigger |= {key: rest.pop(key) for key in ("tz", "start") if key in rest}
    return {**rest, "trigger": trigger}


_SHOWN: Final = {"expr": "cron", "every_s": "every"}


def explain(exc: ValidationError) -> str:
    """Every error of a pydantic model in one sentence, each after its field's name as people write it."""
    said: list[str] = []
    for error in exc.errors(include_url=False, include_context=False, include_input=False):
        path = [str(step) for step in error["loc"] if step not in ("trigger", "cron", "interval", "date")]
        text = error["msg"].removeprefix("Value error, ").rstrip(".")
        if error["type"] == "union_tag_invalid":
            text = "a trigger's type is cron, interval or date"
        field = ".".join(_SHOWN.get(step, step) for step in path)
        said.append(f"{field}: {text}" if field and not text.startswith(field) else text)
    return "; ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A row of the table `schedules`. What it holds is as stored: `spec()` checks it again, since zones can vanish."""

    id: UUID
    name: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str | None
    priority: int | None
    trigger: dict[str, Any]
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    decided_until: datetime
    quarantined: str | None
    owner: Owner
    version: int
    revision: int
    removed_at: datetime | None
    created_at: datetime
    updated_at: datetime

    def spec(self) -> ScheduleSpec:
        """The spec of the row. Raises DefinitionError if it no longer makes sense on this machine."""
        return read_spec(
            self.name,
            {
                "task": self.task,
                "args": self.args,
                "kwargs": self.kwargs,
                "queue": self.queue,
                "priority": self.priority,
                "trigger": self.trigger,
            },
        )

    @property
    def live(self) -> bool:
        """Whether its slots are decided at all: not paused, not quarantined, not removed."""
        return self.paused_at is None and self.quarantined is None and self.removed_at is None


def anchored(spec: ScheduleSpec, now: datetime, previous: Mapping[str, Any] | None = None) -> ScheduleSpec:
    """The spec with its interval's start filled in: the start it had, if it is the same interval, else now."""
    trigger = spec.trigger
    if not isinstance(trigger, Interval) or trigger.start is not None:
        return spec
    same = previous is not None and previous.get("type") == "interval" and previous.get("every_s") == trigger.every_s
    start = previous["start"] if same and previous is not None else now
    return spec.model_copy(update={"trigger": Interval(every_s=trigger.every_s, start=start, tz=trigger.tz)})
