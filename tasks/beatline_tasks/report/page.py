"""The HTML of a report: a file that stands alone, and the body of a mail. Everything is escaped, nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from beatline_tasks.report.document import Facts, Section

MAIL_ROWS: Final = 20
"""Rows of each table that stand in the mail itself; mail programs cut what is long."""
_MAIL_COLUMNS: Final = 8


def page(facts: Facts, sections: Sequence[Section]) -> str:
    """The report as one HTML file, its charts in it."""
    drawn = [[Markup(svg) for svg in section.charts] for section in sections]  # noqa: S704  # drawn by us, escaped there
    return _rendered("report.html.j2", facts=facts, parts=list(zip(sections, drawn, strict=True)))


def mail_page(facts: Facts, sections: Sequence[Section], remarks: Sequence[str], images: Sequence[str]) -> str:
    """The body of a mail: plain tables with styles in place, for programs that know little; `images` are content ids."""
    return _rendered(
        "mail.html.j2",
        facts=facts,
        sections=sections,
        remarks=remarks,
        images=images,
        most=MAIL_ROWS,
        columns=_MAIL_COLUMNS,
    )


def mail_text(facts: Facts, sections: Sequence[Section], remarks: Sequence[str]) -> str:
    """The body of a mail for who reads no HTML."""
    lines = [facts.title, f"{facts.period} · {facts.zone}", ""]
    for section in sections:
        lines += [section.title, "-" * min(len(section.title), 70)]
        lines += ["  ".join(part for part in _row_text(section, row) if part) for row in section.rows[:MAIL_ROWS]]
        if not section.rows:
            lines.append("No rows.")
        left = section.total - min(len(section.rows), MAIL_ROWS)
        lines += [f"… and {left:,} more rows."] if left > 0 else []
        lines.append("")
    return "\n".join([*lines, *remarks, "", f"Made {facts.made}. Run {facts.run_id}."]) + "\n"


def _row_text(section: Section, row: Sequence[str]) -> list[str]:
    heads = section.headings[:_MAIL_COLUMNS]
    values = row[:_MAIL_COLUMNS]
    return [
        f"{head.title}: {' '.join(value.split())}{' ' + head.unit if head.unit else ''}"
        for head, value in zip(heads, values, strict=True)
    ]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("beatline_tasks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rendered(template: str, **values: Any) -> str:
    text: str = _environment().get_template(template).render(values)
    return text
