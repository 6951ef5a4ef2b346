"""The Celery app of an installation: what `celery -A beatline worker|beat|flower` finds."""

import sys

from celery import Celery

from beatline.app import create_app
from beatline.errors import BeatlineError
from beatline.settings import Settings


def _app_or_exit() -> Celery:
    try:
        return create_app(Settings.load())
    except BeatlineError as exc:
        # SystemExit: celery's search for the app catches every Exception and prints its traceback.
        sys.stderr.write(f"{exc}\n")
        raise SystemExit(1) from None


app = _app_or_exit()
