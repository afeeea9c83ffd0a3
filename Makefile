# Modelyard's commands. `make` alone lists them; T=path narrows tests and checks to a path.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Interpreters come from the machine; uv fetches none.
export UV_PYTHON_DOWNLOADS := never
export UV_VERSION := 0.13.9

T ?=
SEED ?= 1
STEPS ?=
TELL ?=
BIN := .venv/bin
STACK := $(BIN)/python -m deploy.local
PYTEST := $(BIN)/pytest
CODE := services deploy tests
WORKERS := 2
# Who shares an engine or a stack runs in one worker: `_group_of` in tests/conftest.py.
SPREAD := $(PYTEST) -n $(WORKERS) --dist loadgroup

##@ Use
.PHONY: demo up down status clean
# MODELYARD_RUNTIME=auto|docker|process: where jobs run. MODELYARD_IMAGES="name=reference …": own images.
demo: setup  ## set up, start everything, train, register, deploy and ask a model
	@$(STACK) demo
up: setup  ## start the platform; the address and the first key go to .modelyard/cli.env
	@$(STACK) up
down:  ## stop everything that was started here; its data stays
	@[ ! -x $(BIN)/python ] || $(STACK) down
status:  ## show every part, where it listens, whether it answers
	@$(STACK) status
clean:  ## stop everything and remove its data
	@[ ! -x $(BIN)/python ] || $(STACK) clean

##@ Change
.PHONY: setup protos environments images fmt
setup:  ## make .venv from uv.lock
	@bash deploy/local/setup.sh
protos:  ## generate Python from protos/
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash protos/generate.sh
environments:  ## lock the model environments anew from their requirements.in
	@bash deploy/environments/lock.sh
images: setup  ## build the images of deploy/images on the Docker engine that `make up` would use
	@$(STACK) images
fmt:  ## format Python and protos
	@$(BIN)/ruff format $(CODE) && $(BIN)/ruff check --fix --exit-zero --quiet $(CODE)
	@$(BIN)/buf format -w

##@ Check
.PHONY: test parts engine check lint types arch protos-check lock-check unit contract integration simulate e2e
test: setup  ## everything: set up, check, then every test on real parts
	@$(MAKE) -j 3 parts engine check
	@$(SPREAD) $(or $(T),tests --ignore=tests/e2e)
	@[ -n "$(T)" ] || [ ! -d tests/e2e ] || $(PYTEST) tests/e2e
parts:
	@$(STACK) prepare
engine:
	@$(BIN)/python -m tests.support.docker_engine
check: lint types arch protos-check lock-check  ## format, lint, types, layers, protos, lock
lint:  ## formatting and lint
	@$(BIN)/ruff format --check --quiet $(or $(T),$(CODE)) || { echo "run: make fmt"; exit 1; }
	@$(BIN)/ruff check --quiet $(or $(T),$(CODE))
types:  ## mypy --strict
	@$(BIN)/mypy $(or $(T),services deploy tests)
arch:  ## layers, who may import whom, and that each transition is a step to die at
	@$(BIN)/lint-imports
	@$(PYTEST) -q tests/architecture/test_steps.py
protos-check:  ## protos: lint, format, nothing released is broken, generated code is theirs
	@$(BIN)/buf lint && $(BIN)/buf format -d --exit-code
	@$(BIN)/buf breaking --against protos/released.binpb
	@bash deploy/local/check_generated.sh
lock-check:  ## uv.lock: of this pyproject.toml, and naming the two public hosts only
	@bash deploy/local/check_lock.sh
unit:  ## tests without I/O
	@$(PYTEST) $(or $(T),tests/unit)
contract:  ## one suite over every implementation of a port
	@$(PYTEST) $(or $(T),tests/contract)
integration:  ## tests on real PostgreSQL, Kafka and Redis
	@$(SPREAD) $(or $(T),tests/integration)
simulate:  ## replay a seed on virtual time, faults and all: SEED=7 STEPS=5000 TELL=1
	@$(BIN)/python -m tests.simulation $(SEED) $(STEPS) $(if $(TELL),--tell)
e2e:  ## all services as processes; one after another, for each breaks what it runs on
	@$(PYTEST) $(or $(T),tests/e2e)

##@ Measure
.PHONY: soak
soak: setup  ## long outages on both runtimes, a death at every step, a long history; prints tables
	@$(STACK) prepare
	@MODELYARD_SOAK=1 $(PYTEST) $(or $(T),tests/e2e/faults tests/e2e/crash tests/e2e/history)
.PHONY: bench
bench: setup  ## how fast it is, beside a bare floor: T=start, T=relay, …
	@$(BIN)/python -m tests.bench $(T)

##@ Help
.PHONY: help
help:  ## show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
