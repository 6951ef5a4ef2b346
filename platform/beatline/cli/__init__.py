"""The command `beatline`: one module a noun, imported when its noun is typed, so that help and completion stay quick.

A noun stands in NOUNS and is the module of its name here (`db` is `cli/db.py`). The module exposes one of

- `app`, a `typer.Typer`: a group, `beatline runs list`, `beatline runs show ID`;
- `command`, a function with typer's annotations: a command without sub-commands, `beatline worker -Q email`. It may
  expose `context_settings` beside it, such as `{"allow_extra_args": True}`.

The entry-point group `beatline.commands` names the module of a noun that another package brings (`demo`); the first
line of its docstring is its help, so it imports the rest when its command runs.

Every kind of definition that a family brings (`beatline_tasks.collect`: sources) is a noun too, made by
`cli/definitions.py`. Rules for all of them: what is asked for goes to stdout through `output.emit`, with `--json`
(`output.AsJson`); what is said about it goes to stderr (`output.say`); a BeatlineError is raised, and `main` prints it
and exits 1; changes are recorded under `output.operator()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Noun(NamedTuple):
    """A noun's line in `beatline --help`, and the panel it stands in."""

    help: str
    panel: str


_RUN: Final = "Run"
_LOOK: Final = "Look"
_DEFINE: Final = "Define"
_KEEP: Final = "Keep"

NOUNS: Final[Mapping[str, Noun]] = {
    "up": Noun("Run the whole platform on this machine until Ctrl-C.", _RUN),
    "worker": Noun("Serve queues.", _RUN),
    "recorder": Noun("Write the history into PostgreSQL and put lost runs back.", _RUN),
    "api": Noun("Serve the admin API.", _RUN),
    "status": Noun("Show what `beatline up` runs, and where.", _LOOK),
    "runs": Noun("Show runs and their attempts, retry and cancel one.", _LOOK),
    "queues": Noun("Show queues: length and consumers; pause and resume one.", _LOOK),
    "workers": Noun("Show workers and what they run, and drain one.", _LOOK),
    "health": Noun("Say whether the beat, worker or recorder on this machine does its duty.", _LOOK),
    "schedules": Noun("Add, show, change, pause and remove schedules; see when they run next.", _DEFINE),
    "apply": Noun("Bring definitions and schedules to what a TOML file says.", _DEFINE),
    "tokens": Noun("Add, show and remove tokens of the admin API.", _KEEP),
    "secrets": Noun("Change the key that seals stored secrets.", _KEEP),
    "settings": Noun("Show the settings in force and where each comes from.", _KEEP),
    "db": Noun("Upgrade the tables.", _KEEP),
}

COMMANDS: Final = "beatline.commands"
COMMANDS_PANEL: Final = _RUN
KINDS_PANEL: Final = _DEFINE


def main() -> None:
    """The entry point of the command line."""
    from beatline.cli.root import run

    run()
