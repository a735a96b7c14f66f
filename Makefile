# Two commands for a newcomer: `make demo` and `make test`. Both do all of their own set-up.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down check unit-oldest lint sanity molecule test benchmark clean locks build

BIN := .venv/bin
MODEL := demo/tiny
FIND_LINKS :=
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Molecule frames and colours what it runs; a log is read as text.
export MOLECULE_COMMAND_BORDERS := 0
export NO_COLOR := 1
export MOLECULE_GLOB := molecule/*/molecule.yml

help: ## what there is to make
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

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
	$(BIN)/antsibull-changelog lint
	$(BIN)/python tools/check_argument_specs.py
	$(BIN)/pytest -q --numprocesses auto --dist loadfile tests/unit

unit-oldest: ## unit tests of what runs on hosts, under the oldest Python that hosts may have
	@tools/setup.sh oldest-python
	# Respawning is ansible-core's, which no longer installs there.
	.cache/python-3.9/bin/pytest -q --numprocesses auto --dist loadfile tests/unit/plugins/module_utils tests/unit/roles/host_tools \
	  --ignore tests/unit/plugins/module_utils/test__respawn.py

lint: setup ## ansible-lint, production profile
	$(BIN)/ansible-lint --strict

sanity: ## ansible-test sanity, of the oldest and of the newest ansible-core
	@tools/setup.sh newest-core
	tools/sanity.sh
	TOOLS=.cache/core-2.21 tools/sanity.sh

# The default scenario runs on the oldest ansible-core that is supported, the installed collection on the newest.
molecule: ## every scenario, on throwaway hosts
	@tools/setup.sh hosts newest-core
	$(MAKE) scenario-bad_input scenario-gateway scenario-toolkit scenario-driver scenario-mirror scenario-planner scenario-default
	$(MAKE) scenario-installed BIN=.cache/core-2.21/bin

scenario-%: ## one scenario, for example scenario-gateway
	@tools/setup.sh hosts
	# Molecule's own place for what it remembers is shared by all checkouts whose folder has the same name.
	MOLECULE_EPHEMERAL_DIRECTORY=$(CURDIR)/.cache/molecule/$* $(BIN)/molecule test --scenario-name $*

test: check unit-oldest lint sanity molecule ## everything that must hold
	@echo "==> Everything holds"

benchmark: ## what a run of site.yml costs, with 1, 2, 4 and 8 engine hosts
	@tools/setup.sh hosts
	$(BIN)/python benchmarks/site_runs.py

clean: demo-down ## remove everything the project made, the tool environments too
	rm -rf .cache .venv

locks: setup ## make the hashed requirements files anew from requirements/*.in (FIND_LINKS: folder with the CPU torch wheel)
	$(BIN)/python tools/make_locks.py --find-links "$(FIND_LINKS)"

build: setup ## the collection's tarball, in .cache/build
	$(BIN)/ansible-galaxy collection build --force --output-path .cache/build .
