"""What is wrong with a report; the text stands in the run's error. What may pass is a TransientError."""

from __future__ import annotations

from beatline.errors import BeatlineError


class ReportError(BeatlineError):
    """The report, its data or a place it goes to is wrong: a person must look, the run fails at once."""


class MissingGlyphsError(ReportError):
    """No installed font has these characters, and a PDF with boxes in their place would be worse than none."""

    def __init__(self, characters: str) -> None:
        self.characters = characters
        shown = " ".join(characters[:20]) + (" …" if len(characters) > 20 else "")
        super().__init__(
            f"The PDF cannot be made: no installed font has {shown}. Install one on the workers of the queue report "
            "(fonts-noto-cjk has Chinese, Japanese and Korean, fonts-noto-core most other scripts), or leave pdf out "
            "of formats."
        )


class PdfNotInstalledError(ReportError):
    """The extra that makes PDFs is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "The PDF cannot be made: typst is not installed here. Run pip install 'beatline[pdf]' on the workers of the "
            "queue report, or leave pdf out of formats."
        )
