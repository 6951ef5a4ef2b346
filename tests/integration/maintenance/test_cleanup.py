"""maintenance.cleanup_expired_tokens on a real database: what it deletes, and what it refuses to touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.clock import monotonic_s
from beatline.connections import ConnectionFaultError
from beatline.errors import BeatlineError, NotFoundError
from beatline_tasks.maintenance.cleanup import Expiring, clean_up
from beatline_tasks.maintenance.errors import MaintenanceError

if TYPE_CHECKING:
    from beatline.installation import Installation

Call = Callable[..., dict[str, Any]]
TASK = "cleanup_expired_tokens"
OURS = Expiring("public.tokens", "expires_at")
TOKENS: dict[str, Any] = {"connection": "warehouse", "table": "public.tokens", "expiry_column": "expires_at"}


def run_sql(installation: Installation, *statements: str) -> None:
    with installation.engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement.replace(":", r"\:")))


def count(installation: Installation, table: str = "public.tokens") -> int:
    with installation.engine.connect() as conn:
        return int(conn.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608  # of the test's own


@pytest.fixture
def tokens(warehouse: Installation) -> Installation:
    """A table with 25 rows that have expired, 5 that have not, and one that never does."""
    run_sql(
        warehouse,
        "CREATE TABLE public.tokens (id int PRIMARY KEY, expires_at timestamptz, born date, note text)",
        "INSERT INTO public.tokens SELECT n, now() + (n - 25.5) * interval '1 hour' FROM generate_series(1, 30) n",
        "INSERT INTO public.tokens VALUES (31, NULL)",
    )
    return warehouse


def test_expired_rows_go_in_batches_and_are_counted(tokens: Installation, call: Call) -> None:
    done = call(TASK, **TOKENS, batch_size=10)
    assert done == {
        "connection": "warehouse",
        "table": "public.tokens",
        "deleted": 25,
        "batches": 3,
        "more": False,
    }
    assert count(tokens) == 6
    assert call(TASK, **TOKENS)["deleted"] == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": "public.users"}, "warehouse:public.users is not on the list"),
        ({"table": "tokens"}, "add warehouse:tokens to BEATLINE_CLEANUP_TABLES"),
        ({"table": "public.tokens; DROP TABLE x"}, "is not on the list"),
        ({"table": "public.by_day"}, "there is no table public.by_day"),
        ({"expiry_column": "born"}, "expiry_column: public.tokens.born is date, and a timestamp is needed"),
        ({"expiry_column": "note"}, "public.tokens.note is text"),
        ({"expiry_column": "expires"}, "has no column 'expires'"),
        ({"expiry_column": 'x" OR 1=1 --'}, "has no column"),
        ({"batch_size": 0}, "batch_size: must be 1 to 50000, not 0"),
        ({"batch_size": True}, "batch_size: must be"),
        ({"statement_timeout_s": 0}, "statement_timeout_s: must be above 0"),
        ({"statement_timeout_s": float("nan")}, "statement_timeout_s: must be above 0"),
        ({"connection": ["warehouse"]}, "connection: must be a text"),
        ({"time_zone": "Europe/Bonn"}, "time_zone: must be a time zone's name, such as Europe/Berlin or UTC, not"),
        ({"time_zone": "XYZ3"}, "time_zone: must be a time zone's name"),
        ({"time_zone": 1}, "time_zone: must be a time zone's name"),
        ({"time_zone": "UTC"}, "time_zone: the times of public.tokens.expires_at have one each"),
    ],
)
def test_what_it_may_not_touch_it_does_not(tokens: Installation, call: Call, given: dict[str, Any], words: str) -> None:
    with pytest.raises(MaintenanceError) as refused:
        call(TASK, **(TOKENS | given))
    assert words in str(refused.value)
    assert count(tokens) == 31


def test_a_connection_that_only_reads_is_refused(tokens: Installation, call: Call) -> None:
    with pytest.raises(ConnectionFaultError, match="'reader' is read only"):
        call(TASK, **(TOKENS | {"connection": "reader"}))
    with pytest.raises(NotFoundError, match="Did you mean warehouse"):
        call(TASK, **(TOKENS | {"connection": "warehous"}))


def test_rows_in_use_are_left_for_the_next_time(tokens: Installation, call: Call) -> None:
    with tokens.engine.begin() as conn:
        conn.execute(text("SELECT 1 FROM public.tokens WHERE id = 3 FOR UPDATE"))
        assert call(TASK, **TOKENS)["deleted"] == 24
    assert call(TASK, **TOKENS)["deleted"] == 1


def test_rows_of_all_partitions_go(warehouse: Installation, call: Call) -> None:
    run_sql(
        warehouse,
        "CREATE TABLE public.by_day (id int, expires_at timestamp) PARTITION BY RANGE (id)",
        "CREATE TABLE public.by_day_1 PARTITION OF public.by_day FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE public.by_day_2 PARTITION OF public.by_day FOR VALUES FROM (10) TO (99)",
        "INSERT INTO public.by_day SELECT n, (now() AT TIME ZONE 'UTC') + (n % 10 - 4.5) * interval '1 hour' "
        "FROM generate_series(0, 19) n",
    )
    done = call(TASK, **(TOKENS | {"table": "public.by_day", "time_zone": "UTC"}), batch_size=3)
    assert (done["deleted"], count(warehouse, "public.by_day")) == (10, 10)


def test_times_without_a_zone_are_left_alone_until_it_is_named(warehouse: Installation, call: Call) -> None:
    run_sql(
        warehouse,
        "CREATE TABLE public.tokens (id int, expires_at timestamp)",
        "INSERT INTO public.tokens SELECT n, (now() AT TIME ZONE 'Asia/Shanghai') + (n - 3.5) * interval '1 hour' "
        "FROM generate_series(1, 6) n",
    )
    with pytest.raises(MaintenanceError, match=r"time_zone: public\.tokens\.expires_at is timestamp without time zone"):
        call(TASK, **TOKENS)
    assert count(warehouse) == 6
    assert call(TASK, **TOKENS, time_zone="America/New_York")["deleted"] == 0  # there they are hours ahead
    assert call(TASK, **TOKENS, time_zone="Asia/Shanghai")["deleted"] == 3
    assert call(TASK, **TOKENS, time_zone="Pacific/Kiritimati")["deleted"] == 3  # and there hours behind


def test_odd_names_are_quoted(warehouse: Installation, call: Call) -> None:
    run_sql(
        warehouse,
        'CREATE TABLE public."Od:d" (":now" timestamptz)',
        "INSERT INTO public.\"Od:d\" VALUES (now() - interval '1 hour')",
    )
    done = call(TASK, connection="warehouse", table="public.Od:d", expiry_column=":now")
    assert done["deleted"] == 1


def test_a_batch_that_takes_too_long_is_told_and_what_went_before_stays_gone(tokens: Installation, call: Call) -> None:
    run_sql(
        tokens,
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF old.id > 20 THEN PERFORM pg_sleep(9); END IF; RETURN old; END $$",
        "CREATE TRIGGER slow BEFORE DELETE ON public.tokens FOR EACH ROW EXECUTE FUNCTION public.slow()",
    )
    with pytest.raises(MaintenanceError, match=r"took longer than 0\.5 s.* 20 rows were deleted before"):
        call(TASK, **TOKENS, batch_size=5, statement_timeout_s=0.5)
    assert count(tokens) == 11


def test_rows_that_others_refer_to_are_told(tokens: Installation, call: Call) -> None:
    run_sql(
        tokens,
        "CREATE TABLE public.uses (token int REFERENCES public.tokens)",
        "INSERT INTO public.uses VALUES (3)",
    )
    with pytest.raises(MaintenanceError, match="are referred to by another table"):
        call(TASK, **TOKENS)


def test_what_is_left_when_time_is_over_goes_with_the_next_run(tokens: Installation) -> None:
    options: dict[str, Any] = {"batch_size": 10, "statement_timeout_s": 5}
    done = clean_up(tokens, "warehouse", OURS, **options, longest_s=-1)
    assert (done.deleted, done.more) == (0, True)


def test_a_batch_has_no_more_time_than_the_run_has_left(tokens: Installation) -> None:
    run_sql(
        tokens,
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF old.id > 10 THEN PERFORM pg_sleep(20); END IF; RETURN old; END $$",
        "CREATE TRIGGER slow BEFORE DELETE ON public.tokens FOR EACH ROW EXECUTE FUNCTION public.slow()",
    )
    options: dict[str, Any] = {"batch_size": 10, "statement_timeout_s": 15}
    begun_s = monotonic_s()
    done = clean_up(tokens, "warehouse", OURS, **options, longest_s=1)
    assert monotonic_s() - begun_s < 10
    assert (done.deleted, done.more) == (10, True)
    with pytest.raises(
        MaintenanceError, match=r"10 rows of public\.tokens took longer than \S+ s: .* 0 rows were deleted"
    ):
        clean_up(tokens, "warehouse", OURS, **options, longest_s=1)  # one that never ends is not put off for ever


def test_it_can_be_scheduled_from_the_command_line(tokens: Installation) -> None:
    from beatline.schedules import store
    from beatline.schedules.model import read_spec

    with tokens.engine.begin() as conn:
        spec = {"task": f"maintenance.{TASK}", "cron": "0 4 * * *", "kwargs": TOKENS}
        made = store.add(conn, read_spec("clean", spec), who="test")
    assert made.kwargs == TOKENS
    with pytest.raises(BeatlineError):
        tokens.settings.replaced(cleanup_tables=("tokens",))
