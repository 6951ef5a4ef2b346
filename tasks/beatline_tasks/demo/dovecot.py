"""Debian's Dovecot 2.3 on a loopback port, with a configuration of its own and every name of a user a mailbox.

Nothing of /etc/dovecot is read. Its whole tree of processes is one ordinary user: ours, or `nobody` where we are root,
because Dovecot opens no mail as root.
"""

from __future__ import annotations

import grp
import imaplib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beatline.embedded import folders, ports, service
from beatline.embedded.process import Command, LineSink, Process
from beatline.embedded.runfile import write_private
from beatline.embedded.service import StopStep
from beatline.errors import ServiceError

VERSION: Final = "2.3."
"""2.4 reads another configuration."""
_FOLDERS: Final = "/usr/sbin:/usr/local/sbin"
_ENV: Final = {"PATH": os.defpath, "LC_ALL": "C"}
_HELLO_S: Final = 2.0

_CONFIGURATION: Final = """\
protocols = imap
instance_name = {instance}
base_dir = {run}
state_dir = {run}
log_path = /dev/stderr
listen = {host}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
default_client_limit = 2000
default_process_limit = 400
first_valid_uid = 1
mail_location = maildir:{mail}/%u
mail_max_userip_connections = 1000
mail_fsync = never
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
  # Without its listener, a wrong password delays nobody who comes after it from the same address.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
service old-stats {{
  chroot =
}}
"""


def find_dovecot() -> Path | None:
    """The Dovecot 2.3 to run; None where there is none, or no user that it could run as."""
    found = shutil.which("dovecot") or shutil.which("dovecot", path=_FOLDERS)
    if found is None:
        return None
    try:
        _account()
        done = subprocess.run(  # noqa: S603  # a server program we are about to run
            [found, "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (KeyError, OSError, subprocess.TimeoutExpired):
        return None
    return Path(found) if re.match(re.escape(VERSION), done.stdout) else None


@dataclass(frozen=True, slots=True)
class _Account:
    user: str
    group: str
    uid: int
    gid: int


def _account() -> _Account:
    """Whom its processes run as. Raises KeyError if the system has no name for the user or the group."""
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    uid, gid = (nobody.pw_uid, nobody.pw_gid) if nobody else (os.geteuid(), os.getegid())
    return _Account(pwd.getpwuid(uid).pw_name, grp.getgrgid(gid).gr_name, uid, gid)


class Dovecot:
    """A Dovecot that ends with this process, however that ends. Mail is in Maildir folders, one a user, below `mail`.

    Any name of a user is accepted with the one password; a mailbox is made when its user first comes. `more` is
    configuration that is read last. Its temporary folder stays over a stop and a start, and goes with `close`.
    """

    name = kind = "dovecot"
    ready_within_s = 20.0
    stop_steps: Sequence[StopStep] = (StopStep(signal.SIGTERM, 1.5),)

    def __init__(self, *, password: str, more: str = "") -> None:
        self._password = password
        self.more = more
        self._process: Process | None = None
        self._account = _account()
        root = os.geteuid() == 0
        # A data folder's path may be closed to another user, and too long for a socket, which has 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="beatline-dovecot-", dir="/tmp" if root else None))  # noqa: S108
        self.host = ports.LOOPBACK
        self.port = 0

    @property
    def what(self) -> str:
        """Where it answers."""
        return f"imap://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process else None

    @property
    def mail(self) -> Path:
        """The folder that has one folder for each user."""
        return self.folder / "mail"

    def start(self, on_line: LineSink | None = None) -> None:
        """Start it and wait until it answers. Raises ServiceError in one sentence, leaving nothing running."""
        self._process = service.start(self, on_line)

    def stop(self) -> None:
        """End it; the mail stays."""
        if self._process is not None:
            service.stop([(self, self._process)])
            self._process = None

    def close(self) -> None:
        """End it, and remove its mail."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it without waiting for it."""
        program = find_dovecot()
        if program is None:
            raise ServiceError("There is no Dovecot 2.3 to run: install Debian's package dovecot-imapd.")
        self.port = self.port or ports.free_port()
        configuration, run = self.folder / "dovecot.conf", self.folder / "run"
        with folders.explained(self.folder):
            for folder in (run, self.mail):
                folder.mkdir(mode=0o755, exist_ok=True)
            write_private(configuration, self._configuration(run))
            self.hand_over(self.folder, configuration, run, self.mail)
        identity = f"{self._account.uid}:{self._account.gid}" if os.geteuid() == 0 else None
        argv = [str(program), "-F", "-c", str(configuration)]
        command = Command(argv=argv, env=_ENV, death_signal="TERM", identity=identity, cwd=self.folder)
        return Process(command, on_line)

    def is_ready(self, process: Process) -> bool:
        """Whether it greets."""
        with suppress(OSError, imaplib.IMAP4.error):
            client = imaplib.IMAP4(self.host, self.port, _HELLO_S)
            client.logout()
            return process.exit_code() is None
        return False

    def why_it_ended(self, process: Process) -> str:
        """Its exit code and last words."""
        return f"Dovecot {service.how_it_ended(process)}"

    def _configuration(self, run: Path) -> str:
        ours = _CONFIGURATION.format(
            instance=self.folder.name,
            run=run,
            host=self.host,
            port=self.port,
            user=self._account.user,
            group=self._account.group,
            uid=self._account.uid,
            gid=self._account.gid,
            password=self._password,
            mail=self.mail,
        )
        return ours + self.more

    def hand_over(self, *paths: Path) -> None:
        """Make files that we wrote its own, where we are root."""
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, self._account.uid, self._account.gid)
