#!/bin/sh
# Finds a Python that fits and hands over to bootstrap.py. Run from the root of the repository; prints to stderr only.
set -eu

fits() {
    "$1" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"))' \
        >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    if ! fits "$PYTHON"; then
        echo "PYTHON=$PYTHON is not a CPython from 3.11 to 3.14: set PYTHON to one that is, or leave it unset." >&2
        exit 1
    fi
    exec "$PYTHON" deploy/bootstrap.py
fi
for candidate in python3 python3.14 python3.13 python3.12 python3.11 python .venv/bin/python; do
    if fits "$candidate"; then
        exec "$candidate" deploy/bootstrap.py --any-python
    fi
done
echo "No CPython from 3.11 to 3.14 is on PATH: install one, or run make PYTHON=/path/to/python3." >&2
exit 1
