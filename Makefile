# balcap: `make demo` runs the whole pipeline on the embedded default, `make test` the test suite.
# Both set themselves up on first use (Python 3.11 or newer, make and git are all that is needed).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# No dependency phones home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test test-slow screenshots ui lint bench lock clean

help:  ## show this text
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the pinned environment into .venv (part of every other target)

# Repeated only when a pin changed. The find-links that pip is configured with is handed to uv, which does not read
# pip's configuration: that is how a machine with a local CPU build of torch gets it (README, "CPU or CUDA").
$(READY): pyproject.toml constraints/core.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "balcap needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "set-up 1/3: virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "set-up 2/3: uv, the installer"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/core.txt uv 2>&1 | grep -v WARNING || true
	@echo "set-up 3/3: $$(grep -c == constraints/core.txt) pinned packages (about 1.7 GB with CPU torch)"
	@links="$${PIP_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)}"; \
	  VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install $${links:+--find-links "$$links"} -c constraints/core.txt -e '.[dev]' 2>&1 \
	  | grep -vE '^ [+~-] |^Audited'; test $${PIPESTATUS[0]} -eq 0
	@touch $@

demo: $(READY)  ## the whole pipeline on the embedded default, results in the working tree
	@balcap demo

test: $(READY)  ## everything that needs no GPU, no extra server, no browser
	python -m pytest -m "not slow and not gpu and not vllm and not browser and not postgres"

test-slow: $(READY)  ## the long checks: what the embedded default learns, photographs, benchmarks
	python -m pytest -m slow

ui: $(READY)  ## Prefect and MLflow on loopback, over the state that runs left
	@balcap ui

screenshots: $(READY)  ## docs/images again, from what `make demo` left (needs Chromium)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip install --quiet -c constraints/core.txt -e '.[browser]' && python docs/screenshots.py

lint: $(READY)  ## style and types
	ruff check . && ruff format --check . && mypy

bench: $(READY)  ## all benchmarks after `make demo`; rewrites docs/performance.md
	python -m benchmarks

lock: $(READY)  ## write constraints/core.txt from what is installed
	@{ sed -n '/^#/p' constraints/core.txt; VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vE '^pip=='; } > constraints/.core.tmp \
	  && mv constraints/.core.tmp constraints/core.txt

clean:  ## remove the environment and caches, never results
	rm -rf $(VENV) .ruff_cache .mypy_cache .hypothesis
