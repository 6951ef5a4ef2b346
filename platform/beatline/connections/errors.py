"""What is wrong with a connection; what may pass is a TransientError."""

from __future__ import annotations

from beatline.errors import BeatlineError


class ConnectionFaultError(BeatlineError):
    """The server refuses, or the connection is declared wrong: a person must mend that; trying again would not help."""
