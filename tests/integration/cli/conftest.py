"""The command line in this process, against this test's installation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from beatline.cli import root
from beatline.settings import Settings
from support.processes import variables_of


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as a program reads it."""
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `beatline ARGS…`."""
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)

    def run(*args: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            root.run(list(args))
        assert isinstance(ended.value.code, int)
        captured = capsys.readouterr()
        return Ran(ended.value.code, captured.out, captured.err)

    return run
