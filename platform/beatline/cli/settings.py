"""`beatline settings`: what is in force, and where each value comes from."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Annotated

import typer

from beatline.cli.output import AsJson, emit, say
from beatline.errors import NotRunningError, SettingsError
from beatline.secrets import new_key as fresh_key
from beatline.settings import Settings
from beatline.settings_report import example_file
from beatline.settings_sources import variable_of


def command(
    as_json: AsJson = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a commented .env with every setting instead.")
    ] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Print a new key for BEATLINE_SECRET_KEYS instead.")
    ] = False,
) -> None:
    """Show the settings in force and where each comes from; secrets are masked.

    A setting is taken from BEATLINE_<NAME> first, then from its usual names (CELERY_BROKER_URL, REDIS_URL or REDIS_HOST
    and its kin; CELERY_RESULT_BACKEND; DATABASE_URL): in the environment, in .env.<BEATLINE_ENV>, in .env. Without any
    URL, the servers are those of the `beatline up` that runs on BEATLINE_HOME.
    """
    if example:
        sys.stdout.writelines(f"{line}\n" for line in example_file(Settings.model_fields))
        return
    if new_key:
        sys.stdout.write(f"{fresh_key()}\n")
        return
    settings = _load()
    emit(settings.shown(), as_json=as_json, columns=("variable", "value", "origin"))
    known = [variable_of(name) for name in Settings.model_fields]
    for variable, place in settings.strangers():
        close = get_close_matches(variable, known, n=1)
        say(f"{variable} ({place}) is no setting of Beatline{f': {close[0]}?' if close else '.'}")


def _load() -> Settings:
    try:
        return Settings.load()
    except (NotRunningError, SettingsError):
        return Settings.load(services=False)  # raises again unless it is only the servers that nothing names
