"""docker-compose.yml and the image: against their schemas, the queue table, the settings, and what must never be in them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from beatline.cli import NOUNS
from beatline.queues.topology import TOPOLOGY
from beatline.settings import Settings
from beatline.settings_sources import COMPOSE_NAMES, variable_of
from support.compose import (
    DOCKERFILE,
    FILE,
    SECRETS,
    MissingVariableError,
    Service,
    image_environment,
    read,
    seconds,
)
from support.sizes import ROOT

SERVICES: Final = read(SECRETS)
OURS: Final = {name: one for name, one in SERVICES.items() if one.raw["image"].startswith("beatline")}
WORKERS: Final = {name: one for name, one in OURS.items() if one.command[:2] == ("beatline", "worker")}
TEXT: Final = FILE.read_text("utf-8")
# `beatline up` alone reads these, or the command line in the file gives them.
NOT_PASSED_ON: Final = {
    "BEATLINE_ENV", "BEATLINE_API_HOST", "BEATLINE_API_PORT", "BEATLINE_FLOWER_HOST", "BEATLINE_FLOWER_PORT",
    "BEATLINE_EMBEDDED_REDIS_PORT", "BEATLINE_EMBEDDED_POSTGRES_PORT",
}  # fmt: skip


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool of the environment that runs the tests."""
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def option(command: Sequence[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


def in_lower(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment's variables under the names of their settings."""
    return {name.removeprefix("BEATLINE_").lower(): value for name, value in environment.items()}


def served(service: Service) -> set[str]:
    queues = option(service.command, "-Q")
    assert queues
    return {queue.name for queue in TOPOLOGY} if queues == "*" else set(queues.split(","))


def test_the_file_is_what_the_schema_of_compose_allows(tmp_path: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = tool("check-jsonschema", *schema, FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(TEXT.replace("interval:", "intervall:"))
    assert tool("check-jsonschema", *schema, wrong).returncode == 1


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.tasks"])
def test_the_dockerfiles_are_clean(name: str) -> None:
    done = tool("hadolint", DOCKERFILE.parent / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_of_the_platform_is_there() -> None:
    assert set(OURS) == {
        "migrate", "beat", "worker-default", "worker-collect", "worker-etl", "worker-report", "worker-email",
        "worker-heavy", "worker-backup", "recorder", "api", "flower",
    }  # fmt: skip
    assert set(SERVICES) - set(OURS) == {"redis", "postgres"}


def test_every_queue_has_a_pool_of_its_own_and_the_backup() -> None:
    pools = {name: served(one) for name, one in WORKERS.items() if name != "worker-backup"}
    consumed = [queue for queues in pools.values() for queue in queues]
    assert sorted(consumed) == sorted(queue.name for queue in TOPOLOGY)
    assert pools["worker-default"] == {"default", "workflow"}
    assert all(name == f"worker-{queue}" for name, queues in pools.items() for queue in queues if len(queues) == 1)


def test_the_backup_serves_every_queue_one_run_at_a_time() -> None:
    backup = WORKERS["worker-backup"].command
    assert option(backup, "-Q") == "*", "queues of BEATLINE_QUEUES are served too"
    assert option(backup, "--concurrency") == "1"


def test_what_the_queue_table_says_is_said_nowhere_else() -> None:
    for name, service in WORKERS.items():
        given = {word for word in service.command if word.startswith("-")} - {"-Q"}
        pools = {queue.pool for queue in TOPOLOGY if queue.name in served(service)}
        mixed = {"--pool"} if len(pools) > 1 else set[str]()
        assert given == mixed | ({"--concurrency"} if name == "worker-backup" else set()), name


def test_a_worker_can_be_started_any_number_of_times() -> None:
    for name, service in WORKERS.items():
        assert not {"container_name", "ports", "hostname"} & service.raw.keys(), name
        assert "-n" not in service.command, "a name of its own is made of its host and its pid"


def test_nothing_is_published_beyond_loopback_but_by_choice() -> None:
    assert {name: one.ports for name, one in SERVICES.items() if one.ports} == {
        "api": ("127.0.0.1:8000:8000",),
        "flower": ("127.0.0.1:5555:5555",),
    }
    exposed = read({**SECRETS, "BEATLINE_BIND": "10.0.0.7"})
    assert exposed["api"].ports == ("10.0.0.7:8000:8000",)
    assert exposed["flower"].ports == ("127.0.0.1:5555:5555",)


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_is_in_the_file_and_each_must_be_given(name: str) -> None:
    without = {key: value for key, value in SECRETS.items() if key != name}
    with pytest.raises(MissingVariableError, match=rf"{name} is not set; deploy/docker/README.md"):
        read(without)
    assert not re.search(rf"{name}:-", TEXT)


def test_a_password_is_in_no_command() -> None:
    """Arguments of processes are seen by everyone on the machine."""
    for service in SERVICES.values():
        assert not any(secret in word for secret in SECRETS.values() for word in service.command)
        assert service.check is None or not any("hush" in word for word in service.check.argv)


def test_every_setting_reaches_every_container() -> None:
    known = {variable_of(name) for name in Settings.model_fields}
    for name, service in OURS.items():
        passed_on = set(service.raw["environment"])
        assert passed_on <= known, name
        missing = known - passed_on - NOT_PASSED_ON - {"BEATLINE_API_EXPOSED", "BEATLINE_STOP_WITHIN_S"}
        assert not missing, f"{name}: add them to x-environment"


def test_every_variable_of_the_file_is_a_setting_or_known_as_compose_s_own() -> None:
    asked = set(re.findall(r"\$\{(\w+)", TEXT))
    own = asked - {variable_of(name) for name in Settings.model_fields}
    assert own == set(COMPOSE_NAMES)


def test_what_is_set_is_a_setting_s_value() -> None:
    """The URLs, the folders, the times: as Settings take them."""
    for service in OURS.values():
        given: dict[str, Any] = in_lower(service.environment)
        settings = Settings.load(**given)
        assert settings.redis_url == "redis://:redis-hush@redis:6379/0"
        assert settings.home == Path(image_environment()["BEATLINE_HOME"])


def test_a_stopping_worker_has_the_time_to_give_its_runs_back() -> None:
    for name, service in WORKERS.items():
        within_s = float(service.environment["BEATLINE_STOP_WITHIN_S"])
        assert service.grace_s >= within_s + 15, name
        longest_s = max(queue.hard_limit_s for queue in TOPOLOGY if queue.name in served(service))
        assert within_s <= longest_s, f"{name}: no run takes longer"


def test_everything_has_a_health_check_and_comes_back() -> None:
    for name, service in SERVICES.items():
        assert service.raw["restart"] == ("on-failure:3" if name == "migrate" else "unless-stopped")
        assert service.raw["init"] is True
        assert service.raw["logging"]["options"].keys() == {"max-size", "max-file"}
        assert "mem_limit" in service.raw, name
        if name != "migrate":
            assert service.check is not None
            assert service.check.timeout_s <= service.check.interval_s


def test_ours_start_when_the_servers_answer_and_the_tables_are_there() -> None:
    for name, service in OURS.items():
        conditions = {key: value["condition"] for key, value in service.raw["depends_on"].items()}
        servers = {"postgres": "service_healthy"}
        if name != "migrate":
            servers |= {"redis": "service_healthy", "migrate": "service_completed_successfully"}
        assert conditions == servers, name


def test_ours_can_write_nowhere_but_where_they_must() -> None:
    for service in OURS.values():
        raw: Any = service.raw
        assert raw["read_only"] is True
        assert raw["cap_drop"] == ["ALL"]
        assert raw["security_opt"] == ["no-new-privileges:true"]
        assert service.tmpfs == ("/tmp",)  # noqa: S108  # in a container
        assert set(service.mounts) == {"/var/lib/beatline", "/tasks"}
        assert Path(service.environment["BEATLINE_HEALTH_FOLDER"]).parent == Path(service.tmpfs[0])


def test_redis_keeps_what_it_took_and_refuses_what_it_has_no_room_for() -> None:
    (script,) = [word for word in SERVICES["redis"].command if "redis-server" in word]
    assert {"appendonly yes", "maxmemory-policy noeviction", "requirepass $REDISCLI_AUTH"} <= set(script.splitlines())
    assert SERVICES["redis"].mounts == {"/data": "redis"}
    assert SERVICES["postgres"].mounts == {"/var/lib/postgresql/data": "postgres"}


def test_every_command_is_one_that_there_is() -> None:
    for service in OURS.values():
        program, *rest = service.command
        assert (program == "beatline" and rest[0] in NOUNS) or (program, *rest[:2]) == ("celery", "-A", "beatline")


def test_durations_are_read() -> None:
    assert [seconds(text) for text in ("15s", "2m", "1m30s")] == [15, 120, 90]


def test_the_image_holds_what_is_locked_and_runs_without_root() -> None:
    text = DOCKERFILE.read_text("utf-8")
    assert "ARG BASE=python:3.13-slim" in text
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    assert text.count("--require-hashes --no-deps --only-binary :all:") == 2
    assert not re.search(r"--mount|<<|://|index-url|# syntax", text), "BuildKit is not needed, and no host is named"
    assert image_environment()["PYTHONPATH"] == "/tasks:/app"


def test_the_derived_image_has_three_lines_and_this_version() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        version = tomllib.load(stream)["project"]["version"]
    derived = (DOCKERFILE.parent / "Dockerfile.tasks").read_text("utf-8")
    assert len(derived.splitlines()) == 3
    assert derived.startswith(f"FROM beatline:{version}\n")
    assert {one.raw["image"] for one in OURS.values()} == {f"beatline:{version}"}
    assert derived in (DOCKERFILE.parent / "README.md").read_text("utf-8")


def test_the_recipe_of_the_readme_makes_an_env_file_that_is_enough(tmp_path: Path) -> None:
    recipe = re.search(r"```sh\n(\(umask.*?)```", (DOCKERFILE.parent / "README.md").read_text("utf-8"), re.DOTALL)
    assert recipe
    if shutil.which("openssl") is None:
        pytest.skip("the recipe needs openssl")
    subprocess.run(["sh", "-ec", recipe[1]], cwd=tmp_path, check=True)  # noqa: S607  # whichever sh there is
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o777 == 0o600
    variables = dict(line.split("=", 1) for line in made.read_text().splitlines())
    environment = read(variables)["beat"].environment
    given: dict[str, Any] = in_lower(environment)
    from beatline.secrets import Keyring

    settings = Settings.load(**given)
    assert Keyring.load(settings).encrypt(b"x", bound_to="y")


def test_the_build_sees_what_it_copies_and_nothing_more() -> None:
    copied = {
        word for line in DOCKERFILE.read_text("utf-8").splitlines() if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }  # fmt: skip
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
