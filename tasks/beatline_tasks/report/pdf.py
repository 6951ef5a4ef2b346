"""The PDF of a report, set by typst: the data goes in as JSON and pictures, never as text of the template.

PDF/A-2u is asked for, because typst then refuses a character that no font has; otherwise it would draw a box in silence.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from beatline_tasks.report.document import Facts, Section
from beatline_tasks.report.errors import MissingGlyphsError, PdfNotInstalledError, ReportError

_FACES: Final = (
    "Inter", "Noto Sans", "Source Sans 3", "Open Sans", "DejaVu Sans", "Liberation Sans", "Helvetica Neue", "Arial",
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Noto Sans Arabic", "Noto Sans Hebrew",
    "Noto Sans Thai", "Noto Sans Devanagari", "Libertinus Serif",
)  # fmt: skip
_MISSING: Final = re.compile(r"the text `?\"(.+?)\"`? could not be displayed")
_WIDE_COLUMNS: Final = 7
_STANDARD: Final = "a-2u"


def check_installed() -> None:
    """Return only if PDFs can be made here. Raises PdfNotInstalledError."""
    _typst()


def write_pdf(path: Path, facts: Facts, sections: Sequence[Section]) -> None:
    """Set the report as a PDF. Raises MissingGlyphsError, which names the characters, or ReportError."""
    typst = _typst()
    with TemporaryDirectory(dir=path.parent) as folder:
        root = Path(folder)
        _lay_out(root, facts, sections, [face for face in _FACES if face in _families()])
        try:
            typst.compile(str(root / "report.typ"), output=str(path), root=folder, format="pdf",
                          pdf_standards=_STANDARD)  # fmt: skip
        except typst.TypstError as exc:
            raise _in_words(exc) from exc


def picture(svg: str, folder: Path) -> bytes | None:
    """A chart as PNG for mail programs, which show no SVG; None where the extra is not installed."""
    try:
        typst = _typst()
    except PdfNotInstalledError:
        return None
    (folder / "chart.svg").write_text(svg, encoding="utf-8")
    source = folder / "chart.typ"
    source.write_text('#set page(width: auto, height: auto, margin: 0pt)\n#image("chart.svg")\n', encoding="utf-8")
    made = typst.compile(str(source), root=str(folder), format="png", ppi=144.0)
    return made if isinstance(made, bytes) else b"".join(made)


def _lay_out(root: Path, facts: Facts, sections: Sequence[Section], fonts: Sequence[str]) -> None:
    parts: list[dict[str, Any]] = []
    for number, section in enumerate(sections):
        charts: list[dict[str, str]] = []
        for place, svg in enumerate(section.charts):
            file = f"chart-{number}-{place}.svg"
            (root / file).write_text(svg, encoding="utf-8")
            charts.append({"file": file, "alt": f"Chart of {section.title or facts.title}"})
        heads = [{"title": head.title, "unit": head.unit, "right": head.right} for head in section.headings]
        size = 9 if len(heads) <= _WIDE_COLUMNS else max(5.5, 9 - (len(heads) - _WIDE_COLUMNS) * 0.4)
        parts.append(
            {"title": section.title, "note": section.note, "heads": heads, "rows": section.rows, "size": size,
             "charts": charts}
        )  # fmt: skip
    data = {
        "title": facts.title,
        "period": f"{facts.period} · {facts.zone}",
        "foot": f"{facts.title} · {facts.period} · made {facts.made} · run {facts.run_id}",
        "language": facts.language,
        "fonts": list(fonts),
        "wide": any(len(section.headings) > _WIDE_COLUMNS for section in sections),
        "sections": parts,
    }
    (root / "data.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    with as_file(files("beatline_tasks.report") / "templates" / "report.typ") as template:
        shutil.copyfile(template, root / "report.typ")


def _in_words(exc: Any) -> ReportError:
    said = f"{exc.message}\n{exc.diagnostic}"
    missing = "".join(dict.fromkeys("".join(_MISSING.findall(said))))
    return MissingGlyphsError(missing) if missing else ReportError(f"The PDF cannot be made: {exc.message}.")


@cache
def _families() -> frozenset[str]:
    return frozenset(_typst().Fonts().families())


def _typst() -> Any:
    try:
        import typst
    except ModuleNotFoundError:
        raise PdfNotInstalledError from None
    return typst
