"""Which Redis server a connection leads to: learnt once a connection, so that no call has to ask."""

from __future__ import annotations

import re
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

_RUN_ID: Final = re.compile(r"run_id:(\w+)")


class ServerChangedError(RedisError):
    """The connection was made anew and leads to another server, or to one that was restarted.

    Raised in place of sending on what was meant for the one before. Whoever calls again is heard by the new one.
    """


class Server:
    """The server at the other end of one client's connection; `seen` is to be called when that is made.

    `run_id` is '' until then, and where the server does not say it.
    """

    run_id = ""

    def seen(self, connection: Any) -> None:
        """What redis-py does on a new connection, and a look at who answers. Raises ServerChangedError."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        try:
            said = str(connection.read_response())
        except ResponseError:  # forbidden to this user
            return
        found = _RUN_ID.search(said)
        before, self.run_id = self.run_id, found[1] if found else ""
        if before not in ("", self.run_id):
            raise ServerChangedError("Redis is another server than before, or was restarted")
