# Two commands for a newcomer: `make demo` and `make test`. Both do all of their own set-up.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down check test lint sanity molecule installed locks build clean benchmark

BIN := .venv/bin
MODEL := demo/tiny
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

setup: ## the tool environment only
	@tools/setup.sh

demo: ## three throwaway hosts, the playbooks a site runs, a question to the endpoint (MODEL=Qwen/Qwen3-0.6B: that model)
	@tools/setup.sh hosts
	@$(BIN)/python tools/demo.py up --model $(MODEL)

demo-down: ## remove everything the demo made
	@if [ -x $(BIN)/python ]; then $(BIN)/python tools/demo.py down; fi

check: setup ## format, lint, types, unit tests: under two minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/python tools/check_argument_specs.py
	$(BIN)/pytest -q tests/unit

locks: setup ## make the hashed requirements files anew from requirements/*.in
	tools/locks.sh

build: setup ## the collection's tarball, in .cache/build
	$(BIN)/ansible-galaxy collection build --force --output-path .cache/build .
