"""Every error Beatline raises on purpose.

BeatlineError                 what a user can cause or mend; its text says what is wrong and what to do
├── SettingsError             one or more settings are missing or wrong; lists all of them
├── ServiceError              Redis, PostgreSQL or an embedded server is absent, wrong or refuses
│   ├── NotRunningError       no URL is set and no `beatline up` runs on the data folder
│   ├── NotSentError          Redis did not take a task in time, or is full (engine/sending.py)
│   └── SchemaError           the tables are missing, older than the code, or newer
├── NameRefusedError          a task, queue, schedule or definition name breaks the grammar
├── UnknownQueueError         published to a queue that nothing declares
├── MessageTooLargeError      a message over the accepted size
├── ArgumentsError            a task cannot be called with these arguments; names the task and each of them
│   └── UnencodableError      an argument is nothing that JSON can hold (engine/encoding.py)
├── DelayError                a countdown, an eta or an expiry is none: negative, no time, past the year 9999
├── TaskOptionError           `on_lost` or `durable` of a task has a value that does not exist
├── ResultNotKeptError        a result was asked for that is not stored
├── RunDeadError              a result was asked for, and its run is dead
├── AttachError               an existing app's setting contradicts a guarantee
├── DefinitionError           a source, schedule or file of definitions is wrong; names the field
├── NotFoundError             no schedule, run or definition of that name or id
├── ConflictError             it does not fit how things stand: taken, paused already, still open
├── SecretError               a key is missing, wrong or malformed
│   └── KeyMissingError       this process does not hold the key that sealed something; another may
├── DatasetError              a dataset cannot take the rows it is given
├── AddressRefusedError       a host's address is private and the setting does not allow that
└── TransientError            a server of the user's cannot answer now: the run is tried again

The command line prints the text of a BeatlineError and exits 1, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


class BeatlineError(Exception):
    """Something a person can mend; the message says how."""


class SettingsError(BeatlineError):
    """One or more settings are missing or wrong; `problems` holds one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ServiceError(BeatlineError):
    """A server that Beatline needs is absent, of a wrong version, or refuses."""


class NotRunningError(ServiceError):
    """No server is configured and no `beatline up` was found."""

    def __init__(self, home: str) -> None:
        self.home = home
        super().__init__(
            f"No Redis or PostgreSQL is configured and no `beatline up` runs on {home}: "
            "start `beatline up`, or set BEATLINE_REDIS_URL and BEATLINE_DATABASE_URL."
        )


class SchemaError(ServiceError):
    """The database's tables are not the ones this code was written for: missing, older or newer."""

    def __init__(self, state: Literal["missing", "older", "newer"], message: str) -> None:
        self.state = state
        super().__init__(message)


class NameRefusedError(BeatlineError):
    """A name that breaks the grammar of its kind."""

    def __init__(self, kind: str, name: str, rule: str) -> None:
        self.kind, self.name, self.rule = kind, name, rule
        super().__init__(f"The {kind} name {name[:80]!r} is not allowed: {rule}.")


class UnknownQueueError(BeatlineError):
    """A task was sent to a queue that nothing declares."""

    def __init__(self, queue: str, known: Sequence[str]) -> None:
        self.queue, self.known = queue, tuple(known)
        super().__init__(
            f"There is no queue {queue!r}: nothing was sent. Known queues: {', '.join(self.known)}. "
            "Declare a queue of your own in BEATLINE_QUEUES."
        )


class MessageTooLargeError(BeatlineError):
    """A task's message is over the size that is accepted."""

    def __init__(self, task: str, size_bytes: int, limit_bytes: int) -> None:
        self.task, self.size_bytes, self.limit_bytes = task, size_bytes, limit_bytes
        super().__init__(
            f"The message of task {task!r} has {size_bytes:,} bytes and {limit_bytes:,} are accepted: nothing was "
            "sent. Store the data (a table, a file, an object store) and pass its id."
        )


class DelayError(BeatlineError):
    """A countdown, an eta or an expiry that is none; `field` says which. Nothing was sent."""

    def __init__(self, field: str, shown: str, wrong: str, rule: str) -> None:
        self.field = field
        super().__init__(f"{field}={shown} {wrong}: nothing was sent; {rule.rstrip('.')}.")


class ArgumentsError(BeatlineError, TypeError):
    """A task cannot be called with these arguments; `problems` holds one clause each. Celery raises a TypeError here."""

    def __init__(self, task: str, problems: Sequence[str], takes: str = "") -> None:
        self.task, self.problems = task, tuple(problems)
        said = f" It takes {takes}." if takes else ""
        super().__init__(f"Task {task!r} was not accepted: {'; '.join(self.problems)}.{said}")


class TaskOptionError(BeatlineError):
    """An option of Beatline's in a task's decorator, or on its class, has a value that it cannot have."""

    def __init__(self, task: str, option: str, value: object, allowed: Sequence[str]) -> None:
        self.task, self.option, self.value, self.allowed = task, option, value, tuple(allowed)
        said = " or ".join(repr(one) for one in self.allowed)
        super().__init__(f"{option}={value!r:.80} of task {task!r} is not allowed: it is {said}.")


class ResultNotKeptError(BeatlineError):
    """A result was asked for that the task does not keep, or that has expired."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"No result is kept for run {run_id}: its task ignores results, or the hour for which they are kept has "
            "passed. Give the task ignore_result=False; `beatline runs show` has the state of every run."
        )


class RunDeadError(BeatlineError):
    """The run whose result was asked for is dead: it has none, and nobody goes on trying. The text has the reason."""


class AttachError(BeatlineError):
    """A setting of the attached project contradicts what Beatline guarantees."""


class DefinitionError(BeatlineError):
    """A definition is wrong; the message names the definition and the field."""


class NotFoundError(BeatlineError):
    """Nothing of that kind has this name or id."""

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        self.kind, self.name = kind, name
        super().__init__(f"There is no {kind} {name!r}.{' ' + hint if hint else ''}")


class ConflictError(BeatlineError):
    """What is asked for is right in itself, and does not fit how things stand now."""


class SecretError(BeatlineError):
    """A secret key is missing, wrong or malformed."""


class KeyMissingError(SecretError):
    """This process does not hold the key that sealed something: a fault of the process, not of what was sealed."""


class DatasetError(BeatlineError):
    """A dataset cannot take these rows; trying again would not help."""


class AddressRefusedError(BeatlineError):
    """A host's address is private, and private addresses are not allowed."""

    def __init__(self, host: str, address: str, kind: str) -> None:
        self.host, self.address, self.kind = host, address, kind
        super().__init__(
            f"{host} is {address}, {kind}: nothing was sent. "
            "If hosts on your own network are meant, set BEATLINE_ALLOW_PRIVATE_ADDRESSES=true for the workers."
        )


class TransientError(BeatlineError):
    """A server cannot answer now; `retry_after_s` is when it asked to be called again, if it did."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(text)
