# milter-bounce. `make demo` shows the main job on a real Postfix, `make test` runs every test.
# Both set up what they need (Debian packages, .venv) and are fast when it is there.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-sendmail test unit lint generate bench fuzz soak lock clean

help: ## Say what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## Debian packages and .venv (as root; elsewhere it says what is missing)
	@PYTHON=$(PYTHON) bash .ci/setup

demo: setup ## The main job on a throw-away Postfix
	@$(BIN)/python -m tests.demo

demo-sendmail: setup ## The same on a throw-away Sendmail
	@$(BIN)/python -m tests.demo_sendmail

test: setup ## Every test
	@$(BIN)/python -m pytest

unit: setup ## The tests that start no server
	@$(BIN)/python -m pytest -m "not integration"

lint: setup ## Formatter and linters in check mode, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/codespell milter_bounce tests conf README.md CHANGELOG.md Makefile

generate: setup ## Make the generated files anew
	@$(BIN)/milter-bounce config > conf/milter-bounce.toml

bench: setup ## Every figure next to its baseline; writes build/bench.json
	@$(BIN)/python -m tests.bench

fuzz: setup ## atheris over every parser and protocol core, SECONDS each (default 60)
	@$(BIN)/python -m tests.fuzz

soak: setup ## The long versions of the crash and load tests
	@MILTER_BOUNCE_SOAK=1 $(BIN)/python -m pytest -m integration

lock: setup ## Pin the dependencies anew
	@$(BIN)/uv pip compile -q pyproject.toml --group dev --all-extras --universal --generate-hashes --no-header \
		--no-emit-index-url --python-version 3.11 --output-file .requirements.lock

clean: ## Remove what the set-up and the tests made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
