"""What can go wrong with a source; the text stands in the run's error.

BeatlineError
└── SourceError                the source, or what it answered, is wrong: trying again would not help
    ├── AddressRefusedError    its address is private and the setting does not allow that
    └── DatasetError           its dataset cannot take its rows
BeatlineError
└── TransientError             the source cannot answer now: the run is tried again
"""

from __future__ import annotations

from beatline.errors import BeatlineError


class SourceError(BeatlineError):
    """The source, or what it answered, is wrong: a person must look, the run fails at once."""


class AddressRefusedError(SourceError):
    """A host's address is private, and private addresses are not allowed."""

    def __init__(self, host: str, address: str, kind: str) -> None:
        self.host, self.address, self.kind = host, address, kind
        super().__init__(
            f"{host} is {address}, {kind}: nothing was sent. "
            "If sources on your own network are meant, set BEATLINE_ALLOW_PRIVATE_ADDRESSES=true for the workers."
        )


class DatasetError(SourceError):
    """A dataset cannot take the rows of this source."""


class TransientError(BeatlineError):
    """The source cannot answer now; `retry_after_s` is when it asked to be called again, if it did."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(text)
