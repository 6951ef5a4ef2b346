"""A process that commits a run, and is killed before anything else can happen: `python -m support.submit_and_die RUN_ID`."""

from __future__ import annotations

import os
import signal
import sys

from sqlalchemy import event
from sqlalchemy.orm import Session

import beatline


def _die(session: Session) -> None:
    del session
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    installation = beatline.Installation.load()
    with Session(installation.engine) as session:
        event.listen(session, "after_commit", _die)
        beatline.submit("test.unknown_here", run_id=sys.argv[1], session=session)
        print("submitted", flush=True)  # noqa: T201  # what the test waits for
        session.commit()


if __name__ == "__main__":
    main()
