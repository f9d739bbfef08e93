# Every target that needs the library sets up .venv first, so a fresh clone needs only make and Python >= 3.11.

MIN_PYTHON := 3.11
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# The first interpreter that is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if $$p -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1; then echo $$p; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-processes test-all lint types clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv and install jkoflow with its development tools

# The stamp is younger than what it depends on, so a second run installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: expected Python >= $(MIN_PYTHON), found none; install one or give PYTHON=" >&2; exit 2; }
	@"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { echo "make: expected Python >= $(MIN_PYTHON), got $(PYTHON)" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## fit scikit-learn's digits and leave the model, samples and report in runs/demo
	$(BIN)/jkoflow demo -o runs/demo

test: lint types ## lint, types and the quick tests (under 5 minutes on 2 cores)
	$(BIN)/python -m pytest -n auto

test-processes: $(INSTALLED) ## fits by two and three processes of torchrun against fits by one
	$(BIN)/python -m pytest -m processes

test-all: lint types ## the same with the slow tests
	$(BIN)/python -m pytest -n auto -m ""

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## mypy --strict
	$(BIN)/mypy

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
