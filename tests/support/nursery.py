"""A process that has Celery imported already, and forks itself for each process that a test starts.

Three quarters of what a worker costs until it is ready are imports: a second of a processor, hundreds of times in a test
run. What is forked is a process as any other: a session, a working folder, an environment and a log of its own, ended by
its id. Nothing of Beatline is imported before the fork, for much of it reads its environment.

`python -m support.nursery` is the process itself; it ends with the one that started it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

MESSAGE_BYTES: Final = 1 << 17
_LOOK_S: Final = 0.05
_PRELOADED: Final = (
    "celery.bin.celery", "celery.apps.worker", "celery.apps.beat", "celery.worker.consumer", "celery.concurrency.prefork",
    "celery.concurrency.solo", "celery.concurrency.thread", "celery.app.trace", "celery.backends.redis",
    "celery.events.state", "celery.utils.dispatch", "kombu.transport.redis", "redis.asyncio", "redbeat", "flower.command",
    "sqlalchemy.orm", "sqlalchemy.dialects.postgresql.psycopg2", "psycopg2.extras", "pydantic_settings", "structlog",
    "cryptography.fernet", "cronsim", "alembic.command", "httpx", "psutil",
)  # fmt: skip


class Nursery:
    """The process that forks, and what it told of its children. Thread-safe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.env = dict(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.nursery", str(theirs.fileno())],
                cwd=Path(__file__).parents[1], pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._socket = ours
        self._turn = threading.Lock()
        self._codes: dict[int, int] = {}
        self._born: list[int] = []

    def fork(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: int) -> Child:
        """A child that runs `python -m ARGV…` and prints to `log`."""
        order = {"argv": argv, "env": dict(env), "cwd": str(cwd)}
        with self._turn:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [log])
            while not self._born:
                self._read(None)
            return Child(self, self._born.pop())

    def code_of(self, pid: int, timeout_s: float = 0.0) -> int | None:
        """The exit code of a child, minus the signal that ended it; None if it has not ended after `timeout_s`."""
        give_up = time.monotonic() + timeout_s
        while True:
            left = max(0.0, give_up - time.monotonic())
            with self._turn:  # for a moment only: another thread may want a child
                while pid not in self._codes and self._read(min(left, _LOOK_S)):
                    pass
                if pid in self._codes or not left:
                    return self._codes.get(pid)

    def _read(self, timeout_s: float | None) -> bool:
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return False
        said = self._socket.recv(MESSAGE_BYTES)
        if not said:
            raise RuntimeError("The nursery has ended.")
        pid, code = json.loads(said)
        if code is None:
            self._born.append(pid)
        else:
            self._codes[pid] = code
        return True


class Child:
    """What `subprocess.Popen` is to a process, for one of the nursery."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery, self.pid = nursery, pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._nursery.code_of(self.pid)

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        code = self._nursery.code_of(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def send_signal(self, signum: int) -> None:
        """Signal the process alone, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)


_own: Final[list[Nursery]] = []
_making: Final = threading.Lock()


def raised_child(argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: int) -> Child | None:
    """A child from the nursery of this process; None if it needs an interpreter of its own: on a system without such
    sockets, with gevent, which replaces modules before they are imported, or in an environment that differs from ours in
    more than Beatline's variables and the path of modules."""
    if sys.platform != "linux" or "gevent" in argv:
        return None
    with _making:
        if not _own:
            _own.append(Nursery())
    nursery = _own[0]
    return nursery.fork(argv, env, cwd, log) if _foreign(env) == _foreign(nursery.env) else None


def _foreign(env: Mapping[str, str]) -> dict[str, str]:
    own = ("BEATLINE_", "PYTEST_")
    return {name: value for name, value in env.items() if not name.startswith(own) and name != "PYTHONPATH"}


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each order and report each end. Returns the order in the child, never in the parent."""
    wakes, awake = os.pipe()
    for end in (wakes, awake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, _ignored)
    signal.set_wakeup_fd(awake)
    while True:
        ready = select.select([control.fileno(), wakes], [], [])[0]
        if wakes in ready:
            os.read(wakes, MESSAGE_BYTES)
            _report(control)
        if control.fileno() not in ready:
            continue
        said, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        if not said:
            os._exit(0)
        order: dict[str, Any] = json.loads(said)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (wakes, awake):
                os.close(end)
            control.close()
            _become(order, fds[0])
            return order
        os.close(fds[0])
        control.send(json.dumps([pid, None]).encode())


def _ignored(_signum: int, _frame: object) -> None:
    """The wake-up pipe says it."""


def _report(control: socket.socket) -> None:
    with suppress(ChildProcessError, BrokenPipeError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            control.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())


def _become(order: dict[str, Any], log: int) -> None:
    os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    module, *arguments = order["argv"]
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    known = sys.path[1:]
    paths = [path for path in order["env"].get("PYTHONPATH", "").split(os.pathsep) if path and path not in known]
    sys.path[:] = [order["cwd"], *paths, *known]
    sys.modules.pop("support")  # only who has the tests on his path may import it


def main() -> None:
    """Be the nursery; in a child, run what was ordered and end as it does."""
    control = socket.socket(fileno=int(sys.argv[1]))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    order = _serve(control)
    runpy.run_module(order["argv"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
