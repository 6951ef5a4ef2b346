"""A file is applied as a whole, and a second time changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from beatline.definitions import store
from beatline.definitions.apply import Step, apply
from beatline.definitions.file import read_file
from beatline.errors import BeatlineError, DefinitionError, SecretError
from beatline.installation import Installation
from beatline.ledger.model import audit, definitions, schedules
from beatline.schedules import store as schedule_store
from support.gadgets import KIND
from support.serving import MakeSettings

NO_VARIABLES: dict[str, str] = {}

FILE = """
[gadgets.lamp]
url = "https://h/"
size = 2
key = "hush"

[schedules.nightly]
task = "gadget.use_gadget"
cron = "0 2 * * *"
tz = "Asia/Shanghai"
args = ["lamp"]

[schedules.often]
task = "x.y"
every = "5m"
"""


def run(installation: Installation, text: str) -> list[Step]:
    path = Path("beatline.toml")
    path.write_text(text)
    contents = read_file(path, [KIND], NO_VARIABLES.get)
    with installation.engine.begin() as conn:
        return apply(conn, contents, {KIND.name: KIND}, lambda: installation.keyring, who="ann@h")


def told(steps: list[Step]) -> list[tuple[str, str, str, dict[str, object]]]:
    return [(s.kind, s.name, s.action, {c.field: (c.before, c.after) for c in s.changes}) for s in steps]


def counts(installation: Installation) -> tuple[int, ...]:
    with installation.engine.connect() as conn:
        return tuple(
            conn.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (definitions, schedules, audit)
        )


def test_a_second_time_changes_nothing(installation: Installation) -> None:
    first = told(run(installation, FILE))
    assert [step[:3] for step in first] == [
        ("gadget", "lamp", "add"),
        ("schedule", "nightly", "add"),
        ("schedule", "often", "add"),
    ]
    assert first[0][3] == {"url": (None, "https://h/"), "size": (None, 2), "key": (None, "***")}
    assert set(first[1][3]) == {"task", "args", "trigger"}
    before = counts(installation)
    assert before == (1, 2, 3)
    again = told(run(installation, FILE))
    assert [(step[2], step[3]) for step in again] == [("unchanged", {})] * 3
    assert counts(installation) == before


def test_the_difference_names_fields_and_hides_secrets(installation: Installation) -> None:
    run(installation, FILE)
    changed = FILE.replace("size = 2\n", "").replace('"hush"', '"hush too"').replace("0 2 * * *", "0 3 * * *")
    steps = told(run(installation, changed))
    assert steps[0] == ("gadget", "lamp", "change", {"size": (2, None), "key": ("***", "***")})
    assert steps[1][2:] == (
        "change",
        {
            "trigger": (
                {"type": "cron", "expr": "0 2 * * *", "tz": "Asia/Shanghai"},
                {"type": "cron", "expr": "0 3 * * *", "tz": "Asia/Shanghai"},
            )
        },
    )
    assert steps[2][2:] == ("unchanged", {})


def test_what_an_operator_made_becomes_the_files(installation: Installation) -> None:
    run(installation, FILE)
    with installation.engine.begin() as conn:
        conn.execute(definitions.update().values(owner="operator"))
        conn.execute(schedules.update().values(owner="operator"))
    owner = {"owner": ("operator", "file")}
    assert [(step[2], step[3]) for step in told(run(installation, FILE))] == [("change", owner)] * 3
    assert [step[2] for step in told(run(installation, FILE))] == ["unchanged"] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        FILE.replace('args = ["lamp"]', 'args = ["lmap"]'),
        FILE + '[schedules.past]\ntask = "x.y"\nat = 2001-01-01T00:00:00Z\n',
    ],
)
def test_nothing_is_written_if_anything_is_wrong(wrong: str, installation: Installation) -> None:
    with pytest.raises(DefinitionError, match=r"Schedule '(nightly|past)'"):
        run(installation, wrong)
    assert counts(installation) == (0, 0, 0)


def test_a_schedule_may_name_what_is_stored_already(installation: Installation) -> None:
    run(installation, FILE)
    alone = '[schedules.other]\ntask = "gadget.use_gadget"\nevery = 60\nkwargs = { gadget_id = "%s" }\n'
    assert run(installation, alone % "lamp")[0].action == "add"
    with pytest.raises(BeatlineError, match="no gadget 'lmap'"):
        run(installation, alone % "lmap")
    with installation.engine.connect() as conn:
        assert [one.name for one in schedule_store.list_schedules(conn)] == ["nightly", "often", "other"]
        assert [one.name for one in store.list_definitions(conn, "gadget")] == ["lamp"]


def test_without_a_key_nothing_with_a_secret_is_written(make_settings: MakeSettings) -> None:
    keyless = Installation(make_settings().replaced(secret_keys=None))
    with pytest.raises(SecretError, match="BEATLINE_SECRET_KEYS is not set"):
        run(keyless, FILE)
    assert counts(keyless) == (0, 0, 0)
    assert run(keyless, FILE.replace('key = "hush"', ""))[0].action == "add"
