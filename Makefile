# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Not from the environment, where HOST and MODEL often mean something else.
HOST   := 127.0.0.1
PORT   := 8000
MODEL  :=

.PHONY: help serve test lint types layers bench bench-live bench-delivery soak openapi clean manifests

help:  ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

serve: $(VENV)/.runtime  ## Serve on 127.0.0.1:8000 (MODEL=ViT-B-32/laion2b_s34b_b79k, HOST=, PORT=)
	@$(if $(MODEL),SIMILARITY_MODEL='$(MODEL)') exec $(BIN)/serve-app serve --host $(HOST) --port $(PORT)

test: $(VENV)/.development lint types layers  ## Lint, types, layers and tests (SLOW=1 adds the slow ones)
	$(BIN)/python -m pytest $(if $(SLOW),,-m "not slow") $(ARGS)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.development
	$(BIN)/mypy

layers: $(VENV)/.development
	$(BIN)/lint-imports

bench: $(VENV)/.development  ## Measure speed and memory against plain open_clip (ARGS=--quick)
	$(BIN)/serve-app bench $(ARGS)

bench-live: $(VENV)/.development  ## Measure changes, rollbacks and deaths under load (ARGS="--rounds 5")
	$(BIN)/python -m serve_app.bench.live $(ARGS)

bench-delivery: $(VENV)/.development  ## Measure what each way of bringing weights costs (ARGS="--rounds 3")
	$(BIN)/python -m serve_app.bench.delivery $(ARGS)

soak: $(VENV)/.development  ## Work for long, and see whether anything grows (ARGS="--minutes 20")
	$(BIN)/python -m serve_app.bench.soak $(ARGS)

manifests:  ## Render the overlays of kuberay/ anew (needs kubectl 1.27 or newer)
	kubectl kustomize kuberay/base > kuberay/rendered/base.yaml
	for name in $(notdir $(wildcard kuberay/overlays/*)); do \
	  kubectl kustomize kuberay/overlays/$$name > kuberay/rendered/$$name.yaml || exit 1; \
	done

openapi: $(VENV)/.development  ## Write docs/openapi.json anew
	$(BIN)/python -m serve_app.serving.openapi docs/openapi.json

clean:  ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes a few minutes (torch is large).'
	$(PIP) -e '.[siglip]'
	@touch $@

$(VENV)/.development: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes a few minutes (torch is large).'
	$(PIP) -e '.[all]'
	@touch $@ $(VENV)/.runtime
