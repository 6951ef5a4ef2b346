"""Runs a command that ends when its parent ends, however the parent ends.

    python -I -S tether.py --parent PID --death-signal INT [--as user-namespace|UID:GID] [--watch] -- COMMAND…

Run by path with a bare interpreter: the standard library only, and nothing of Beatline. On Linux the command takes the
place of this process and the kernel signals it (PR_SET_PDEATHSIG) when the *thread* that started it ends, so the
parent starts it from its main thread. Elsewhere (--watch) this process stays, and ends the command, with its whole
group, when the pipe that it has as its standard input closes; until then it passes signals on.

`--as user-namespace` makes root look like an ordinary user, for programs that refuse root: files keep their owner.
`--as UID:GID` becomes that user, and keeps the right to pass through folders that are closed to it where root has that.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import signal
import subprocess
import sys

PARENT_GONE = 120
REFUSED = 121

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522

GROUP_GRACE_S = 5.0


class CapHeader(ctypes.Structure):
    """struct __user_cap_header_struct of linux/capability.h."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapData(ctypes.Structure):
    """struct __user_cap_data_struct; the kernel reads two, for 64 capabilities."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def enter_user_namespace(libc: ctypes.CDLL) -> None:
    """Become user 1000 of a namespace in which that is the user we were."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def become(libc: ctypes.CDLL | None, uid: int, gid: int) -> None:
    """Become another user; on Linux keep the passage through closed folders, if root has it."""
    keep = 0
    if libc is not None:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        keep = passage(libc)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if libc is not None and keep:
        data = (CapData * 2)()
        data[0].effective = data[0].permitted = data[0].inheritable = 1 << keep
        if libc.capset(ctypes.byref(CapHeader(CAPABILITY_VERSION_3, 0)), data) == 0:
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, keep, 0, 0)


def passage(libc: ctypes.CDLL) -> int:
    """The smallest capability we have that lets a process through closed folders, or 0."""
    data = (CapData * 2)()
    if libc.capget(ctypes.byref(CapHeader(CAPABILITY_VERSION_3, 0)), data) != 0:
        return 0
    # A container's root commonly lacks the first and has the second.
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if data[0].permitted & 1 << capability:
            return capability
    return 0


def die_with_parent(libc: ctypes.CDLL, parent: int, signum: int) -> None:
    """Have the kernel signal us when our parent's thread ends; leave at once if it has ended."""
    libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(PARENT_GONE)


def watch(command: list[str], signum: int) -> int:
    """Run the command until it ends or our standard input closes; our exit code is its own."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603  # what our caller named
    passed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    for number in passed_on:
        signal.signal(number, lambda n, _frame: child.send_signal(n))
    signal.signal(signal.SIGCHLD, lambda _n, _frame: None)
    while child.poll() is None:
        readable, _, _ = select.select([0, wake], [], [], 1.0)
        if 0 in readable and not os.read(0, 512):
            end_group(child, signum)
        elif wake in readable:
            os.read(wake, 512)
    code = child.returncode
    return code if code >= 0 else 128 - code


def end_group(child: subprocess.Popen[bytes], signum: int) -> None:
    """The parent is gone: signal the command, give it a moment, then kill its group, ourselves included."""
    child.send_signal(signum)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GROUP_GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    child.kill()


def main(argv: list[str]) -> int:
    """Read the options, take the identity asked for, and run the command."""
    at = argv.index("--")
    options, command = argv[:at], argv[at + 1 :]
    watching = "--watch" in options
    named = dict(itertools.pairwise(options))
    signum = getattr(signal, f"SIG{named['--death-signal']}")
    identity = named.get("--as")
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    try:
        if identity == "user-namespace" and libc is not None:
            enter_user_namespace(libc)
        elif identity is not None:
            uid, _, gid = identity.partition(":")
            become(libc, int(uid), int(gid))
        if watching:
            return watch(command, signum)
        if libc is not None:
            die_with_parent(libc, int(named["--parent"]), signum)  # after the identity: changing that clears it
        os.execv(command[0], command)  # noqa: S606  # what our caller named
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"tether: {command[0]}: {exc}\n")
        return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
