"""The second step: the files of the report, and what its mail says, into artifacts."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast
from uuid import UUID

from beatline.artifacts import ArtifactStore
from beatline.clock import utc_now
from beatline.failpoints import reach
from beatline_tasks.report import issues
from beatline_tasks.report.compose import CONTENT_TYPES, Source, compose
from beatline_tasks.report.document import Facts, Heading, Section, facts_of
from beatline_tasks.report.fetching import FAMILY
from beatline_tasks.report.page import MAIL_ROWS
from beatline_tasks.report.rows import Column, read_rows
from beatline_tasks.report.steps import Work

_DAY_S: Final = 86_400.0
_PICTURES: Final = 4
"""Charts that stand in the mail itself."""
MAIL: Final = "mail"
PICTURE: Final = "picture"


@dataclass(frozen=True, slots=True)
class MailContent:
    """What the body of a mail is made of."""

    facts: Facts
    sections: list[Section]

    @classmethod
    def parse(cls, text: bytes) -> MailContent:
        """What `dump` wrote."""
        raw = json.loads(text)
        sections = [Section(**one) for one in raw["sections"]]
        for section in sections:
            # JSON has no dataclasses: what stands there are mappings.
            section.headings = [Heading(**cast("dict[str, Any]", head)) for head in section.headings]
        return cls(Facts(**raw["facts"]), sections)

    def dump(self) -> bytes:
        """It as JSON, without what a mail does not show."""
        sections = [asdict(replace(one, rows=one.rows[:MAIL_ROWS], charts=[])) for one in self.sections]
        return json.dumps({"facts": asdict(self.facts), "sections": sections}, ensure_ascii=False).encode()


def render(work: Work) -> dict[str, Any]:
    """Make every file. Running twice makes them twice, and names those of one of the two."""
    report, issue = work.report, work.issue
    data = issue.data or {}
    facts = facts_of(issue.report, report, issue.period, utc_now(), issue.run_id, work.figures)
    store = ArtifactStore.of(work.installation)
    with TemporaryDirectory(prefix="beatline-report-") as name, _sources(work, store, data) as sources:
        folder = Path(name)
        made, sections = compose(report, facts, work.figures, sources, folder)
        quiet = report.no_rows == "say" and not any(one["rows"] for one in data.values())
        files = [] if quiet else [(one.role, one.name, CONTENT_TYPES[one.role], one.path) for one in made]
        parts: list[tuple[str, str, str, Path | bytes]] = list(files)
        parts.append((MAIL, "mail.json", "application/json", MailContent(facts, sections).dump()))
        if not quiet and report.email is not None:
            parts += [
                (PICTURE, f"chart-{n}.png", "image/png", png) for n, png in enumerate(_pictures(sections, folder), 1)
            ]
        stored = [(role, name, kind, store.write(source)) for role, name, kind, source in parts]
    reach("report.rendered")
    with work.installation.engine.begin() as conn:
        named: list[dict[str, Any]] = []
        for role, name, kind, one in stored:
            artifact = store.record(
                conn, one, name=name, content_type=kind, family=FAMILY, run_id=work.run.run_id,
                keep_s=report.keep_days * _DAY_S,
            )  # fmt: skip
            named.append({"role": role, "artifact": str(artifact), "name": name, "size_bytes": one.size_bytes})
        if not issues.move(conn, issue, "rendered", files=named, reason=None):
            conn.rollback()
    reach("report.render_committed")
    return {"files": [name for _, name, _, _ in files]}


def _pictures(sections: Sequence[Section], folder: Path) -> list[bytes]:
    from beatline_tasks.report.pdf import picture

    charts = [svg for section in sections for svg in section.charts][:_PICTURES]
    return [png for svg in charts if (png := picture(svg, folder)) is not None]


@contextmanager
def _sources(work: Work, store: ArtifactStore, data: Mapping[str, Any]) -> Generator[dict[str, Source]]:
    """The rows of every query; a query that was added meanwhile has none."""
    with ExitStack() as stack:
        sources: dict[str, Source] = {}
        for name in work.report.queries:
            known = data.get(name)
            if known is None:
                sources[name] = Source(_nothing(), 0, cut=False)
                continue
            file = stack.enter_context(store.open(work.installation.engine, UUID(known["artifact"])))
            sources[name] = Source(read_rows(file), known["rows"], known["cut"])
        yield sources


@contextmanager
def _nothing() -> Generator[tuple[list[Column], Any]]:
    yield [], iter(())
