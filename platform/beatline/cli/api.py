"""`beatline api`: the process that serves the admin API."""

from __future__ import annotations

from typing import Annotated

import typer

from beatline.installation import Installation
from beatline.settings import Settings


def command(
    host: Annotated[str | None, typer.Option(help="The address to listen on, instead of BEATLINE_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="The port, instead of BEATLINE_API_PORT.")] = None,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Load it when it is first asked for more than /healthz: half the memory.")
    ] = False,
) -> None:
    """Serve the admin API on loopback, port 8000, to who has a token (`beatline tokens add NAME`).

    /docs lists every route, /openapi.json describes them, /healthz and /readyz are open. It speaks plain HTTP: beyond
    loopback it listens only with BEATLINE_API_EXPOSED=true. Any number may run.
    """
    settings = Settings.load(api_host=host, api_port=port)

    from beatline.api.serve import serve  # help does without uvicorn

    serve(Installation(settings), lazily=lazy)
