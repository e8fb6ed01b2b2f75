# Every target works on a clean checkout: it makes the Python environment and installs what it needs, and says so before.
# State is kept outside of the tree (${SLUICE_CACHE:-~/.cache/sluice}), but for .venv, build/ and artifacts/.
SHELL := /bin/sh
VENV ?= .venv
PYTHON := $(VENV)/bin/python
UV_VERSION := 0.13.9
E2E ?=
BENCH ?=
export VENV
# When this make began: what the demo says of its time has the setup in it.
export SLUICE_BEGUN := $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help setup venv check binaries images integration cluster-up cluster-down demo demo-down e2e test bench lock generate \
	clean clean-cache

help: ## This list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: setup ## From nothing to a first replay of real data, on a local Kubernetes
	@$(PYTHON) -m demo up

demo-down: venv ## Remove everything that the demo made
	@$(PYTHON) -m demo down

test: ## Everything: check, integration and e2e, and where the time went (KEEP=1: the local Kubernetes stays)
	@hack/setup.sh python
	@$(PYTHON) -m hack.phases

check: venv ## Static checks and unit tests (the inner loop, under 2 minutes)
	$(VENV)/bin/ruff format --check -q .
	# Without its cache, which doesn't notice that a module that imports are sorted by has come or gone.
	@$(VENV)/bin/ruff check -q --no-cache .
	$(VENV)/bin/mypy
	PYTHONPATH=operator $(VENV)/bin/lint-imports --no-cache
	$(PYTHON) -m sluice.api.generate --check
	$(VENV)/bin/pytest -n auto tests/unit

# What takes minutes is made before the tests, where it can be seen, and not in a fixture of the first one. They mostly
# wait for others, so that three share two cores well; each has an API server and Kafkas of its own.
integration: binaries ## Tests with a real API server and real Kafka processes
	$(VENV)/bin/pytest -n 3 --dist loadfile --durations=15 tests/integration

e2e: binaries images cluster-up ## Scenarios on the local Kubernetes; one of them: make e2e E2E=replay
	$(VENV)/bin/pytest --durations=15 $(if $(E2E),e2e/test_$(subst -,_,$(E2E)).py,e2e)

binaries: setup ## Programs of the tests and of the local Kubernetes, built into the cache
	@$(PYTHON) -m e2e.cluster binaries

images: setup ## Operator and broker images, as archives in build/images
	@$(PYTHON) -m hack.images

cluster-up: setup ## The local Kubernetes: kind where Docker is, else the embedded one (NODES=3: of three nodes)
	@$(PYTHON) -m e2e.cluster up $(if $(NODES),--nodes $(NODES))

cluster-down: venv ## Remove the local Kubernetes
	@$(PYTHON) -m e2e.cluster down

bench: setup ## A benchmark: make bench BENCH=replay
	@test -n "$(BENCH)" || { echo "which one? make bench BENCH=<name>, of:"; ls bench; exit 2; }
	@$(PYTHON) -m bench.$(subst -,_,$(BENCH))

generate: venv ## CRDs, the chart's copy of them and docs/reference, from the models
	@$(PYTHON) -m sluice.api.generate

lock: venv ## Resolve both lock files anew
	@hack/lock.sh $(UV_VERSION)

setup: ## Debian packages and the Python environment (said before they are installed)
	@hack/setup.sh

venv:
	@hack/setup.sh python

clean: ## Remove build/, artifacts/ and the Python environment (the cache: make clean-cache)
	rm -rf build artifacts $(VENV)

clean-cache: venv ## Remove the cache with all that was built and downloaded
	@$(PYTHON) -m hack.clean
