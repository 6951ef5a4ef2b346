"""The READMEs say the same in both languages, and what they say to type exists: commands, options, definitions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from beatline.cli import NOUNS
from beatline.cli.root import Root, load
from beatline.definitions.file import read_file
from beatline.families import kinds
from support.sizes import ROOT

ENGLISH: Final = ROOT / "README.md"
CHINESE: Final = ROOT / "README.zh-CN.md"
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_COMMAND: Final = re.compile(r"(?:^|.*exec recorder |.*\$\()(beatline [^)]*)\)?$")
_PLACEHOLDERS: Final = {"NAME", "ID"}


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#.*$", "", line).rstrip()


def blocks(file: Path, language: str) -> list[list[str]]:
    """The fenced blocks of a language: their lines without comments, continued ones joined."""
    found = [body for name, body in _FENCE.findall(file.read_text("utf-8")) if name == language]
    return [
        [line for line in map(_without_comment, re.sub(r"\\\n\s*", "", body).splitlines()) if line] for body in found
    ]


def commands(file: Path) -> Iterator[str]:
    """Every `beatline …` that is to be typed: in a block, a table or a sentence."""
    spans = _SPAN.findall(_FENCE.sub("", file.read_text("utf-8")))
    for text in (*(line for block in blocks(file, "sh") for line in block), *spans):
        match = _COMMAND.match(text)
        if match:
            yield match[1]


def mistaken(command: str) -> str | None:
    """Why this cannot be typed: a noun, a sub-command or an option of it that is none; None if it can."""
    words = [word for word in shlex.split(command)[1:] if word not in _PLACEHOLDERS]
    noun = words.pop(0).partition("|")[0]
    if noun not in Root().list_commands(None):
        return f"there is no `beatline {noun}`"
    found: Any = load(noun)
    verbs = getattr(found, "commands", None)
    if verbs is not None and words and not words[0].startswith("-"):
        verb = words.pop(0)
        if verb not in verbs:
            return f"`beatline {noun}` has no {verb}"
        found = verbs[verb]
    known = {option for parameter in found.params for option in parameter.opts} | {"--help", "--"}
    strange = [word for word in words if re.match(r"--?[a-zA-Z]", word) and word not in known]
    return f"`beatline {noun}` knows no {', '.join(strange)}" if strange else None


@pytest.mark.parametrize("language", ["sh", "toml", "python"])
def test_both_languages_have_the_same_code(language: str) -> None:
    assert blocks(ENGLISH, language)
    assert blocks(CHINESE, language) == blocks(ENGLISH, language)


def test_both_languages_name_the_same_commands() -> None:
    assert sorted(set(commands(CHINESE))) == sorted(set(commands(ENGLISH)))


@pytest.mark.parametrize("command", sorted(set(commands(ENGLISH))))
def test_what_is_to_be_typed_exists(command: str) -> None:
    assert mistaken(command) is None


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("beatline sauces list", "no `beatline sauces`"),
        ("beatline sources lits", "has no lits"),
        ("beatline runs list --stat failed", "knows no --stat"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(command: str, why: str) -> None:
    assert why in str(mistaken(command))


def test_it_names_every_noun_and_every_kind() -> None:
    """What a person can do is found from the README, if only by its name."""
    named = {word for command in commands(ENGLISH) for word in command.split()[1].split("|")}
    assert {*NOUNS, *(kind.plural for kind in kinds().values())} - named == set()


def test_its_definitions_can_be_applied(tmp_path: Path) -> None:
    (block,) = blocks(ENGLISH, "toml")
    file = tmp_path / "shop.toml"
    file.write_text("\n".join(block), "utf-8")
    contents = read_file(file, kinds().values(), lambda _: "a password")
    assert {wanted.kind.name for wanted in contents.definitions} == {"connection", "job", "report"}
    assert [schedule.name for schedule in contents.schedules] == ["sales", "sales-report"]


@pytest.mark.parametrize("file", [ENGLISH, CHINESE], ids=lambda file: file.name)
def test_its_links_lead_somewhere(file: Path) -> None:
    text = file.read_text("utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / path).exists(), target
        assert not anchor or anchor in headings, target
