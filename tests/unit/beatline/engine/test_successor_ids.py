"""Ids of links follow from the run and the place; what has an id keeps it, and nothing given is changed."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from celery import chain, chord, group, signature

from beatline.engine.successors import name_successors
from beatline.names import successor_run_id


def sig(name: str, **options: Any) -> Any:
    return signature(name, options=options)


def ids(named: object) -> list[str]:
    """Every id in there, as they stand."""
    return re.findall(r'"task_id": "([^"]+)"', json.dumps(named))


def links() -> list[Any]:
    return [
        sig("a"),
        chain(sig("b"), chord([sig("c"), sig("d")], sig("e"))),
        group(sig("f"), chain(sig("g"), sig("h"))),
    ]


def test_links_are_named_alike_each_time_and_apart_by_run_and_place() -> None:
    first, again, other = (name_successors({"callbacks": links()}, run)["callbacks"] for run in ("r1", "r1", "r2"))
    assert ids(first) == ids(again)
    assert len(set(ids(first))) == 10, "8 tasks, a chord's header, a group"
    assert set(ids(first)).isdisjoint(ids(other))
    errbacks = name_successors({"errbacks": links()}, "r1")["errbacks"]
    assert set(ids(first)).isdisjoint(ids(errbacks))
    assert successor_run_id("r1", "link.0") in ids(first)


def test_a_list_that_came_back_from_a_message_is_named_as_before() -> None:
    first = name_successors({"callbacks": links()}, "r1")
    assert name_successors(json.loads(json.dumps(first)), "r1") == json.loads(json.dumps(first))


def test_nothing_given_is_changed_and_ids_of_the_caller_s_stay() -> None:
    given = [sig("a", task_id="mine"), chain(sig("b"), sig("c")).set(task_id="last"), links()[1]]
    before = copy.deepcopy(json.dumps(given))
    named = name_successors({"callbacks": given, "errbacks": None, "chain": None}, "r1")
    assert json.dumps(given) == before
    alone, steps, _ = named["callbacks"]
    assert alone["options"]["task_id"] == "mine"
    assert steps["kwargs"]["tasks"][1]["options"]["task_id"] == "last", "a chain's id is its last task's"
    assert (named["errbacks"], named["chain"]) == (None, None)


def test_a_retry_by_people_calls_runs_of_its_own() -> None:
    old = name_successors({"errbacks": [*links(), sig("z", task_id="mine")]}, "old")
    new = name_successors(old, "new", former="old")
    assert set(ids(new)) & set(ids(old)) == {"mine"}
    assert ids(new) == ids(name_successors({"errbacks": [*links(), sig("z", task_id="mine")]}, "new"))


def test_the_errbacks_of_a_chord_s_body_are_named_in_every_message_of_its_header() -> None:
    body = sig("body", task_id="b1", link_error=[sig("oops")])
    named = name_successors({"chord": body}, "part-1")["chord"]
    assert named == name_successors({"chord": body}, "part-2")["chord"]
    assert named["options"]["link_error"][0]["options"]["task_id"] == successor_run_id("b1", "link_error.0")
    assert "task_id" not in body.options["link_error"][0].options


def test_what_is_no_signature_is_left_to_celery() -> None:
    assert name_successors({"callbacks": ["nonsense", 7], "chord": "x"}, "r1")["callbacks"] == ["nonsense", 7]
