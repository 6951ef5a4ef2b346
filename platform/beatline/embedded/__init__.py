"""One machine without servers: Valkey and PostgreSQL from wheels or PATH, and the supervisor of `beatline up`."""
