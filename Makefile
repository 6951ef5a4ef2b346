# Everything starts here: each target sets up what it needs from Python >= 3.11, pip and make, and CI calls only these.
# GNU make 3.81 (macOS) is enough. Tools run as `python -m`, so that no shebang line limits where the clone may lie.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Beside a virtual environment of the clone's own, nothing of the machine is used or changed.
PY := .venv/bin/python

# Options: make PYTHON=python3.13 …, make demo KEEP=1, make test TESTS=tests/unit, make bench CASE=noop, make chaos ROW=7
PYTHON ?=
KEEP ?=
TESTS ?=
CASE ?=
ROW ?=
SEEDS ?=
FRESH ?=

.PHONY: help demo up test prove check lint mypy pyright imports sizes bench chaos format lock wheels setup

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: setup ## Run the main job once, end to end, and show what came of it (KEEP=1 leaves it running)
	@$(PY) -m beatline.cli demo $(if $(KEEP),--keep)

up: setup ## Run the whole platform on this machine until Ctrl-C
	@$(PY) -m beatline.cli up

test: setup ## Run the tests that take seconds each (TESTS=path for those of a path, all of them)
	@$(PY) -m pytest -n auto --dist worksteal $(if $(TESTS),$(TESTS),-m "not proof")

prove: setup ## Run the proofs: processes killed at every step, everything at once, hostile mail
	@$(PY) -m pytest -n auto --dist loadgroup -m proof $(TESTS)

check: lint mypy pyright imports sizes ## Lint, format, types, direction of imports, sizes (make -j2 check: side by side)

lint: setup
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

mypy: setup
	@$(PY) -m mypy

pyright: setup
	@$(PY) -m basedpyright --level error

imports: setup
	@$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

sizes: setup
	@cd tests && ../$(PY) -m support.sizes

bench: setup ## Measure against stock Celery, one JSON object a line (CASE=name for one case)
	@cd tests && ../$(PY) -m bench $(CASE)

chaos: setup ## Kill and cut off everything at every step, and count what is lost (ROW=n SEEDS=k FRESH=1)
	@cd tests && ../$(PY) -m chaos $(ROW) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FRESH),--fresh)

format: setup ## Put every file into the form that check asks for
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

lock: setup ## Resolve the dependencies again, for every platform and Python; then run wheels
	@$(PY) -m uv --no-config pip compile $(RESOLVE) --all-extras --group dev --output-file requirements/beatline.lock pyproject.toml
	@$(PY) -m uv --no-config pip compile $(RESOLVE) --python-version 3.11 --output-file requirements/virtualenv.lock requirements/virtualenv.in
	@$(PY) -m uv --no-config pip compile $(IMAGE) --extra pdf --extra duckdb --output-file requirements/production.lock pyproject.toml
	@$(PY) -m uv --no-config pip compile $(IMAGE) --output-file requirements/build.lock requirements/build.in

RESOLVE := --upgrade --universal --generate-hashes --no-emit-index-url --no-header --quiet
# What goes into the image, and what builds it, at the versions that were tested.
IMAGE := $(RESOLVE) --constraint requirements/beatline.lock

wheels: setup ## Ask the index whether every locked package has a wheel for every platform and Python
	@cd tests && ../$(PY) -m support.wheels

setup:
	@PYTHON='$(PYTHON)' sh deploy/bootstrap.sh
