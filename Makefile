# Needs Python 3.11 to 3.13, git and make. Everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.quantkit-setup
ARGS ?=
TESTERS ?= 2
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup test bench formats methods check lock lock-check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv and install the pinned set (PYTHON=python3.12 chooses the interpreter)

$(STAMP): pyproject.toml requirements.lock scripts/setup.sh
	@echo "Setting up .venv (the first time takes a few minutes)"
	@sh scripts/setup.sh
	@touch $@

test: $(STAMP) ## run the tests in two processes (TESTERS=0: in one; ARGS="-k catalog" adds to pytest's arguments)
	$(BIN)/python -m pytest tests -n $(TESTERS) $(ARGS)

bench: $(STAMP) ## run the main job: benchmark the fast profile on this machine (ARGS="--profile regular")
	$(BIN)/python -m pytest benchmarks $(ARGS)

formats: $(STAMP) ## write docs/formats.md anew: every model, format and scheme, without timing (hours)
	sh scripts/formats.sh

methods: $(STAMP) ## write docs/methods.md anew: what PTQ, QAT, mixed precision and adaptive sessions reach (hours)
	$(BIN)/python scripts/methods.py

check: $(STAMP) ## what CI runs beside the tests: lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

lock: $(STAMP) ## resolve requirements.lock anew
	$(BIN)/python scripts/lock.py write

lock-check: $(STAMP) ## check that the lock resolves for Linux and macOS, Python 3.11 to 3.13
	$(BIN)/python scripts/lock.py check

clean: ## remove .venv and caches (results in .quantkit stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
