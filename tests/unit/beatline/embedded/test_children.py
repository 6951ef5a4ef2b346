"""What the platform's processes get: settings by their environment, nothing secret on their command lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from beatline.embedded import children
from beatline.embedded.plan import WorkerGroup, worker_groups
from beatline.queues.topology import TOPOLOGY, Queue
from beatline.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(
        redis_url="redis://:hidden@127.0.0.1:1/0",
        database_url="postgresql://u:hidden@127.0.0.1:2/d",
        home=tmp_path,
        secret_keys="k:" + "A" * 43 + "=",
        queues=("invoices",),
        lease_s=30,
        allow_private_addresses=True,
    )


def test_a_child_loads_the_settings_that_its_parent_had(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in children.environment_of(settings).items():
        monkeypatch.setenv(name, value)

    loaded = Settings.load()

    for name in Settings.model_fields:
        assert getattr(loaded, name) == getattr(settings, name), name


def test_what_another_program_left_in_the_environment_does_not_part_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*children.BROKER_NAMES, *children.RESULT_NAMES):
        monkeypatch.setenv(name, "redis://elsewhere/3")

    env = children.environment_of(settings)

    assert {env[name] for name in children.BROKER_NAMES} == {settings.redis_url}
    assert {env[name] for name in children.RESULT_NAMES} == {settings.result_url}


def test_no_password_is_on_a_command_line_or_in_a_repr(settings: Settings) -> None:
    env = children.environment_of(settings)
    found = [
        children.beat(settings, env),
        *children.workers(settings, env, worker_groups(TOPOLOGY)),
        children.recorder(settings, env),
        children.flower(settings, env, 5555),
        children.api(settings, env, 8000),
    ]

    assert "hidden" not in " ".join(argument for child in found for argument in child.arguments)
    assert "hidden" not in repr(found)
    assert "hidden" not in "".join(child.what for child in found)


def test_a_group_of_several_processes_has_a_name_for_each(settings: Settings) -> None:
    group = WorkerGroup("collect", (Queue("collect", ""),), processes=2)

    first, second = children.workers(settings, {}, [group])

    assert (first.name, second.name) == ("collect-1", "collect-2")
    assert "collect-2@%h" in second.arguments


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  # nothing is bound
def test_a_url_is_one_that_a_browser_here_can_open(host: str) -> None:
    assert children.url_of(host, 5555) == "http://127.0.0.1:5555/"
