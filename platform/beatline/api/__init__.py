"""The admin API: tokens, routes, errors as problem details. `app.create_api` makes it, `beatline api` serves it.

`tokens` is used by the command line too, so nothing of FastAPI is imported here.
"""
