"""One run of a source: its pages into its dataset, and the cursor with them.

What is committed together. Rows and the cursor that says they are read go into one transaction. Where the source
promises its order (`cursor.ordered`), that is done page by page: every row up to the cursor is in, so a run that is
killed goes on from there. Without that promise a later page may hold an earlier row, and a cursor committed in between
would hide it for ever: so rows wait on disk until the last page is read, and all of them go in at once. No transaction
is open while a source is being read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from beatline.datasets.table import Counts, Dataset, open_dataset
from beatline.definitions import Definition, store
from beatline.definitions.lock import BUSY, DefinitionLock, definition_lock
from beatline.definitions.opening import open_definition
from beatline.ledger.database import guarded
from beatline.logs import get_logger
from beatline_tasks.collect import cursor
from beatline_tasks.collect.batch import Batch
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.file import FilePages
from beatline_tasks.collect.http import Fetcher
from beatline_tasks.collect.pages import HttpPages, Page, Pages, TooManyPagesError, Validators
from beatline_tasks.collect.rows import Refusals, RowReader, RowRefusedError
from beatline_tasks.collect.source import Source
from beatline_tasks.collect.sql import SqlPages

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.task.context import RunContext

KIND: Final = "source"
_ROWS_AT_ONCE: Final = 20_000
"""An ordered source of one large page is committed in between."""


@dataclass(slots=True)
class Tally:
    """What a run read and what became of it. `known` rows lay before the cursor."""

    pages: int = 0
    rows: int = 0
    known: int = 0
    stored: Counts = field(default_factory=Counts)
    refused: Refusals = field(default_factory=Refusals)
    not_modified: bool = False
    more: bool = False

    def result(self) -> dict[str, Any]:
        """The run's result: the counts, and what else there is to say."""
        said: dict[str, Any] = {"pages": self.pages, "rows": self.rows}
        said |= {"new": self.stored.new, "changed": self.stored.changed, "refused": self.refused.count}
        if self.known:
            said["known"] = self.known
        if self.refused.reasons:
            said["reasons"] = list(self.refused.reasons)
        if self.not_modified:
            said["not_modified"] = True
        if self.more:
            said["more"] = True
        return said


def collect(installation: Installation, source_id: str, run: RunContext) -> dict[str, Any] | Literal["busy"]:
    """Read what is new of a source into its dataset; `busy` if another run does so. Running twice adds nothing.

    Raises SourceError for what a person must mend, TransientError or ServiceError for what may pass.
    """
    with guarded(installation.settings):
        definition, source = open_source(installation, source_id)
        with definition_lock(installation.engine, definition, run) as lock:
            if lock is None:
                return BUSY
            return _Run(installation, definition, source, run, lock).execute()


def open_source(installation: Installation, name_or_id: object) -> tuple[Definition, Source]:
    """The source of this name or id, secrets in place; raises as `open_definition` does."""
    return open_definition(installation, KIND, name_or_id, Source, error=SourceError)


def read_pages(
    installation: Installation,
    source: Source,
    fetcher: Fetcher | None,
    start: cursor.Position | None,
    known: Validators,
) -> Pages:
    """The pages of a source from a position on; a source of type http needs a fetcher."""
    if source.type == "sql":
        return SqlPages(source, installation, start)
    if fetcher is None:
        return FilePages(source, known)
    return HttpPages(source, fetcher, start, known)


class _Run:
    def __init__(
        self, installation: Installation, definition: Definition, source: Source, run: RunContext, lock: DefinitionLock
    ) -> None:
        self._installation, self._engine = installation, installation.engine
        self._definition, self._source, self._run, self._lock = definition, source, run, lock
        self._tally = Tally()

    def execute(self) -> dict[str, Any]:
        """Read, store, and say what was done."""
        with self._engine.begin() as conn:
            dataset = open_dataset(
                conn, self._source.dataset or self._definition.name, self._source.key, self._source.typed
            )
            kept = store.load_state(conn, self._definition)
        state = _State(self._definition, self._source, dataset, kept)
        with Batch() as batch:
            self._dataset, self._state, self._batch = dataset, state, batch
            try:
                validators = self._read_all()
            except cursor.OutOfOrderError:
                self._save(kept)  # the pages that were committed may have hidden rows: all of it is read again
                raise
            self._commit(validators)
        result = self._tally.result()
        get_logger(__name__).info("collected", source=self._definition.name, dataset=dataset.name, **result)
        return result

    def _read_all(self) -> Validators:
        if self._source.type != "http":
            return self._read_pages(self._pages(None))
        identity = {"Beatline-Run": self._run.run_id, "Beatline-Attempt": str(self._run.attempt)}
        allow_private = self._installation.settings.allow_private_addresses
        with Fetcher(self._source, identity, allow_private=allow_private) as fetcher:
            return self._read_pages(self._pages(fetcher))

    def _pages(self, fetcher: Fetcher | None) -> Pages:
        return read_pages(self._installation, self._source, fetcher, self._state.start, self._state.validators)

    def _read_pages(self, pages: Pages) -> Validators:
        reader = RowReader(self._source, self._dataset.columns)
        ordered = self._source.cursor is not None and self._source.cursor.ordered
        with closing(iter(pages)) as sequence:
            try:
                for page in sequence:
                    self._read_page(page, reader, ordered=ordered)
                    if ordered:
                        self._commit({})
            except TooManyPagesError:
                if not ordered:
                    raise
                self._tally.more = True
        return pages.validators

    def _read_page(self, page: Page, reader: RowReader, *, ordered: bool) -> None:
        tally, refused, number = self._tally, Refusals(), 0
        for number, raw in enumerate(page.rows, 1):
            try:
                row = reader.read(raw)
            except RowRefusedError as exc:
                refused.add(number, str(exc))
                tally.refused.add(number, str(exc))
                continue
            if not self._state.takes(row.position):
                tally.known += 1
                continue
            self._batch.add(row)
            if ordered and self._batch.rows >= _ROWS_AT_ONCE:
                self._commit({})
        if number and refused.count == number:
            raise SourceError(f"No row of {page.where} can be stored: {refused}. Correct key and columns.")
        tally.pages += 1
        tally.rows += number
        tally.not_modified = page.not_modified

    def _commit(self, validators: Validators) -> None:
        """Store what was read so far with its cursor, in one transaction; nothing to do if nothing moved."""
        state = self._state.reached(validators)
        if not self._batch.rows and state == self._state.kept:
            return
        self._lock.check()
        with self._engine.begin() as conn:
            if self._batch.rows:
                self._tally.stored += self._dataset.merge(conn, self._batch.read(), self._run.run_id)
            store.save_state(conn, self._definition, state)
        self._state.kept = state
        self._batch.clear()

    def _save(self, state: Mapping[str, Any]) -> None:
        self._lock.check()
        with self._engine.begin() as conn:
            store.save_state(conn, self._definition, state)


class _State:
    """What is kept between runs: the cursor for as long as it is the same dataset, validators until the source changes."""

    def __init__(self, definition: Definition, source: Source, dataset: Dataset, kept: Mapping[str, Any]) -> None:
        self._spec = source.cursor
        self._filled = {"name": dataset.name, "made": dataset.made}
        self._version = definition.version
        self.kept = dict(kept)
        same = kept.get("dataset") == self._filled
        self.start = cursor.load(source, kept.get("cursor") or {}) if same else None
        self.validators: Validators = (
            kept.get("unchanged") or {} if same and kept.get("version") == self._version else {}
        )
        self._progress = None if self._spec is None else cursor.Progress(self._spec, self.start)

    def takes(self, position: cursor.Position | None) -> bool:
        """Note a row's place; whether the row is among what this run has to read."""
        if position is None or self._spec is None or self._progress is None:
            return True
        self._progress.see(position)
        return not cursor.is_known(self._spec, self.start, position)

    def reached(self, validators: Validators) -> dict[str, Any]:
        """What is kept once the rows so far are stored."""
        state: dict[str, Any] = {"dataset": self._filled, "version": self._version, "unchanged": dict(validators)}
        if self._spec is not None and self._progress is not None and self._progress.highest is not None:
            state["cursor"] = cursor.dump(self._spec, self._progress.highest)
        return state
