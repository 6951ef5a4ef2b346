"""Mailboxes out of a CSV file, row by row: what is refused is told with its line, and stops nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from beatline.definitions import Finding, specs, store
from beatline.definitions.fields import Field, Shape, fields_of
from beatline.definitions.raw import put, secret_of
from beatline.errors import BeatlineError, DefinitionError
from beatline.families import kinds
from beatline.ledger.database import guarded
from beatline.names import check_name
from beatline.settings import read_variable
from beatline_tasks.email import scheduling
from beatline_tasks.email.database import transaction
from beatline_tasks.email.scheduling import KIND

if TYPE_CHECKING:
    from beatline.installation import Installation

MAX_ROWS: Final = 10_000
_MAX_BYTES: Final = 16 * 2**20
_WHO: Final = "mailboxes import"
_LIST_SEPARATOR: Final = ";"


def import_file(
    installation: Installation, *, file: Annotated[Path, "CSV with a header: name, host, user, password, …"]
) -> Finding:
    """Add or change a mailbox for each row of a CSV file; the same file again changes nothing.

    Columns are the mailbox's fields (oauth.client_id, timeouts.read_s, …), lists with `;` between; a secret may stand in
    its column, or in `<column>_env` or `<column>_file` as the name of a variable or a file.
    """
    rows = read_rows(file)
    told: list[dict[str, Any]] = []
    seen: set[str] = set()
    counts: dict[str, int] = {"added": 0, "changed": 0, "unchanged": 0, "refused": 0}
    for line, cells in rows:
        name = cells.get("name", "")
        try:
            if name in seen:
                raise DefinitionError(f"name: {name!r} stands in an earlier line too.")
            outcome, why = _import_row(installation, name, cells, file.parent), None
            seen.add(name)
        except BeatlineError as exc:
            outcome, why = "refused", str(exc)
        counts[outcome] += 1
        told.append({"line": line, "name": name, "result": outcome, "why": why})
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    synced = scheduling.sync(installation) if counts["added"] or counts["changed"] else None
    schedules = f" Schedules: {synced.added} added, {synced.changed} changed." if synced else ""
    shown = [row for row in told if row["result"] == "refused"] if len(told) > 20 else told
    return Finding(ok=not counts["refused"], text=f"{said}.{schedules}", details=counts, rows=tuple(shown))


def read_rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows with their line numbers, empty cells left out. Raises DefinitionError if it is no such file."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DefinitionError(f"{file} has more than {_MAX_BYTES:,} bytes: split it.")
        text = file.read_text("utf-8-sig")
    except OSError as exc:
        raise DefinitionError(f"The file {file} cannot be read: {exc.strerror}.") from None
    except UnicodeDecodeError:
        raise DefinitionError(f"{file} is not UTF-8 text: save it as CSV in UTF-8.") from None
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        return _rows(file, csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as exc:
        raise DefinitionError(f"{file} is not CSV: {exc}.") from None


def _rows(file: Path, reader: csv.DictReader[str]) -> list[tuple[int, dict[str, str]]]:
    columns = [column.strip() for column in reader.fieldnames or ()]
    known = {"name", *(name for field in _fields() for name in _columns(field))}
    unknown = [column for column in columns if column not in known]
    if "name" not in columns or unknown:
        wrong = f"has no column {', '.join(map(repr, unknown))}" if unknown else "needs a column 'name'"
        raise DefinitionError(f"{file}: a mailbox {wrong}; columns are {', '.join(sorted(known))}.")
    if len(set(columns)) != len(columns):
        raise DefinitionError(f"{file}: a column stands there twice.")
    reader.fieldnames = columns
    found: list[tuple[int, dict[str, str]]] = []
    for raw in reader:
        row: Mapping[str | None, Any] = raw
        if len(found) >= MAX_ROWS:
            raise DefinitionError(f"{file} has more than {MAX_ROWS:,} rows: split it.")
        cells = {str(name): value for name, value in row.items() if name is not None and value}
        if None in row:
            cells["name"] = f"{cells.get('name', '')} (more cells than columns)"
        # A secret may begin or end with a blank; nothing else does.
        trimmed = {name: value if _is_secret(name) else value.strip() for name, value in cells.items()}
        if any(trimmed.values()):
            found.append((reader.line_num, {name: value for name, value in trimmed.items() if value}))
    return found


def _import_row(installation: Installation, name: str, cells: Mapping[str, str], folder: Path) -> str:
    check_name(KIND, name)
    checked = specs.check(kinds()[KIND], name, _spec(cells, folder))
    with guarded(installation.settings), transaction(installation) as conn:
        current = store.find_by_name(conn, KIND, name)
        if current is None:
            store.add(conn, KIND, name, checked, lambda: installation.keyring, who=_WHO, owner="file")
            return "added"
        if not store.differences(current, checked, lambda: installation.keyring):
            return "unchanged"
        store.update_spec(conn, current, checked, lambda: installation.keyring, who=_WHO, owner="file")
        return "changed"


def _spec(cells: Mapping[str, str], folder: Path) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for field in _fields():
        given = [name for name in _columns(field) if name in cells]
        if len(given) > 1:
            raise DefinitionError(f"{field.dotted}: {' and '.join(given)} both say it; give one.")
        if given:
            put(spec, field.path, _value(field, given[0], cells[given[0]], folder))
    return spec


def _value(field: Field, column: str, cell: str, folder: Path) -> Any:
    if field.shape is Shape.LIST:
        return [part.strip() for part in cell.split(_LIST_SEPARATOR) if part.strip()]
    if field.shape is Shape.SECRET and column != field.dotted:
        return secret_of(field.dotted, column.rpartition("_")[2], cell, read_variable, folder)
    return cell


def _columns(field: Field) -> tuple[str, ...]:
    if field.shape is Shape.SECRET:
        return (field.dotted, f"{field.dotted}_env", f"{field.dotted}_file")
    return (field.dotted,)


def _is_secret(column: str) -> bool:
    return any(column == field.dotted for field in _fields() if field.shape is Shape.SECRET)


def _fields() -> list[Field]:
    return fields_of(kinds()[KIND].load_model())
