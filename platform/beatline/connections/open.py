"""Named connections: a definition of the kind `connection`, opened with its secrets in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from beatline.connections.errors import ConnectionFaultError
from beatline.connections.model import Connection, ConnectionType
from beatline.definitions import Definition, open_spec, store
from beatline.ledger.database import guarded

if TYPE_CHECKING:
    from beatline.installation import Installation

KIND: Final = "connection"
_WORDS: Final[dict[str, str]] = {"sql": "a database", "smtp": "a mail server", "store": "a store of files"}


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connection's row and its spec with the secrets in place; nothing is connected yet."""

    definition: Definition
    spec: Connection


def get_connection(installation: Installation, name_or_id: str) -> OpenConnection:
    """The connection of this name or id. Raises NotFoundError, DefinitionError or SecretError."""
    with guarded(installation.settings), installation.engine.connect() as conn:
        definition = store.get(conn, KIND, name_or_id)
    return OpenConnection(definition, open_spec(installation, definition, Connection))


def get_of_type(installation: Installation, name_or_id: str, wanted: ConnectionType) -> OpenConnection:
    """As `get_connection`. Raises ConnectionFaultError if something else is behind its address."""
    found = get_connection(installation, name_or_id)
    if found.spec.type != wanted:
        raise ConnectionFaultError(
            f"{found.definition.called} is {_WORDS[found.spec.type]} ({found.spec.scheme}://), and {_WORDS[wanted]} "
            "is needed here."
        )
    return found
