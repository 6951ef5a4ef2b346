"""What people ask of a report: does it work (`check`), what would it be (`preview`), what became of it (`deliveries`)?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, cast
from uuid import UUID

from sqlalchemy import Connection

from beatline.artifacts import ArtifactStore
from beatline.clock import utc_now
from beatline.definitions import Definition, Finding, open_spec, store
from beatline.errors import BeatlineError, ServiceError
from beatline.ledger.database import guarded
from beatline_tasks.report import deliveries, issues
from beatline_tasks.report.compose import Source, compose
from beatline_tasks.report.document import facts_of
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.period import Period, period_before, read_moment
from beatline_tasks.report.points import Points
from beatline_tasks.report.query import asked, tried
from beatline_tasks.report.rows import Column, read_rows, write_rows
from beatline_tasks.report.spec import ColumnStyle, Report

if TYPE_CHECKING:
    from beatline.installation import Installation

Out = Annotated[Path, "the folder that gets the files"]
At = Annotated[str | None, "a time with its offset: the period before it, instead of the period before now"]

_ISSUES: Final = 50


def check(installation: Installation, definition: Definition) -> Finding:
    """Try the queries, charts and every place the report goes to, and say in words what is wrong; nothing is sent."""
    try:
        report = open_spec(installation, definition, Report)
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    problems: list[str] = []
    worked: list[str] = []
    with guarded(installation.settings):
        for said, trial in _trials(installation, report):
            try:
                trial()
                worked.append(said)
            except ServiceError:
                raise
            except BeatlineError as exc:
                problems.append(str(exc))
        if problems:
            return Finding(ok=False, text="\n".join(problems), details={"works": ", ".join(worked) or "nothing"})
        text = f"It works: {', '.join(worked)}."
        if not (report.email or report.webhook or report.store):
            text += " It goes nowhere: it has neither email, webhook nor store."
        if report.owner is None:
            text += " Nobody hears of failures: it has no owner."
        if definition.parked is not None:
            with installation.engine.begin() as conn:
                store.unpark(conn, definition, who="check")
            text += " It was parked, and runs again."
    return Finding(ok=True, text=text)


def preview(installation: Installation, definition: Definition, *, out: Out = Path("."), at: At = None) -> Finding:
    """Make the report's files in a folder and send nothing."""
    try:
        report = open_spec(installation, definition, Report)
        period = period_before(read_moment(at) or utc_now(), report.period, report.zone)
        with guarded(installation.settings):
            made, totals = _make(installation, definition.name, report, period, out)
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    figures = Figures(report.locale, report.zone)
    rows = tuple({"file": str(path), "bytes": path.stat().st_size} for path in made)
    counts = ", ".join(f"{name}: {count:,}" for name, count in totals.items())
    return Finding(ok=True, text=f"{report.title}, {figures.period(period, report.period)}. Rows: {counts}.", rows=rows)


def deliveries_of(
    installation: Installation, definition: Definition, *, limit: Annotated[int, "at most so many"] = 100
) -> Finding:
    """Show to whom the report went, for which period, and what became of it."""
    with guarded(installation.settings), installation.engine.connect() as conn:
        latest = issues.of_report(conn, definition.id, _ISSUES)
        found = deliveries.of_report(conn, definition.id, limit)
    columns = ("period_start", "channel", "recipient", "state", "attempts", "changed_at", "provider_id", "error",
               "message_id")  # fmt: skip
    rows = tuple({name: row[name] for name in columns} for row in found)
    if not latest:
        return Finding(ok=True, text=f"{definition.called} has not run yet.")
    last = latest[0]
    reason = f": {last.reason.rstrip('.')}" if last.reason else ""
    text = f"The issue that begins {last.period_start:%Y-%m-%d %H:%M} UTC is {last.state}{reason}."
    return Finding(ok=True, text=text if rows else f"{text} It has no deliveries.", rows=rows)


def files(installation: Installation, definition: Definition, *, out: Out = Path(".")) -> Finding:
    """Write the files of the latest issue that has any into a folder."""
    artifacts = ArtifactStore.of(installation)
    with guarded(installation.settings):
        with installation.engine.connect() as conn:
            latest = next((one for one in issues.of_report(conn, definition.id, _ISSUES) if one.files), None)
        if latest is None:
            return Finding(ok=False, text=f"{definition.called} has no issue with files yet.")
        _folder(out)
        rows: list[dict[str, Any]] = []
        for one in latest.files or ():
            if one["role"] in ("mail", "picture"):
                continue
            with artifacts.open(installation.engine, UUID(one["artifact"])) as content:
                (out / str(one["name"])).write_bytes(content.read())
            rows.append({"file": str(out / str(one["name"])), "bytes": one["size_bytes"]})
    text = f"The issue that begins {latest.period_start:%Y-%m-%d %H:%M} UTC, {latest.state}."
    return Finding(ok=True, text=text, rows=tuple(rows))


def removed(conn: Connection, installation: Installation, definition: Definition) -> None:
    """Take a report's issues and deliveries along; its files go when they expire."""
    issues.remove_of(conn, definition.id)


def _trials(installation: Installation, report: Report) -> Iterator[tuple[str, Callable[[], object]]]:
    period = period_before(utc_now(), report.period, report.zone)
    for name in report.queries:
        yield f"query {name}", partial(_try_query, installation, report, name, period)
    if "pdf" in report.formats:
        from beatline_tasks.report.pdf import check_installed

        yield "pdf", check_installed
    if report.store is not None:
        yield f"store {report.store.connection}", lambda: _try_connection(installation, report.store, "store")
    if report.webhook is not None:
        yield "webhook", lambda: _try_webhook(installation, report)
    if report.email is not None:
        yield f"mail server {report.email.connection}", lambda: _try_connection(installation, report.email, "smtp")
    if report.owner is not None and report.owner.connection is not None:
        yield "the owner's mail server", lambda: _try_connection(installation, report.owner, "smtp")


def _try_query(installation: Installation, report: Report, name: str, period: Period) -> None:
    columns = tried(installation, report, name, period)
    names = [column.name for column in columns]
    for column in report.queries[name].columns:
        if column not in names:
            raise ReportError(
                f"queries.{name}.columns: there is no column {column!r}; the query gives {', '.join(names)}."
            )
    figures = Figures(report.locale, report.zone)
    for key, chart in report.charts.items():
        if report.query_of(chart) == name:
            Points(key, chart, columns, dict[str, ColumnStyle](), figures)


def _try_connection(installation: Installation, place: Any, kind: str) -> None:
    from beatline.connections import actions
    from beatline.connections.open import get_of_type

    found = get_of_type(installation, place.connection, cast("Any", kind))
    finding = actions.check(installation, found.definition)
    if not finding.ok:
        raise ReportError(finding.text)


def _try_webhook(installation: Installation, report: Report) -> None:
    from beatline_tasks.report.webhook import reachable

    if report.webhook is not None:
        answered = reachable(installation, report.webhook)
        if not answered.ok:
            raise ReportError(f"webhook: {answered.words}")


def _make(
    installation: Installation, name: str, report: Report, period: Period, out: Path
) -> tuple[list[Path], dict[str, int]]:
    figures = Figures(report.locale, report.zone)
    facts = facts_of(name, report, period, utc_now(), "preview", figures)
    _folder(out)
    sources: dict[str, Source] = {}
    for query in report.queries:
        # Closed by read_rows, which compose leaves.
        rows = cast("BinaryIO", TemporaryFile())  # noqa: SIM115
        with asked(installation, report, query, period) as answer:
            total = write_rows(rows, answer.columns, answer.rows)
        rows.seek(0)
        sources[query] = Source(_closing(rows), total, answer.cut)
    made, _ = compose(report, facts, figures, sources, out)
    return [file.path for file in made], {query: source.total for query, source in sources.items()}


@contextmanager
def _closing(rows: BinaryIO) -> Generator[tuple[list[Column], Iterator[list[Any]]]]:
    with rows, read_rows(rows) as found:
        yield found


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ReportError(f"The folder {path} cannot be made: {exc.strerror}.") from None
