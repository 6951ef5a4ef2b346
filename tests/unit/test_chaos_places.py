"""`make chaos ROW=12` crashes at every failpoint of the platform: none is forgotten in its list, none is made up."""

from __future__ import annotations

import ast
from pathlib import Path

import beatline
from chaos import workload
from chaos.places import ELSEWHERE, OF_THE_WORKLOAD, PLACES
from chaos.sides import CRASH_QUEUES

PLATFORM = Path(beatline.__file__).parent


def reached(path: Path) -> set[str]:
    """The names that a module gives to `reach`. Raises AssertionError for one that is not written out there."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "reach":
            (name,) = node.args
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: write the name of a failpoint out"
            names.add(str(name.value))
    return names


def test_the_list_has_every_failpoint_of_the_platform_and_no_other() -> None:
    of_platform = {name for path in PLATFORM.rglob("*.py") for name in reached(path)}
    of_platform = {name for name in of_platform if not name.startswith(ELSEWHERE)}
    assert of_platform | OF_THE_WORKLOAD == {place.name for place in PLACES}


def test_the_workload_reaches_what_the_list_says_of_it() -> None:
    assert reached(Path(workload.__file__)) == OF_THE_WORKLOAD


def test_no_place_is_listed_twice_and_each_has_a_queue_of_its_own() -> None:
    names = [place.name for place in PLACES]
    assert len(names) == len(set(names))
    assert len(CRASH_QUEUES) > len(names)
