"""Named connections to servers of the user's own: databases, mail servers, stores of files.

Families use `sql.sql_session`, `smtp.smtp_session` and `stores.object_store`; each takes the connection's name or id,
reaches only allowed addresses, and tells in words what is wrong.
"""

from beatline.connections.errors import ConnectionFaultError
from beatline.connections.model import Connection
from beatline.connections.open import OpenConnection, get_connection

__all__ = ["Connection", "ConnectionFaultError", "OpenConnection", "get_connection"]
