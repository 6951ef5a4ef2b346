"""Our own PostgreSQL: private, durable, also as root, and clear about what stops it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from beatline.embedded.postgres import Postgres
from beatline.embedded.postgres_folder import UNFINISHED
from beatline.errors import ServiceError

Make = Callable[..., Postgres]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a PostgreSQL of ours made and left: tests take copies, since making one takes a second."""
    folder = tmp_path_factory.mktemp("postgres")
    postgres = Postgres(folder, durable=False)
    postgres.start()
    postgres.stop()
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, without the port that it remembers."""
    copy = tmp_path / "postgres"
    shutil.copytree(stopped, copy)
    (copy / "port").unlink()
    return copy


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes PostgreSQLs, and stops them."""
    made: list[Postgres] = []

    def postgres(folder: Path, port: int | None = None) -> Postgres:
        made.append(Postgres(folder, port, durable=False))
        return made[-1]

    yield postgres
    for one in made:
        one.stop()


def ask(url: str, question: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def port_of(postgres: Postgres) -> int:
    return int(postgres.what.split(":")[2].split("/")[0])


def test_it_is_made_private_and_in_utf8_in_a_path_that_fits_no_socket(make: Make, long_folder: Path) -> None:
    postgres = make(long_folder / "postgres")
    postgres.start()

    assert ask(postgres.url, "SHOW server_encoding") == "UTF8"
    assert ask(postgres.url, "SELECT string_agg(c, '' ORDER BY c) FROM unnest('{b,A,a,B}'::text[]) c") == "ABab"
    assert ask(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(postgres.url, "SELECT left(rolpassword, 5) FROM pg_authid WHERE rolname = current_user") == "SCRAM"
    assert ask(postgres.url, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'") == 0
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres.url, password="wrong")  # that it is refused is the test
    assert stat.S_IMODE((long_folder / "postgres/data").stat().st_mode) == 0o700
    assert stat.S_IMODE((long_folder / "postgres/password").stat().st_mode) == 0o600


def test_users_wait_for_the_disk(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres")
    postgres.start()
    try:
        assert [ask(postgres.url, f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == ["on", "on"]
    finally:
        postgres.stop()


def test_data_and_address_survive_a_stop_and_a_kill(make: Make, folder: Path) -> None:
    first = make(folder)
    first.start()
    with closing(psycopg2.connect(first.url)) as connection:
        connection.cursor().execute("CREATE TABLE kept AS SELECT 1 AS one")
        connection.commit()
    first.stop()
    second = make(folder)
    second.start()
    assert ask(second.url, "SELECT one FROM kept") == 1
    assert second.pid is not None
    os.kill(second.pid, signal.SIGKILL)

    third = make(folder)
    third.start()

    assert ask(third.url, "SELECT one FROM kept") == 1
    assert third.url == second.url == first.url


def test_the_users_libpq_variables_have_no_say(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PGSSLMODE", "require"),
        ("PGHOST", "203.0.113.1"),
        ("PGDATABASE", "nowhere"),
        ("PGPORT", "1"),
    ):
        monkeypatch.setenv(name, value)

    postgres = make(folder)
    postgres.start()

    assert ask(postgres.url, "SELECT 1") == 1


def test_a_taken_port_is_one_sentence(make: Make, folder: Path) -> None:
    first = make(folder)
    first.start()

    with pytest.raises(ServiceError, match=r"^Port \d+ for PostgreSQL is taken.*BEATLINE_EMBEDDED_POSTGRES_PORT"):
        make(folder.with_name("other"), port_of(first)).start()


def test_two_on_one_folder_are_refused(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beatline.embedded.postgres.PREDECESSOR_S", 0.2)
    first = make(folder)
    first.start()

    with pytest.raises(ServiceError, match="Another PostgreSQL still runs"):
        make(folder).start()
    assert ask(first.url, "SELECT 1") == 1


def files_of(data: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}


def refuse(postgres: Postgres, data: Path, pattern: str) -> None:
    """It says why in one sentence, runs nothing, and leaves every file as it was."""
    before = files_of(data)

    with pytest.raises(ServiceError, match=pattern) as caught:
        postgres.start()

    assert "\n" not in str(caught.value)
    assert files_of(data) == before
    assert not [one for one in psutil.Process().children(recursive=True) if str(data) in " ".join(one.cmdline())]


def test_data_of_another_version_is_refused(make: Make, folder: Path) -> None:
    (folder / "data/PG_VERSION").write_text("12\n")

    refuse(make(folder), folder / "data", r"belongs to PostgreSQL 12 .* nothing was changed.*BEATLINE_DATABASE_URL")


def test_damaged_data_is_refused(make: Make, folder: Path) -> None:
    (folder / "data/global/pg_control").write_bytes(b"x" * 8192)

    refuse(make(folder), folder / "data", r"cannot run on its data in .* nothing was changed")


@pytest.mark.parametrize("left", ["holiday.jpg", "base"])
def test_a_folder_that_is_not_postgresqls_is_not_made_into_one(make: Make, tmp_path: Path, left: str) -> None:
    data = tmp_path / "postgres/data"
    data.mkdir(parents=True)
    (data / left).write_text("mine")

    refuse(make(tmp_path / "postgres"), data, r"is not a data folder of PostgreSQL, or a damaged one")


def test_a_lost_password_is_refused(make: Make, folder: Path) -> None:
    (folder / "password").unlink()

    refuse(make(folder), folder / "data", "password of the database beside it")


def test_a_password_of_another_folder_is_refused(make: Make, folder: Path) -> None:
    (folder / "password").write_text("another")

    with pytest.raises(ServiceError, match="does not accept the password in"):
        make(folder).start()


def test_an_interrupted_making_is_begun_again(make: Make, tmp_path: Path) -> None:
    draft = tmp_path / "postgres" / UNFINISHED
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")

    postgres = make(tmp_path / "postgres")
    postgres.start()

    assert ask(postgres.url, "SELECT 1") == 1
    assert not draft.exists()


def test_a_process_that_inherited_the_old_number_is_not_taken_for_a_server(make: Make, folder: Path) -> None:
    (folder / "data/postmaster.pid").write_text(f"{os.getppid()}\n{folder / 'data'}\n")

    postgres = make(folder)
    postgres.start()

    assert ask(postgres.url, "SELECT 1") == 1


def test_a_full_disk_is_one_sentence_and_leaves_nothing(make: Make, full_disk: Path) -> None:
    with pytest.raises(ServiceError, match=r"^The disk that holds .* is full"):
        make(full_disk / "postgres").start()

    assert not (full_disk / "postgres/data").exists()


def test_a_disk_that_fills_up_while_the_folder_is_made(
    make: Make, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beatline.embedded.postgres_folder.NEW_FOLDER_MB", 0)

    with pytest.raises(ServiceError, match=r"^The disk that holds .* is full"):
        make(full_disk / "postgres").start()

    assert {path.name for path in (full_disk / "postgres").iterdir()} == {"lock", "password", "port"}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="gives files to another user: root only")
def test_root_runs_it_as_the_user_to_whom_the_folder_belongs(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)

    postgres = make(folder)
    postgres.start()

    assert postgres.pid is not None
    assert psutil.Process(postgres.pid).uids().real == 65534
    assert ask(postgres.url, "SELECT 1") == 1
    postgres.stop()
    os.chown(folder, 0, 0)  # moved to a machine where it is root's: its files follow
    postgres.start()
    assert ask(postgres.url, "SELECT 1") == 1
