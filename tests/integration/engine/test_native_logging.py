"""On gevent, threads that are native log beside green ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from support.pools import only_with_gevent

PROGRAM: Final = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, os
from beatline.logs import configure, get_logger
from beatline.native import Bell, start_native
from beatline.settings import Settings

configure(Settings.load(redis_url="redis://127.0.0.1:1/0", database_url="postgresql://127.0.0.1:1/none"), level="INFO")
log, began = get_logger("native"), Bell()

def native():
    log.info("begins")
    began.ring()
    while True:
        log.info("goes_on")

def green():
    for _ in range(100):
        log.info("waits_its_turn")
        gevent.sleep(0)

start_native(native, "native")
began.wait(10)
gevent.joinall([gevent.spawn(green) for _ in range(3)], timeout=20)
os._exit(0)  # the native one still logs
"""


@only_with_gevent
def test_native_threads_that_log_keep_no_green_one_waiting() -> None:
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("waits_its_turn") == 300, "none of them waited for the native thread's lock in vain"
