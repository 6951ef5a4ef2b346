"""Nouns are listed without being imported; what a person can mend is one sentence and exit code 1."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psycopg2
import pytest
import redis
import typer
from sqlalchemy.exc import OperationalError, ProgrammingError

from beatline.cli import NOUNS, root
from beatline.errors import BeatlineError, NotFoundError

CLI = Path(root.__file__).parent
NOT_NOUNS = {"__init__", "__main__", "root", "output", "definitions", "definition_options"}

MEND = "Start or mend it, or correct BEATLINE_DATABASE_URL.\n"


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        root.run(list(args))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_noun_of_the_table_can_be_loaded(noun: str) -> None:
    command = root.load(noun)
    assert command.name == noun
    assert command.help or command.callback


def test_the_table_names_every_module_of_a_noun() -> None:
    modules = {path.stem for path in CLI.glob("*.py")} - NOT_NOUNS
    assert {name for name in modules if not name.startswith("_") and _is_noun(name)} == set(NOUNS)


def _is_noun(module: str) -> bool:
    text = (CLI / f"{module}.py").read_text()
    return "\napp = typer.Typer(" in text or "\napp: Final = typer.Typer(" in text or "\ndef command(" in text


def test_help_lists_every_noun_and_imports_nothing_heavy() -> None:
    heavy = ["sqlalchemy", "celery", "kombu", "redis", "pydantic", "cryptography", "httpx"]
    code = (
        "import sys\nfrom beatline.cli import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    for noun in [*NOUNS, "sources"]:
        assert f" {noun} " in done.stdout


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"beatline {metadata.version('beatline')}\n"


def test_a_misspelt_noun_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("suorces") == 2
    assert "Did you mean 'sources'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotFoundError("source", "x\x1b[2J"), "There is no source 'x\\x1b[2J'.\n"),
        (BeatlineError("one\ntwo"), "one\ntwo\n"),
        (
            OperationalError("SELECT 1", {}, psycopg2.OperationalError("cannot reach postgresql://u:hush@h/d\nhint\n")),
            "PostgreSQL does not answer as it should: cannot reach postgresql://u:***@h/d. " + MEND,
        ),
        (
            redis.AuthenticationError("invalid password."),
            "Redis does not answer as it should: invalid password. Start or mend it, or correct BEATLINE_REDIS_URL.\n",
        ),
    ],
)
def test_what_a_person_can_mend_is_told_without_a_traceback(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error, monkeypatch)
    assert run("fail") == 1
    captured = capsys.readouterr()
    assert captured.err == said
    assert captured.out == ""


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(ProgrammingError("SELEC 1", {}, psycopg2.ProgrammingError("syntax")), monkeypatch)
    with pytest.raises(ProgrammingError):
        root.run(["fail"])


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(add_completion=False)

    @app.callback()
    def group() -> None: ...

    @app.command("fail")
    def fail() -> None:
        raise error

    monkeypatch.setattr(root, "app", app)
