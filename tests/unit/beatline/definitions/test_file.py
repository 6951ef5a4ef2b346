"""A file of definitions is read whole, and everything wrong in it is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from beatline.definitions.file import Contents, read_file
from beatline.errors import DefinitionError
from support.gadgets import KIND

NO_VARIABLES: dict[str, str] = {}

GOOD = """
[gadgets.lamp]
url = "https://h/"
key = { env = "LAMP_KEY" }

[gadgets.fan]
url = "https://f/"

[schedules.nightly]
task = "gadget.use_gadget"
cron = "0 2 * * *"
tz = "Asia/Shanghai"
args = ["lamp"]
"""


def read(tmp_path: Path, text: str) -> Contents:
    path = tmp_path / "beatline.toml"
    path.write_text(text)
    return read_file(path, [KIND], {"LAMP_KEY": "hush"}.get)


def test_definitions_and_schedules_of_a_file(tmp_path: Path) -> None:
    contents = read(tmp_path, GOOD)
    assert [(wanted.kind, wanted.name, wanted.checked.plain) for wanted in contents.definitions] == [
        (KIND, "lamp", {"url": "https://h/", "key": "***"}),
        (KIND, "fan", {"url": "https://f/"}),
    ]
    assert contents.definitions[0].checked.secrets == {("key",): "hush"}
    assert [spec.name for spec in contents.schedules] == ["nightly"]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as refused:
        read(
            tmp_path,
            """
            gadgets.stray = 5
            [gadget.lamp]
            [gadgets.lamp]
            size = 0
            [gadgets.fan]
            url = "u"
            key = { env = "NOBODY" }
            [gadgets."bad name"]
            url = "u"
            [schedules.nightly]
            task = "x.y"
            cron = "0 25 * * *"
            """,
        )
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("beatline.toml: nothing was applied.")
    assert lines[1:] == [
        "gadgets.stray: is a value; write [gadgets.NAME] and the fields below it.",
        "Gadget 'lamp': url: is required; size: must be greater than or equal to 1.",
        "Gadget 'fan': key: the environment variable NOBODY is not set.",
        lines[4],
        "[gadget] is no kind of definition: did you mean [gadgets.…]?",
        lines[-1],
    ]
    assert lines[4].startswith("The gadget name 'bad name' is not allowed: ")
    assert lines[-1].startswith("Schedule 'nightly': ")
    assert "hour" in lines[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gadgets", "is not TOML: "),
        ('a = "\\q"', "is not TOML: "),
        ("gadgets = 5", "gadgets: is a value"),
        ("[whatever]", "known are gadgets, schedules"),
    ],
)
def test_what_is_no_file_of_definitions(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as refused:
        read(tmp_path, text)
    assert said in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, said in (("absent", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8")):
        with pytest.raises(DefinitionError) as refused:
            read_file(tmp_path / name, [KIND], NO_VARIABLES.get)
        assert said in str(refused.value)
