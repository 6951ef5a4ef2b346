"""What is wrong with an artifact; what may pass is a TransientError."""

from __future__ import annotations

from beatline.errors import BeatlineError


class ArtifactLostError(BeatlineError):
    """An artifact's row stands, and its file is in none of the stores that can be reached from here."""

    def __init__(self, name: str, sha256: str, store: str) -> None:
        self.name, self.sha256, self.store = name, sha256, store
        where = "the folder of another machine" if store == "folder" else store
        super().__init__(
            f"The file of artifact {name!r} ({sha256[:12]}…) is not here; it was stored in {where}. Mount that folder on "
            "every machine, or correct BEATLINE_ARTIFACTS_URL."
        )
