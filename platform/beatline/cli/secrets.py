"""`beatline secrets`: the keys that seal what is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from beatline.cli.output import AsJson, emit, say
from beatline.errors import SecretError
from beatline.installation import Installation
from beatline.ledger.database import guarded
from beatline.rotation import Rotated, rotate
from beatline.secrets import put_new_key

app = typer.Typer(no_args_is_help=True, help="The keys that seal stored secrets and messages.")


@app.callback()
def group() -> None:
    """The keys that seal stored secrets and messages."""


@app.command("rotate")
def rotate_all(
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Put a new key in front of the data folder's key file first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Seal everything with the first key, while workers run; broken off, run it again.

    With keys in BEATLINE_SECRET_KEYS: put the new one second on every machine and restart, so that all can read it; then
    first and restart, so that all write with it; then rotate; then take the old one out. With the data folder's key file,
    --new-key does it: running processes read the file again.
    """
    installation = Installation.load()
    if new_key:
        if installation.settings.secret_keys is not None:
            raise SecretError(
                "The keys are in BEATLINE_SECRET_KEYS: put a new one second there, on every machine (`beatline settings "
                "--new-key` prints one), and restart; put it first and restart; then rotate without --new-key."
            )
        say(f"Put the key {put_new_key(installation.settings.home)} in front.")
    with guarded(installation.settings):
        done = rotate(installation)
    _tell(done, as_json)
    if done.left:
        raise typer.Exit(1)


def _tell(done: Rotated, as_json: bool) -> None:
    if as_json:
        emit(asdict(done) | {"left": [asdict(held) for held in done.left]}, as_json=True)
        return
    emit(done.held, as_json=False, empty="Nothing is sealed.")
    say(f"Sealed {done.rotated:,} row{'' if done.rotated == 1 else 's'} with the key {done.first}.")
    for text in done.unopened:
        say(f"Not opened: {text}")
    if not done.left:
        say(
            f"No row needs another key than {done.first}: the old ones can be taken out once every process has it first."
        )
        return
    rows = sum(held.rows for held in done.left)
    needed = ", ".join(sorted({held.key for held in done.left}))
    say(f"Still sealed with {needed}: {rows:,}. Keep the old keys, and run it again once the above is mended.")
