"""What was tried already, in a file: a run that was broken off goes on where it was, with the same code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chaos.record import Trial


@dataclass(frozen=True, slots=True)
class Place:
    """Which trial: the row, the seed, whose, and whether at full length."""

    row: int
    seed: int
    side: str
    full: bool


def code_of(roots: Iterable[Path]) -> str:
    """A fingerprint of all code below some folders: what was tried with other code says nothing of this one."""
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.lua")]):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Results:
    """The file of trials. Each is there once it was kept, whatever ends this process."""

    def __init__(self, path: Path, code: str, *, fresh: bool = False) -> None:
        self._path, self._code = path, code
        self._known: dict[Place, Trial] = {}
        if fresh:
            path.unlink(missing_ok=True)
        self.reread()

    def reread(self) -> Self:
        """Know what other processes have kept since, too."""
        path = self._path
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            said = json.loads(line)
            if said["code"] == self._code:
                self._known[Place(**said["place"])] = Trial.parse(said["trial"])
        return self

    def get(self, place: Place) -> Trial | None:
        """The trial that was kept for a place."""
        return self._known.get(place)

    def keep(self, place: Place, trial: Trial) -> None:
        """Keep a trial."""
        self._known[place] = trial
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(self._code, place, trial))

    def forget(self, rows: Iterable[int]) -> None:
        """The rows were told: the next run tries them anew."""
        told = set(rows)
        self._known = {place: trial for place, trial in self._known.items() if place.row not in told}
        text = "".join(_line(self._code, place, trial) for place, trial in self._known.items())
        if text:
            self._path.write_text(text, encoding="utf-8")
        else:
            self._path.unlink(missing_ok=True)


def _line(code: str, place: Place, trial: Trial) -> str:
    where = {"row": place.row, "seed": place.seed, "side": place.side, "full": place.full}
    return json.dumps({"code": code, "place": where, "trial": trial.as_dict()}) + "\n"
