# balcap: `make demo` runs the whole pipeline on the embedded default, `make test` the test suite.
# Both set themselves up on first use (Python 3.11 or newer, make and git are all that is needed).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
SMOLLM2 := .work/models/SmolLM2-135M-Instruct

# No dependency phones home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo test test-slow test-vllm vllm smollm2 screenshots ui lint bench lock clean

help:  ## show this text
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

vllm: $(VLLM_READY)  ## vLLM for machines without a GPU, into .venv-vllm (docs/operate.md says what to do with one)

# An environment of its own: vLLM and Prefect want different FastAPIs. The list is complete, so nothing is resolved:
# vllm-cpu's own requirements would add a gigabyte of CUDA libraries that do not load.
$(VLLM_READY): constraints/serve-cpu.txt $(wildcard tools/vllm_cpu/*) | $(READY)
	@echo "vllm 1/2: virtual environment in $(VLLM_VENV)"
	@test -x $(VLLM_VENV)/bin/python || $(BIN)/python -m venv --without-pip $(VLLM_VENV)
	@echo "vllm 2/2: $$(grep -c == constraints/serve-cpu.txt) pinned packages (about 2.1 GB)"
	@links="$${PIP_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)}"; \
	  VIRTUAL_ENV=$(CURDIR)/$(VLLM_VENV) $(BIN)/uv pip install --no-deps $${links:+--find-links "$$links"} -r constraints/serve-cpu.txt ./tools/vllm_cpu 2>&1 \
	  | grep -vE '^ [+~-] |^Audited'; test $${PIPESTATUS[0]} -eq 0
	@touch $@

smollm2: $(SMOLLM2)/config.json  ## a small real language model, into .work/models, to try judges with

$(SMOLLM2)/config.json: | $(READY)
	@python tools/smollm2.py $(SMOLLM2)

demo: $(READY)  ## the whole pipeline on the embedded default, results in the working tree
	@balcap demo

test: $(READY)  ## everything that needs no GPU, no extra server, no browser
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not vllm and not browser and not postgres"

test-slow: $(READY)  ## the long checks: what the embedded default learns, photographs, benchmarks
	python -m pytest -m slow

test-vllm: $(READY) $(VLLM_READY) $(SMOLLM2)/config.json  ## judges and exported captioners in a real vLLM (some minutes; sets up what it needs)
	python -m pytest -m vllm tests/serving

ui: $(READY)  ## Prefect and MLflow on loopback, over the state that runs left
	@balcap ui

screenshots: $(READY)  ## docs/images again, from what `make demo` left (needs Chromium)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip install --quiet -c constraints/core.txt -e '.[browser]' && python docs/screenshots.py

lint: $(READY)  ## style and types
	ruff check . && ruff format --check . && mypy

bench: $(READY) $(VLLM_READY) $(SMOLLM2)/config.json  ## all benchmarks after `make demo`; rewrites docs/performance.md
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip install --quiet -c constraints/core.txt -e '.[bench]' && python -m benchmarks

lock: $(READY)  ## write constraints/core.txt from what is installed
	@{ sed -n '/^#/p' constraints/core.txt; VIRTUAL_ENV=$(CURDIR)/$(VENV) uv pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vE '^pip=='; } > constraints/.core.tmp \
	  && mv constraints/.core.tmp constraints/core.txt

clean:  ## remove the environment and caches, never results
	rm -rf $(VENV) $(VLLM_VENV) .ruff_cache .mypy_cache .hypothesis
