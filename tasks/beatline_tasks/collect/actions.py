"""What people ask of a source: does it work (`check`), and what would it give (`preview`)?

Both connect for real and read one page; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from beatline.datasets.columns import clean
from beatline.datasets.table import open_dataset
from beatline.definitions import Definition, Finding, open_spec, store
from beatline.errors import BeatlineError, ServiceError
from beatline.ledger.database import guarded
from beatline_tasks.collect.collecting import read_pages
from beatline_tasks.collect.cursor import Progress
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.http import Fetcher
from beatline_tasks.collect.rows import Refusals, RowReader, RowRefusedError, Unreadable
from beatline_tasks.collect.source import Source

if TYPE_CHECKING:
    from beatline.installation import Installation

_ROWS_LOOKED_AT: Final = 10_000
_ROWS_SHOWN: Final = 5


@dataclass(slots=True)
class _Sample:
    """What the first page holds."""

    where: str = ""
    rows: int = 0
    fields: dict[str, None] = field(default_factory=dict[str, None])
    refused: Refusals = field(default_factory=Refusals)
    first: list[object] = field(default_factory=list[object])
    disorder: str | None = None


def check(installation: Installation, definition: Definition) -> Finding:
    """Whether the source can be read into its dataset, in words. One that was parked and works runs again."""
    try:
        source = open_spec(installation, definition, Source)
        sample = _read_one_page(installation, source)
        _try_dataset(installation, source, definition.name)
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    problems = _problems(source, sample)
    details: dict[str, Any] = {"read": sample.where, "rows": sample.rows, "fields": list(sample.fields)}
    if problems:
        return Finding(ok=False, text=" ".join(problems), details=details)
    text = f"It works: {sample.where} has {_count(sample.rows)}."
    if not sample.rows:
        text += " Without rows, whether key and columns fit cannot be told."
    if definition.parked is not None:
        with guarded(installation.settings), installation.engine.begin() as conn:
            store.unpark(conn, definition, who="check")
        text += " It was parked, and runs again."
    return Finding(ok=True, text=text, details=details)


def preview(installation: Installation, definition: Definition) -> Finding:
    """The first rows of the source, as it gives them."""
    try:
        sample = _read_one_page(installation, open_spec(installation, definition, Source))
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    details = {f"row {number}": row for number, row in enumerate(sample.first, 1)}
    return Finding(ok=True, text=f"{sample.where} has {_count(sample.rows)}.", details=details)


def _read_one_page(installation: Installation, source: Source) -> _Sample:
    allow_private = installation.settings.allow_private_addresses
    fetcher = Fetcher(source, {}, allow_private=allow_private) if source.type == "http" else None
    reader = RowReader(source, source.typed)
    progress = None if source.cursor is None else Progress(source.cursor, None)
    with fetcher or nullcontext(), closing(iter(read_pages(installation, source, fetcher, None, {}))) as pages:
        page = next(pages)
        sample = _Sample(page.where)
        for number, raw in enumerate(islice(page.rows, _ROWS_LOOKED_AT), 1):
            sample.rows = number
            if number <= _ROWS_SHOWN:
                sample.first.append(f"({raw.reason})" if isinstance(raw, Unreadable) else clean(raw))
            sample.fields |= dict.fromkeys(_names(raw))
            try:
                row = reader.read(raw)
                if progress is not None and row.position is not None:
                    progress.see(row.position)
            except RowRefusedError as exc:
                sample.refused.add(number, str(exc))
            except SourceError as exc:
                sample.disorder, progress = str(exc), None
    return sample


def _names(raw: object) -> list[str]:
    return [str(name) for name in cast("Mapping[object, object]", raw)] if isinstance(raw, dict) else []


def _try_dataset(installation: Installation, source: Source, name: str) -> None:
    """Open the dataset as a run would, and undo it."""
    with guarded(installation.settings), installation.engine.connect() as conn:
        open_dataset(conn, source.dataset or name, source.key, source.typed)
        conn.rollback()


def _problems(source: Source, sample: _Sample) -> list[str]:
    problems: list[str] = []
    if sample.rows:
        asked = {"key": source.key, "columns": tuple(source.columns)}
        for what, names in asked.items():
            absent = [name for name in names if name not in sample.fields]
            if absent:
                found = ", ".join(sample.fields) or "none"
                problems.append(f"No row has the field {', '.join(absent)} of {what}; the fields are: {found}.")
    if sample.refused.count:
        problems.append(f"Of {_count(sample.rows)}, {sample.refused}.")
    if sample.disorder:
        problems.append(sample.disorder)
    return problems


def _count(rows: int) -> str:
    return "no rows" if not rows else f"{rows:,} row{'' if rows == 1 else 's'}"
