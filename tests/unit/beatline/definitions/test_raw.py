"""Specs laid over one another, and secrets by reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beatline.definitions.fields import Field, Shape, fields_of, secret_paths
from beatline.definitions.raw import assignment, drop, laid_over, put, resolve
from beatline.errors import DefinitionError
from support.gadgets import Gadget

NO_VARIABLES: dict[str, str] = {}


def test_fields_of_a_model_and_of_the_models_in_it() -> None:
    assert fields_of(Gadget) == [
        Field(("url",), Shape.TEXT, "TEXT", "where it is"),
        Field(("size",), Shape.TEXT, "N", ""),
        Field(("ratio",), Shape.TEXT, "N", ""),
        Field(("colour",), Shape.TEXT, "red|blue", ""),
        Field(("on",), Shape.TEXT, "yes|no", ""),
        Field(("tags",), Shape.LIST, "TEXT", ""),
        Field(("labels",), Shape.MAP, "TEXT", ""),
        Field(("extra",), Shape.MAP, "TEXT", ""),
        Field(("auth", "type"), Shape.TEXT, "token|login", ""),
        Field(("auth", "token"), Shape.SECRET, "TEXT", ""),
        Field(("auth", "user"), Shape.TEXT, "TEXT", ""),
        Field(("auth", "password"), Shape.SECRET, "TEXT", ""),
        Field(("key",), Shape.SECRET, "TEXT", ""),
    ]
    assert secret_paths(Gadget) == {("auth", "token"), ("auth", "password"), ("key",)}


@pytest.mark.parametrize(
    ("base", "top", "result"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"type": "t", "x": 1}}, {"a": {"type": "t", "y": 2}}, {"a": {"type": "t", "x": 1, "y": 2}}),
        ({"a": {"type": "t", "x": 1}}, {"a": {"type": "u"}}, {"a": {"type": "u"}}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
    ],
)
def test_laying_one_spec_over_another(base: dict[str, Any], top: dict[str, Any], result: dict[str, Any]) -> None:
    before = repr(base)
    assert laid_over(base, top) == result
    assert repr(base) == before


def test_paths_are_put_and_dropped() -> None:
    target: dict[str, Any] = {}
    put(target, ["a", "b"], 1)
    put(target, ["a", "c"], 2)
    drop(target, ["a", "b"])
    assert target == {"a": {"c": 2}}
    with pytest.raises(DefinitionError, match=r"a\.c\.d: a\.c is a plain value"):
        put(target, ["a", "c", "d"], 1)
    for path in (["x"], ["a", "b"], ["a", "c", "d"]):
        with pytest.raises(DefinitionError, match="is not set"):
            drop(target, path)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a=1", (["a"], 1)),
        ("a.b=[1,2]", (["a", "b"], [1, 2])),
        ("a=x=y", (["a"], "x=y")),
        ('a="1"', (["a"], "1")),
        ("a=", (["a"], "")),
    ],
)
def test_assignments_are_json_or_text(text: str, read: tuple[list[str], object]) -> None:
    assert assignment(text) == read


@pytest.mark.parametrize("text", ["a", "=1", " =1"])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(DefinitionError, match="--set takes path=value"):
        assignment(text)


def test_secrets_are_resolved_only_where_the_model_has_one(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("from file \n")
    raw = {
        "extra": {"env": "kept as it is"},
        "key": {"env": "KEY"},
        "auth": {"type": "login", "user": "ann", "password": {"file": "pass"}},
    }
    resolved = resolve(raw, secret_paths(Gadget), {"KEY": "from env"}.get, tmp_path)
    assert resolved == {
        "extra": {"env": "kept as it is"},
        "key": "from env",
        "auth": {"type": "login", "user": "ann", "password": "from file "},
    }
    assert raw["key"] == {"env": "KEY"}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"env": "NOBODY"}, "key: the environment variable NOBODY is not set"),
        ({"file": "absent"}, "absent cannot be read: No such file"),
        ({"file": "empty"}, "is empty"),
        ({"vault": "x"}, "key: a secret is text"),
        ({"env": "A", "file": "b"}, "key: a secret is text"),
        ({"env": 5}, "key: a secret is text"),
        ({}, "key: a secret is text"),
    ],
)
def test_references_that_lead_nowhere(reference: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DefinitionError) as refused:
        resolve({"key": reference}, secret_paths(Gadget), NO_VARIABLES.get, tmp_path)
    assert said in str(refused.value)
