"""Wrong settings are the same list everywhere, `celery -A beatline` included, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.processes import Spawner

WRONG = "CELERY_BROKER_URL=amqp://guest:hush@rabbit//\nDATABASE_URL=mysql://u:hush@db/app\nBEATLINE_LEASE_S=soon\n"
ARGV = {
    "beatline": ("beatline.cli", "sources", "list"),
    "worker": ("celery", "-A", "beatline", "worker"),
    "beat": ("celery", "-A", "beatline", "beat"),
}


@pytest.mark.parametrize("argv", ARGV.values(), ids=ARGV.keys())
def test_the_same_list_without_a_traceback(argv: tuple[str, ...], spawner: Spawner, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".env").write_text(WRONG)
    process = spawner.spawn(*argv, cwd=folder)
    assert process.wait(30) == 1
    lines = process.output().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "CELERY_BROKER_URL in .env",
        "DATABASE_URL in .env",
        "BEATLINE_LEASE_S in .env",
    ]
    assert "hush" not in process.output()


@pytest.mark.parametrize("argv", ARGV.values(), ids=ARGV.keys())
def test_without_any_server_it_is_one_sentence(argv: tuple[str, ...], spawner: Spawner, tmp_path: Path) -> None:
    process = spawner.spawn(*argv, cwd=tmp_path)
    assert process.wait(30) == 1
    [line] = process.output().splitlines()
    assert "start `beatline up`, or set BEATLINE_REDIS_URL and BEATLINE_DATABASE_URL" in line
