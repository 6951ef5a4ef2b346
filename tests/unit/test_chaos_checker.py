"""The checker of `make chaos` fails on each thing it is there for: a check that cannot fail is worth nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from chaos.checker import Limits, check, recovery_s
from chaos.history import Effect, Execution, Fault, History, Intent, Outcome, Standing

WORKER, OTHER = frozenset({10, 11}), frozenset({20, 21})
LIMITS = Limits(begun=3, recover_s=10.0, lag_s=2.0)


def intent(key: str = "a", outcome: Outcome = "ok", at: float = 1.0, how: str = "delay", after: str | None = None,
           *, strict: bool = False, due: float | None = None) -> Intent:  # fmt: skip
    return Intent(key, outcome, at - 0.1, at, how, strict, after, due)


def body(key: str = "a", number: int = 1, start: float = 2.0, done: float | None = 3.0,
         pids: frozenset[int] = WORKER) -> Execution:  # fmt: skip
    return Execution(key, f"{key}{number}", number, number, pids, start, done)


def effect(key: str = "a", number: int = 1, at: float = 2.9) -> Effect:
    return Effect(key, f"{key}{number}", number, at)


def history(*faults: Fault, **parts: object) -> History:
    """One run, accepted, executed once, and ended; `parts` replace what is to be otherwise."""
    whole = History(
        intents={"a": intent()},
        executions=[body()],
        effects=[effect()],
        faults=faults,
        standings={"a": Standing("a", "succeeded", 1)},
        done={"a": 3.0},
    )
    return replace(whole, **parts)  # type: ignore[arg-type]  # names of fields


def twice(first_done: float | None = 3.0, **parts: object) -> History:
    """The run's effect was taken by two executions."""
    done = {"a": first_done if first_done is not None else 8.0}
    executions = [body(done=first_done), body(number=2, start=7.0, done=8.0, pids=OTHER)]
    return history(executions=executions, effects=[effect(), effect(number=2, at=7.9)], done=done, **parts)


def violations(of: History, limits: Limits = LIMITS) -> tuple[str, ...]:
    return check(of, limits).violations


def killed(at: float = 2.95, healed: float = 2.99) -> Fault:
    return Fault("SIGKILL", at, healed, killed=frozenset({10}))


def wiped(at: float = 1.5, behind: int | None = 5) -> Fault:
    return Fault("FLUSHALL", at, at + 0.1, lost_data=True, behind=behind)


def test_a_run_that_was_accepted_executed_once_and_ended_passes() -> None:
    verdict = check(history(), LIMITS)
    assert verdict.violations == ()
    assert (verdict.accepted, verdict.lost, verdict.doubled) == (1, (), ())


@pytest.mark.parametrize("outcome", ["unknown", "error"])
def test_what_was_not_accepted_may_be_executed_or_not(outcome: Outcome) -> None:
    intents = {"a": intent(outcome=outcome)}
    assert violations(history(intents=intents)) == ()
    assert violations(history(intents=intents, executions=[], effects=[], done={}, standings={})) == ()


def test_a_run_that_was_accepted_and_never_executed_is_lost() -> None:
    lost = history(executions=[], effects=[], done={}, standings={})
    assert check(lost, LIMITS).lost == ("a",)
    assert violations(lost) == ("I1 lost: a",)


def test_a_run_without_a_ledger_is_lost_all_the_same() -> None:
    assert check(history(executions=[], effects=[], done={}, standings=None), LIMITS).lost == ("a",)


def test_a_dead_run_is_not_lost_but_must_say_why() -> None:
    dead = {"a": Standing("a", "dead", 3, "its worker died three times")}
    parts: Mapping[str, object] = {"executions": [], "effects": [], "done": {}}
    assert violations(history(standings=dead, **parts)) == ()
    silent = {"a": Standing("a", "dead", 3, None)}
    assert violations(history(standings=silent, **parts)) == ("I6 ended badly without a word: a",)
    rejected = {"a": Standing("a", "dead", 1, "the task rejected its message")}
    assert violations(history(standings=rejected, **parts)) == ("I1 lost: a",)


def test_a_failed_run_without_an_error_is_a_silent_one() -> None:
    assert violations(history(standings={"a": Standing("a", "failed", 1)})) == ("I6 ended badly without a word: a",)


def test_a_ledger_that_says_succeeded_of_what_was_never_done_lies() -> None:
    lied = history(executions=[], effects=[], done={})
    assert "I1 ended in the ledger, and never done: a" in violations(lied)


def test_an_execution_that_nobody_asked_for_is_invented() -> None:
    assert violations(history(executions=[body(), body("b")])) == ("I2 invented: b",)


def test_an_effect_taken_twice_is_doubled() -> None:
    assert check(twice(), LIMITS).doubled == ("a",)
    assert violations(twice()) == ("I3 doubled: a",)


def test_an_effect_is_doubled_though_another_worker_was_killed() -> None:
    elsewhere = Fault("SIGKILL", 2.95, 2.99, killed=frozenset({99}))
    assert check(twice(faults=[elsewhere]), LIMITS).doubled == ("a",)


@pytest.mark.parametrize("done", [None, 3.0])
def test_a_process_killed_before_its_end_could_be_told_cuts_the_run_short(done: float | None) -> None:
    verdict = check(twice(first_done=done, faults=[killed()]), LIMITS)
    assert (verdict.doubled, verdict.cut_short) == ((), ("a",))
    assert verdict.violations == ()


def test_a_process_killed_long_after_its_end_excuses_nothing() -> None:
    assert check(twice(faults=[killed(at=4.5, healed=4.6)]), LIMITS).doubled == ("a",)


@pytest.mark.parametrize(("step", "at", "how"), [
    ("strict.checked", 8.5, "cut_short"), ("strict.checked", 9.5, "doubled"), ("strict.committed", 8.5, "doubled"),
])  # fmt: skip
def test_only_an_end_that_is_not_committed_yet_is_waited_for_longer(step: str, at: float, how: str) -> None:
    died = Fault(f"a prefork worker died at {step}", at, at + 0.1, killed=frozenset({10}))
    verdict = check(twice(faults=[died]), LIMITS)
    assert (verdict.doubled, verdict.cut_short) == ((("a",), ()) if how == "doubled" else ((), ("a",)))


def test_a_process_killed_before_the_effect_excuses_nothing() -> None:
    """It cannot have taken effect after it was gone: this is another process with its number, or a fence that failed."""
    assert check(twice(faults=[killed(at=1.0, healed=1.1)]), LIMITS).doubled == ("a",)


def test_a_process_that_stood_still_at_its_end_cuts_the_run_short() -> None:
    frozen = Fault("SIGSTOP", 2.95, 9.0, frozen=frozenset({11}))
    assert check(twice(first_done=9.1, faults=[frozen]), LIMITS).cut_short == ("a",)


def test_an_end_that_redis_lost_before_it_was_drained_is_repeated() -> None:
    verdict = check(twice(faults=[wiped(at=3.5)]), LIMITS)
    assert (verdict.doubled, verdict.repeated) == ((), ("a",))
    assert verdict.violations == ()


def test_an_end_that_had_the_time_to_be_drained_is_doubled() -> None:
    assert check(twice(faults=[wiped(at=5.5)]), LIMITS).doubled == ("a",)


def test_a_strict_end_is_not_repeated_whatever_redis_loses() -> None:
    verdict = check(twice(faults=[wiped(at=3.5)], intents={"a": intent(strict=True)}), LIMITS)
    assert (verdict.doubled, verdict.repeated) == (("a",), ())


def test_more_repeated_than_events_had_not_been_drained_is_a_violation() -> None:
    assert any("1 repeated, and 0 events" in said for said in violations(twice(faults=[wiped(at=3.5, behind=0)])))


def never(*faults: Fault, how: str = "delay", at: float = 1.0, standings: object = None) -> History:
    return history(
        *faults, intents={"a": intent(how=how, at=at)}, executions=[], effects=[], done={}, standings=standings or {}
    )


def test_what_redis_alone_had_accepted_and_lost_is_undrained() -> None:
    verdict = check(never(wiped()), LIMITS)
    assert (verdict.lost, verdict.undrained, verdict.violations) == ((), ("a",), ())


def test_what_was_accepted_long_before_redis_lost_its_data_is_lost() -> None:
    assert check(never(wiped(at=9.0)), LIMITS).lost == ("a",)


def test_what_the_ledger_knows_is_not_undrained() -> None:
    assert check(never(wiped(), standings={"a": Standing("a", "queued", 1)}), LIMITS).lost == ("a",)


def test_what_postgresql_had_accepted_is_lost_whatever_redis_loses() -> None:
    assert check(never(wiped(), how="submit"), LIMITS).lost == ("a",)


def test_more_undrained_than_events_had_not_been_drained_is_a_violation() -> None:
    assert any("1 undrained, and 0 events" in said for said in violations(never(wiped(behind=0))))


def test_each_loss_is_bounded_by_what_it_took_along_itself() -> None:
    uncounted = wiped(at=30.0, behind=None)
    assert any("1 undrained, and 0 events" in said for said in violations(never(wiped(behind=0), uncounted)))
    assert violations(never(wiped(behind=None), wiped(at=30.0, behind=0))) == ()
    step = history(wiped(at=3.5, behind=0), intents={"a": intent(), "b": intent("b", after="a")})
    assert any("1 undrained, and 0 events" in said for said in violations(step))


def test_where_nothing_was_refused_to_who_came_back_nothing_was_tried() -> None:
    limits = Limits(refused=1)
    assert violations(history(), limits) == ("I3 0 writes of those that came back were refused, 1 had to be",)
    assert violations(history(refused=1), limits) == ()


def test_a_step_is_undrained_if_the_run_before_it_ended_just_before() -> None:
    intents = {"a": intent(), "b": intent("b", after="a"), "c": intent("c", after="b")}
    late = check(history(wiped(at=3.5), intents=intents), LIMITS)
    assert (late.lost, late.undrained) == ((), ("b", "c"))
    assert check(history(wiped(at=9.0), intents=intents), LIMITS).lost == ("b", "c")


@pytest.mark.parametrize("state", ["queued", "running", "accepted", "delayed", "retrying", "lost"])
def test_a_run_that_the_ledger_does_not_call_ended_is_stuck(state: str) -> None:
    assert violations(history(standings={"a": Standing("a", state, 1)})) == ("I4 stuck: a",)


def test_a_run_that_was_done_and_is_not_in_the_ledger_is_stuck() -> None:
    assert violations(history(standings={})) == ("I4 stuck: a",)


def test_a_run_that_goes_on_losing_its_process_began_too_often() -> None:
    died = [body(number=number, done=None) for number in (2, 3, 4, 5)]
    assert violations(history(executions=[body(), *died])) == ("I4 began too often: a",)
    assert violations(history(executions=[body(), *died[:3]])) == ()


def test_what_was_done_without_its_effect_had_a_fence_that_went_back() -> None:
    assert violations(history(effects=[])) == ("I3 done without its effect: a",)


def test_what_is_left_in_redis_is_residue() -> None:
    assert violations(history(residue=["run:x (-1 s)"])) == ("I7 left in Redis: run:x (-1 s)",)


def test_recovery_is_from_the_healing_until_what_was_interrupted_goes_on() -> None:
    again = history(killed(), executions=[body(done=None), body(number=2, start=9.0, done=9.5)], done={"a": 9.5})
    assert recovery_s(again) == pytest.approx(9.0 - 2.99)
    assert violations(again, replace(LIMITS, recover_s=5.0)) == (
        "I5 went on 6.0 s after the fault, 5 s are the bound",
    )  # fmt: skip


def test_recovery_counts_also_where_nothing_was_interrupted_and_all_of_it_stood_still() -> None:
    still = history(Fault("freeze", 0.5, 1.0), intents={"a": intent(at=0.4)})
    assert recovery_s(still) == pytest.approx(1.0)


def test_what_went_on_all_the_while_needs_no_recovery() -> None:
    unmoved = history(Fault("restart", 2.5, 6.0), executions=[body(), body("b", start=6.1, done=6.2)], intents={
        "a": intent(), "b": intent("b")}, done={"a": 3.0, "b": 6.2}, effects=[effect(), effect("b", at=6.15)],
        standings={key: Standing(key, "succeeded", 1) for key in "ab"})  # fmt: skip
    assert recovery_s(unmoved) == pytest.approx(0.1)


def test_a_sender_that_waits_for_too_long_is_seen() -> None:
    slow = {"a": Intent("a", "ok", 0.0, 5.0)}
    assert violations(history(intents=slow), replace(LIMITS, call_s=3.0)) == (
        "I5 a sender waited for 5.0 s, 3 s are the bound",
    )


@pytest.mark.parametrize(
    ("due", "said"),
    [(0.0, "I5 a delay was 2.0 s late, 1 s are the bound"), (2.5, "I5 began before its time: a"), (1.5, None)],
)
def test_a_delay_begins_neither_early_nor_late(due: float, said: str | None) -> None:
    found = violations(history(intents={"a": intent(due=due)}), replace(LIMITS, late_s=1.0))
    assert found == ((said,) if said else ())


def test_what_still_waits_in_a_queue_is_stuck_and_not_lost_and_so_are_its_steps() -> None:
    intents = {"a": intent(), "b": intent("b", after="a")}
    late = check(
        history(intents=intents, executions=[], effects=[], done={}, standings=None, waiting=frozenset("a")), LIMITS
    )
    assert (late.lost, late.violations) == ((), ("I4 stuck: a",))
