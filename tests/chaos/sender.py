"""A sender in a process of its own, which may die: asks for one run. `python -m chaos.sender KEY QUEUE HOW`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from beatline.settings import Settings
from chaos.journal import Journal
from chaos.load import ask
from chaos.plan import Item
from chaos.sides import Sender
from support.apps import open_app


def main(argv: Sequence[str]) -> int:
    """Ask for the run named."""
    key, queue, how = argv
    item = Item((key,), "single", 0.05, 0.0, "submit" if how == "submit" else "delay", queue=queue)
    with open_app(Settings.load()) as app:
        ask(Sender(app), Journal.of_environment(), item)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
