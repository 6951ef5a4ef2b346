"""Connections to a real PostgreSQL: sessions that hold what they promise, and what `check` says of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from beatline.connections import ConnectionFaultError, get_connection
from beatline.connections.actions import check
from beatline.connections.smtp import smtp_session
from beatline.connections.sql import sql_session
from beatline.errors import AddressRefusedError, NotFoundError, TransientError
from support.connecting import add_connection, own_database
from support.serving import MakeSettings
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation


@contextmanager
def silent_server() -> Generator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_session_reads_with_time_zone_and_name_and_is_gone_afterwards(ours: Installation) -> None:
    add_connection(ours, "shop", **own_database(ours.settings))
    with sql_session(ours, "shop") as conn:
        assert conn.execute(text("SHOW timezone")).scalar_one() == "UTC"
        assert conn.execute(text("SHOW statement_timeout")).scalar_one() == "5min"
        assert conn.execute(text("SHOW application_name")).scalar_one() == "beatline/shop"

    def gone() -> bool:
        with ours.engine.connect() as conn:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'beatline/shop' AND datname = current_database()"
            return not conn.execute(text(query)).scalar_one()

    wait_until(gone, what="nothing stays open in the database")


def test_nothing_can_be_changed_unless_both_sides_agree(ours: Installation) -> None:
    add_connection(ours, "shop", **own_database(ours.settings))
    add_connection(ours, "store", read_only=False, **own_database(ours.settings))
    for name in ("shop", "store"):
        with sql_session(ours, name) as conn, pytest.raises(DBAPIError, match="read-only transaction"):
            conn.execute(text("CREATE TABLE public.t (a int)"))
    refused = pytest.raises(ConnectionFaultError, match=r"Connection 'shop' is read only: set its field read_only")
    with refused, sql_session(ours, "shop", read_only=False):
        pass
    with sql_session(ours, "shop") as conn:
        # whoever gets past the checks of a statement and ends its transaction begins another that reads
        with pytest.raises(DBAPIError, match="read-only transaction"):
            conn.exec_driver_sql("COMMIT; CREATE TABLE public.t (a int)")
        assert conn.exec_driver_sql("SHOW standard_conforming_strings").scalar_one() == "on"
    with sql_session(ours, "store", read_only=False) as conn:
        conn.execute(text("CREATE TABLE public.t (a int)"))
        conn.commit()
    with sql_session(ours, "shop") as conn:
        assert conn.execute(text("SELECT count(*) FROM public.t")).scalar_one() == 0


def test_a_statement_ends_in_its_time(ours: Installation) -> None:
    add_connection(ours, "shop", statement_timeout_s=0.05, **own_database(ours.settings))
    with sql_session(ours, "shop") as conn, pytest.raises(DBAPIError, match="statement timeout"):
        conn.execute(text("SELECT pg_sleep(30)"))
    with sql_session(ours, "shop", statement_timeout_s=7) as conn:
        assert conn.execute(text("SHOW statement_timeout")).scalar_one() == "7s"


def test_private_addresses_are_refused(make_settings: MakeSettings, installation: Installation) -> None:
    add_connection(installation, "shop", **own_database(installation.settings))
    with pytest.raises(AddressRefusedError, match="this machine"), sql_session(installation, "shop"):
        pass
    finding = check(installation, get_connection(installation, "shop").definition)
    assert not finding.ok
    assert "BEATLINE_ALLOW_PRIVATE_ADDRESSES" in finding.text


def test_names_and_kinds_that_do_not_fit_are_told(ours: Installation) -> None:
    add_connection(ours, "shop", **own_database(ours.settings))
    with pytest.raises(NotFoundError, match=r"no connection 'shops'\. Did you mean shop"), sql_session(ours, "shops"):
        pass
    refused = pytest.raises(ConnectionFaultError, match=r"'shop' is a database .* and a mail server is needed")
    with refused, smtp_session(ours, "shop"):
        pass


def test_check_tells_version_user_and_rights(ours: Installation) -> None:
    finding = check(ours, add_connection(ours, "shop", **own_database(ours.settings)))
    assert finding.ok
    assert finding.text.startswith("It works: PostgreSQL ")
    assert "Over this connection nothing is changed (read_only), though the user is a superuser." in finding.text
    assert finding.details["read_only"] is True
    assert finding.details["encrypted"] is False
    assert finding.details["tables_it_may_read"] > 5


def test_check_tells_the_rights_of_a_user_who_may_only_read(ours: Installation) -> None:
    given = own_database(ours.settings)
    role = "reader_" + given["url"].rpartition("_")[2]
    with ours.engine.begin() as conn:
        for statement in (
            "CREATE TABLE public.orders (id int)",
            f"CREATE ROLE {role} LOGIN PASSWORD 'only-reads'",
            f"GRANT SELECT ON public.orders TO {role}",
        ):
            conn.execute(text(statement))
    try:
        finding = check(ours, add_connection(ours, "r", **(given | {"user": role, "password": "only-reads"})))
        assert finding.ok
        assert f"as {role}, who may read 1 table and change none; the connection is read only." in finding.text
    finally:
        with ours.engine.begin() as conn:
            conn.execute(text(f"REVOKE ALL ON public.orders FROM {role}"))
            conn.execute(text(f"DROP ROLE {role}"))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"password": "hush"}, "the password is wrong, or the user"),
    ({"user": "nobody_here"}, "the password is wrong, or the user 'nobody_here' is"),
    ({"password": None}, "a password is required: set user and password"),
    ({"url": "postgresql://{host}/nowhere"}, "/nowhere: there is no such database on this server"),
    ({"url": "postgresql://127.0.0.1:1/shop"}, "it refuses the connection: no server listens there"),
    ({"url": "postgresql://db.invalid/shop"}, "The name 'db.invalid' cannot be resolved"),
    ({"url": "postgresql://{host}/nowhere?sslmode=require"}, "it does not speak TLS, and sslmode asks for it"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_check_says_in_words_what_is_wrong(ours: Installation, wrong: dict[str, Any], words: str) -> None:
    given = own_database(ours.settings)
    spec = {k: v for k, v in (given | wrong).items() if v is not None}
    spec["url"] = spec["url"].replace("{host}", given["url"].partition("://")[2].partition("/")[0])
    finding = check(ours, add_connection(ours, "shop", **spec))
    assert not finding.ok
    assert finding.text.startswith("Connection 'shop': ")
    assert words in finding.text
    assert "hush" not in finding.text
    assert str(given["password"]) not in finding.text


def test_a_server_that_says_nothing_is_given_up(ours: Installation) -> None:
    with silent_server() as port:
        add_connection(ours, "mute", url=f"postgresql://127.0.0.1:{port}/shop")
        with pytest.raises(TransientError, match="it does not answer within 5 s"), sql_session(ours, "mute"):
            pass


def test_a_server_that_is_lost_in_between_ends_the_session_only(ours: Installation) -> None:
    given = own_database(ours.settings)
    add_connection(ours, "shop", **given)
    with sql_session(ours, "shop") as conn:
        pid = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with ours.engine.connect() as killer:
            killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(DBAPIError) as lost:
            conn.execute(text("SELECT :given"), {"given": "hush"})
    assert "hush" not in str(lost.value)
    with sql_session(ours, "shop") as conn:
        assert conn.execute(text("SELECT 1")).scalar_one() == 1


def test_sessions_of_many_threads_do_not_meet(ours: Installation) -> None:
    add_connection(ours, "shop", **own_database(ours.settings))
    pids: list[int] = []
    together = threading.Barrier(4)

    def look() -> None:
        with sql_session(ours, "shop") as conn:
            pids.append(conn.execute(text("SELECT pg_backend_pid()")).scalar_one())
            together.wait(20)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 4
