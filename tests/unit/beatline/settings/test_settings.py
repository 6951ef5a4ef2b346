"""Where settings come from, what they accept, and that they never show a secret."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.pretty import pretty_repr

from beatline.embedded import runfile
from beatline.errors import NotRunningError, SettingsError
from beatline.settings import Settings, read_variable

REDIS = "redis://:hush@127.0.0.1:6379/0"
DATABASE = "postgresql://beatline:hush@127.0.0.1:5432/app"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Both servers named, so that a test can look at something else."""
    monkeypatch.setenv("BEATLINE_REDIS_URL", REDIS)
    monkeypatch.setenv("BEATLINE_DATABASE_URL", DATABASE)
    return monkeypatch


def origins(settings: Settings) -> dict[str, str]:
    return {row.name: row.origin for row in settings.shown()}


def problems(**overrides: Any) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        Settings.load(**overrides)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return list(refused.value.problems)


def test_the_own_name_goes_before_the_usual_ones_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("BEATLINE_REDIS_URL=redis://ours/0\nDATABASE_URL=postgres://file/app\n")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://celery/0")
    monkeypatch.setenv("REDIS_URL", "redis://usual/0")
    settings = Settings.load()
    assert settings.redis_url == "redis://ours/0"
    assert origins(settings)["redis_url"] == "BEATLINE_REDIS_URL (.env)"
    assert origins(settings)["database_url"] == "DATABASE_URL (.env)"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CELERY_BROKER_URL": "redis://celery/0", "REDIS_URL": "redis://usual/0"}, "redis://celery/0"),
        ({"REDIS_URL": "rediss://usual/0", "REDIS_HOST": "parts"}, "rediss://usual/0"),
        ({"REDIS_HOST": "parts"}, "redis://parts:6379/0"),
        (
            {"REDIS_HOST": "parts", "REDIS_PORT": "1234", "REDIS_DB": "5", "REDIS_PASSWORD": "p@/#"},
            "redis://:p%40%2F%23@parts:1234/5",
        ),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "tcp://10.0.0.1:7000"}, "redis://[::1]:7000/0"),
        ({"BEATLINE_REDIS_URL": "  ", "REDIS_URL": "redis://usual/0"}, "redis://usual/0"),
    ],
)
def test_redis_is_found_under_its_usual_names(
    variables: dict[str, str], expected: str, servers: pytest.MonkeyPatch
) -> None:
    servers.delenv("BEATLINE_REDIS_URL")
    for name, value in variables.items():
        servers.setenv(name, value)
    assert Settings.load().redis_url == expected


def test_the_file_of_the_environment_goes_before_the_common_one(tmp_path: Path, servers: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("BEATLINE_ENV=staging\nBEATLINE_HISTORY_DAYS=7\nBEATLINE_LEASE_S=60\n")
    (tmp_path / ".env.staging").write_text("BEATLINE_HISTORY_DAYS=8\nBEATLINE_LEASE_RENEW_S=9\n")
    (tmp_path / ".env.production").write_text("BEATLINE_HISTORY_DAYS=9\n")
    settings = Settings.load()
    assert (settings.env, settings.history_days, settings.lease_s, settings.lease_renew_s) == ("staging", 8, 60, 9)
    assert origins(settings)["history_days"] == "BEATLINE_HISTORY_DAYS (.env.staging)"
    servers.setenv("BEATLINE_ENV", "production")
    assert Settings.load().history_days == 9
    servers.setenv("BEATLINE_HISTORY_DAYS", "10")
    assert Settings.load().history_days == 10


def test_variables_of_others_are_ignored_and_misspelt_ones_named(tmp_path: Path, servers: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("DJANGO_SECRET_KEY=x\nBEATLINE_REDIS_ULR=redis://typo/0\n")
    settings = Settings.load()
    assert settings.redis_url == REDIS
    assert settings.strangers() == (("BEATLINE_REDIS_ULR", ".env"),)


def test_every_problem_is_told_at_once_with_its_variable_and_a_right_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("BEATLINE_LOG_FORMAT=xml\n")
    for name, value in {
        "CELERY_BROKER_URL": "amqp://guest:hush@rabbit//",
        "DATABASE_URL": "mysql://root:hush@db/app",
        "BEATLINE_LEASE_S": "soon",
        "BEATLINE_FLOWER_PORT": "99999",
        "BEATLINE_QUEUES": "good,not good",
        "BEATLINE_KEY_PREFIX": "plain:",
        "BEATLINE_BEAT_INTERVAL_S": "3",
        "BEATLINE_TASK_MODULES": "my-tasks",
    }.items():
        monkeypatch.setenv(name, value)
    told = problems()
    assert [line.partition(":")[0] for line in told] == [
        "CELERY_BROKER_URL",
        "DATABASE_URL",
        "BEATLINE_KEY_PREFIX",
        "BEATLINE_TASK_MODULES",
        "BEATLINE_QUEUES",
        "BEATLINE_LEASE_S",
        "BEATLINE_BEAT_LOCK_S",
        "BEATLINE_LOG_FORMAT in .env",
        "BEATLINE_FLOWER_PORT",
    ]
    assert all("Example: BEATLINE_" in line for line in told)
    assert "amqp:// is no Redis" in told[0]
    assert "hush" not in "\n".join(told)
    assert "must be 'auto', 'console' or 'json', not 'xml'" in told[7]


def test_every_example_is_right() -> None:
    given: dict[str, Any] = {name: field.examples[0] for name, field in Settings.model_fields.items() if field.examples}
    settings = Settings.load(**given)
    assert settings.queues == ("invoices", "thumbnails")
    assert settings.task_modules == ("myproject.tasks",)
    assert settings.database_url.startswith("postgresql+psycopg2://")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p@h:1/d", "postgresql+psycopg2://u:p@h:1/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+psycopg2://h/d?sslmode=require"),
        ("postgresql+psycopg2:///d?host=/run/pg", "postgresql+psycopg2:///d?host=/run/pg"),
    ],
)
def test_the_driver_is_named_in_the_database_url(url: str, expected: str) -> None:
    assert Settings(database_url=url).database_url == expected


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("database_url", "postgresql+asyncpg://u:hush@h/d", "names the driver asyncpg"),
        ("database_url", "sqlite:///file.db", "sqlite:// is no PostgreSQL"),
        ("database_url", "postgresql://u:hush@h", "names no database"),
        ("redis_url", "localhost:6379", "is not a URL"),
        ("redis_url", "redis://:hu/sh@h:6379/0", "percent-encoded"),
        ("redis_url", "redis://:hush@h:6379/zero", "number of a database"),
        ("redis_url", "redis://:hu sh@h:6379/0", "white space"),
        ("redis_url", "redis://", "names no host"),
        ("lease_renew_s", 7, "a third of BEATLINE_LEASE_S"),
        ("lease_s", "nan", "finite"),
        ("lease_s", 301, "at most 300, the hard time limit of the queue default"),
        ("beat_lock_s", 4, "greater than or equal to 5"),
        ("data_schema", "beatline", "another schema"),
        ("database_schema", "Robert'; DROP", "lower-case letters"),
        ("env", "../../etc", "letters, digits"),
        ("history_days", 0, "greater than or equal to 1"),
        ("unknown_field", 1, "is no setting"),
    ],
)
def test_what_is_refused(field: str, value: object, said: str) -> None:
    servers: dict[str, Any] = {"redis_url": REDIS, "database_url": DATABASE}
    told = problems(**(servers | {field: value}))
    assert len(told) == 1
    assert said in told[0]
    assert "hu" not in told[0].replace("thumbnails", "")


def test_without_any_server_one_sentence_names_up_and_both_variables(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError) as refused:
        Settings.load()
    for word in ("beatline up", "BEATLINE_REDIS_URL", "BEATLINE_DATABASE_URL", str(tmp_path / ".beatline")):
        assert word in str(refused.value)
    assert Settings.load(services=False).redis_url == ""


def test_one_missing_server_is_named_beside_the_other_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", REDIS)
    monkeypatch.setenv("BEATLINE_HISTORY_DAYS", "many")
    told = problems()
    assert [line.partition(":")[0] for line in told] == ["BEATLINE_HISTORY_DAYS", "BEATLINE_DATABASE_URL"]
    assert "nor is DATABASE_URL" in told[1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("REDIS_PORT", "http", "REDIS_PORT: must be a port"), ("REDIS_DB", "x", "REDIS_DB: must be the number")],
)
def test_a_wrong_part_of_redis_is_named_alone(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_HOST", "h")
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    monkeypatch.setenv(name, value)
    [told] = problems()
    assert told.startswith(said)


def test_the_running_up_is_found_where_nothing_is_configured(tmp_path: Path) -> None:
    home = tmp_path / ".beatline"
    home.mkdir()
    lock = runfile.hold(home)
    try:
        runfile.publish(home, runfile.RunningUp(pid=1, redis_url=REDIS, database_url=DATABASE, flower_url=None))
        settings = Settings.load()
        assert settings.redis_url == REDIS
        assert settings.database_url == f"postgresql+psycopg2://{DATABASE.partition('://')[2]}"
        assert origins(settings)["database_url"] == f"running `beatline up` on {home}"
        assert Settings.load(redis_url=REDIS).database_url == settings.database_url
        assert Settings.load(database_url=DATABASE).redis_url == REDIS
        both = Settings.load(redis_url="redis://other/0", database_url=DATABASE)
        assert both.redis_url == "redis://other/0"
        with pytest.raises(SettingsError, match="another server than the one of the running `beatline up`") as refused:
            Settings.load(redis_url="redis://:hush@other/0")
        assert "Set BEATLINE_DATABASE_URL too" in str(refused.value)
        assert "hush" not in str(refused.value)
    finally:
        lock.release()
    with pytest.raises(NotRunningError):
        Settings.load()


def test_no_print_shows_a_secret(servers: pytest.MonkeyPatch) -> None:
    servers.setenv("BEATLINE_RESULT_URL", "redis://user:hush@results/1")
    servers.setenv("BEATLINE_SECRET_KEYS", "k1:hush")
    settings = Settings.load()
    printed = [
        repr(settings),
        str(settings),
        f"{settings}",
        pretty_repr(settings),
        repr(settings.model_dump()),
        settings.model_dump_json(),
        repr(settings.shown()),
        repr([settings]),
    ]
    assert not [text for text in printed if "hush" in text]
    assert "redis://user:***@results/1" in printed[0]
    assert settings.redis_url == REDIS
    with pytest.raises(ValidationError) as refused:
        Settings(redis_url="amqp://u:hush@h", secret_keys=5)  # type: ignore[arg-type]  # wrong on purpose
    assert "hush" not in str(refused.value)


def test_settings_are_frozen_and_can_be_sent_to_a_child(servers: pytest.MonkeyPatch) -> None:
    settings = Settings.load(home=Path("data"))
    with pytest.raises(ValidationError):
        settings.lease_s = 5
    assert settings.home.is_absolute()
    copy = pickle.loads(pickle.dumps(settings))  # noqa: S301  # our own object
    assert copy == settings
    assert hash(copy) == hash(settings)
    assert settings.keys.prefix == "{beatline}:"


def test_replacing_checks_everything_again_and_keeps_the_rest(servers: pytest.MonkeyPatch) -> None:
    settings = Settings.load(services=False, history_days=3).replaced(redis_url="redis://new/0")
    assert (settings.redis_url, settings.result_url, settings.history_days) == ("redis://new/0", "redis://new/0", 3)
    assert settings.database_url.endswith(":hush@127.0.0.1:5432/app")
    assert origins(settings)["database_url"] == "BEATLINE_DATABASE_URL (environment)"
    assert "flower_port" not in settings.model_fields_set
    with pytest.raises(SettingsError, match="a third of BEATLINE_LEASE_S"):
        settings.replaced(lease_s=6.0)


def test_an_unreadable_file_is_a_problem_and_a_missing_one_is_not(tmp_path: Path, servers: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes(b"BEATLINE_ENV=\xff\xfe\n")
    [told] = problems()
    assert told.startswith("The file .env cannot be read: it is not UTF-8 text")


def test_a_variable_of_any_layer_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("API_TOKEN=from-file\nOTHER=kept\n")
    monkeypatch.setenv("API_TOKEN", "from-environment")
    assert read_variable("API_TOKEN") == "from-environment"
    assert read_variable("OTHER") == "kept"
    assert read_variable("NOBODY") is None
