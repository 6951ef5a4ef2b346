"""`beatline recorder`: the process that writes history and puts lost runs back."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final

from beatline.installation import Installation
from beatline.logs import configure
from beatline.settings import Settings

POLL_S: Final = 0.2
STOP_S: Final = 1.5
"""How long a round may take to come to its end. Longer, and PostgreSQL hangs: being killed there loses nothing."""


def command() -> None:
    """Write the history of runs into PostgreSQL, and put back runs that were lost. Any number may run.

    Killed anywhere it loses nothing and counts nothing twice. Ends within two seconds of SIGTERM or Ctrl-C.
    """
    from beatline.ledger.recorder import Recorder

    settings = Settings.load()
    configure(settings)
    stop = threading.Event()
    recorder = Recorder(Installation(settings), stop)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    # In a thread, because a thread that waits inside the database driver sees no signal.
    running = ThreadPoolExecutor(1, thread_name_prefix="recorder").submit(recorder.run)
    while not stop.is_set() and not running.done():
        stop.wait(POLL_S)
    try:
        running.result(timeout=STOP_S)
    except TimeoutError:
        os._exit(0)
