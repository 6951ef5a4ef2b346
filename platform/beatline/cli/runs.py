"""`beatline runs`: the history."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from beatline.cli.output import AsJson, emit, operator, say, visible
from beatline.cli.output import show as shown
from beatline.clock import utc_now
from beatline.errors import BeatlineError
from beatline.installation import Installation
from beatline.ledger.database import guarded, open_engine
from beatline.ledger.history import Attempt, Run, RunFilter, attempts_of, find_run, list_runs, moment, retries_of
from beatline.ledger.states import ENDED, RunState
from beatline.schedules.zones import read_duration_s
from beatline.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Runs: what was asked for, and what became of it.")

_SLOW_S: Final = 30.0
_ID_CHARS: Final = 8
_WHY_CHARS: Final = 70


@app.command("list")
def list_all(
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="Only in this state; may be repeated.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Only of this task; `collect.*` is a family.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-Q", help="Only of this queue.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Only fired by this schedule.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Accepted since: 15m, 2h, 7d, or 2026-11-22 14:00 (local time).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Accepted before: as --since.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Only with this text in id, task, arguments, result, error or reason.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the last runs, the newest first."""
    settings = Settings.load()
    wanted = RunFilter(
        states=frozenset(_state(name) for name in state or ()),
        task=task,
        queue=queue,
        schedule=schedule,
        since=None if since is None else moment(since, utc_now(), "--since"),
        until=None if until is None else moment(until, utc_now(), "--until"),
        text=text,
    )
    with guarded(settings), open_engine(settings).connect() as conn:
        found = list_runs(conn, wanted, limit=limit)
    if as_json:
        emit(found, as_json=True)
        return
    waits = any(run.state is RunState.DELAYED for run in found)
    emit([_line(run, due=waits) for run in found], as_json=False, empty="No run is like that.")
    if len(found) == limit:
        say(f"These are the last {limit}; --limit shows more.")


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how the id begins.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show a run: when it waited and ran, its attempts, its error, and what to do about it."""
    from beatline.ledger.cancel import being_cancelled

    settings = Settings.load()
    with guarded(settings), open_engine(settings).connect() as conn:
        run = find_run(conn, run_id)
        attempts = attempts_of(conn, run.id)
        retries = retries_of(conn, run.id)
        advice = being_cancelled(conn, run.id) or suggestion(run, utc_now())
    if as_json:
        emit(asdict(run) | {"attempts": attempts, "retried_as": list(retries), "suggestion": advice}, as_json=True)
        return
    emit({name: value for name, value in asdict(run).items() if value is not None}, as_json=False)
    if attempts:
        emit([_attempt_line(attempt) for attempt in attempts], as_json=False)
    traceback = next((attempt.traceback for attempt in reversed(attempts) if attempt.traceback), None)
    if traceback and run.state in (RunState.FAILED, RunState.DEAD, RunState.RETRYING):
        typer.echo(visible(traceback))
    if retries:
        say(f"It was retried as {', '.join(retries)}.")
    elif advice:
        say(advice)


@app.command()
def retry(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how the id begins.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Run an ended run once more, with exactly the arguments it had, as a new run that names it as its parent."""
    from beatline.ledger.retry import retry_run  # which imports kombu

    installation = Installation.load()
    with guarded(installation.settings):
        retried = retry_run(installation, run_id, who=operator())
    if as_json:
        emit(retried, as_json=True)
        return
    later = "" if retried.queued else " Redis does not answer: a recorder puts it into its queue when it does."
    say(f"Run {retried.retried_as} is accepted: `beatline runs show {retried.retried_as}`.{later}")


@app.command()
def move(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how the id begins.", show_default=False)],
    to: Annotated[str | None, typer.Option("--to", help="A date: 2026-11-22T14:00 (local time).")] = None,
    within: Annotated[
        str | None, typer.Option("--in", help="A time from now: 90s, 15m, 2h, 7d; 0s sends it now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a delayed run another time."""
    from beatline.ledger.delays import move as move_run  # which imports kombu

    installation = Installation.load()
    when = _time_to_come(to, within)
    with guarded(installation.settings):
        moved = move_run(installation, run_id, when, who=operator())
    if as_json:
        emit(moved, as_json=True)
        return
    late = moved.expires is not None and moved.expires <= moved.due
    say(f"Run {moved.run_id} is due at {shown(moved.due)}.{' It expires before that.' if late else ''}")


def _time_to_come(to: str | None, within: str | None) -> datetime:
    if (to is None) is (within is None):
        raise BeatlineError("Say when: either --to 2026-11-22T14:00 or --in 90m.")
    try:
        if within is None:
            return datetime.fromisoformat((to or "").strip()).astimezone(UTC)
        if (seconds := read_duration_s(within)) >= 0:
            return utc_now() + timedelta(seconds=seconds)
        raise ValueError(within)
    except (ValueError, OverflowError):
        said = f"--to {to[:40]!r} is no date" if to is not None else f"--in {(within or '')[:40]!r} is no time to come"
        raise BeatlineError(f"{said}: write --to 2026-11-22T14:00 or --in 90s, 15m, 2h, 7d.") from None


@app.command()
def cancel(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how the id begins.", show_default=False)],
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for who looks later.")] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Give a task that runs no time to tidy up, where its pool can stop it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """End a run that waits or runs; nothing that follows it is called, and it is not tried again."""
    from beatline.app import create_app
    from beatline.ledger.cancel import cancel_run

    installation = Installation.load()
    with guarded(installation.settings):
        app = create_app(installation.settings)
        done = cancel_run(installation, run_id, who=operator(), app=app, reason=reason, hard=hard)
    if as_json:
        emit(done, as_json=True)
        return
    match done.how:
        case "ended":
            said = "is cancelled"
        case "told":
            said = f"is being cancelled by {done.worker or 'the worker that holds it'}"
        case "noted":
            said = "will be cancelled. Redis does not answer: a recorder does it when it does"
    say(f"Run {done.run_id} {said}: `beatline runs show {done.run_id}`.")


def suggestion(run: Run, now: datetime) -> str | None:
    """What a person can do about a run; None where there is nothing to do."""
    waits = (now - run.changed_at).total_seconds() > _SLOW_S
    match run.state:
        case RunState.ACCEPTED | RunState.LOST if waits:
            return "A recorder puts it into its queue: see that one runs (`beatline recorder`, `beatline queues`)."
        case RunState.DELAYED if run.eta is not None and (now - run.eta).total_seconds() > _SLOW_S:
            return "It is due: a recorder sends it. See that one runs (`beatline recorder`, `beatline queues`)."
        case RunState.DELAYED:
            return f"It waits for its time. To give it another one: `beatline runs move {run.id} --in 10m`."
        case RunState.QUEUED if waits and run.eta is not None and run.eta > now:
            return "It waits for its time."
        case RunState.QUEUED if waits:
            return f"It waits for a worker: `beatline queues` shows who serves {run.queue!r}, and how much waits before it."
        case RunState.FAILED:
            return f"Its error is final. When it is mended: `beatline runs retry {run.id}`."
        case RunState.DEAD:
            return (
                "Someone must look: it is not tried again by itself. When its reason is mended: "
                f"`beatline runs retry {run.id}`."
            )
        case _:
            return None


def _state(name: str) -> RunState:
    try:
        return RunState(name.lower())
    except ValueError:
        raise BeatlineError(f"There is no state {name!r}. States: {', '.join(RunState)}.") from None


def _line(run: Run, *, due: bool = False) -> dict[str, Any]:
    when = {"due": run.eta if run.state is RunState.DELAYED else None} if due else {}
    return {
        "id": run.id[:_ID_CHARS],
        "state": run.state.value,
        "task": run.task,
        "queue": run.queue,
        "schedule": run.schedule,
        "accepted": run.accepted_at,
        **when,
        "took_s": _took_s(run.started_at, run.ended_at) if run.state in ENDED else None,
        "attempt": run.attempt,
        "why": _short(run.reason or run.error or ""),
    }


def _attempt_line(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "outcome": attempt.outcome or ("running" if attempt.started_at else "reserved"),
        "worker": attempt.worker,
        "started": attempt.started_at,
        "took_s": attempt.runtime_s or _took_s(attempt.started_at, attempt.ended_at),
        "refused": attempt.refused or None,
        "why": _short(attempt.reason or attempt.error or ""),
    }


def _took_s(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds(), 3)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WHY_CHARS else line[: _WHY_CHARS - 1] + "…"
