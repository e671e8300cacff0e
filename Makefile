# Everything starts here; `make help` lists it. Each target makes or reuses .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stamps: rebuilt when the project's requirements change.
FULL := $(VENV)/.installed-full
DEMO := $(VENV)/.installed-demo
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Two processes of one thread each; tests of one class or module stay together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope
CODE := src tests benchmarks web
OVERLAYS := demo
PACK := assets/pack.safetensors
RUN := runs/mobius-n
BACKBONE ?= runs/backbone
# Scenes of 16; sides of the pictures by share of the run. What made the shipped weights stands in their training.json.
STEPS ?= 10000
SIZES ?= 192@0,256@0.6
LOSS ?= class_loss=mal

.DEFAULT_GOAL := help
.PHONY: help demo install test test-fast test-slow test-long lint type ci bench photos assets train-release web web-serve clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (some minutes the first time)"
	$(PIP_INSTALL) -e '.[demo]'
	touch $@

# The full installation contains what the demo needs.
$(FULL): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) with everything for training, evaluation and tests (some minutes the first time)"
	$(PIP_INSTALL) -e '.[train,eval,dev]'
	touch $(DEMO) $@

demo: $(DEMO) ## segment two real photographs with the shipped weights into demo/
	@photos=$$($(BIN)/python -c 'from importlib.util import find_spec as f; print(f("skimage").submodule_search_locations[0])')/data && \
	$(BIN)/mobius-seg segment "$$photos/chelsea.png" --everything --size 320 --threshold 0.1 --out $(OVERLAYS) && \
	$(BIN)/mobius-seg segment "$$photos/coffee.png" --everything --threshold 0.1 --out $(OVERLAYS) && \
	echo "Overlays: $(CURDIR)/$(OVERLAYS)/chelsea.png and $(CURDIR)/$(OVERLAYS)/coffee.png"

install: $(FULL) ## everything for training, evaluation and tests into .venv

test: test-fast test-slow ## the fast tests, then the slow ones

test-fast: $(FULL) ## what to run after every change
	$(PYTEST) -m "not slow and not long"

test-slow: $(FULL) ## trainings, wheels, large presets
	$(PYTEST) --dist worksteal -m slow

test-long: $(FULL) ## longer tests, half a minute or more each; not in ci
	$(PYTEST) --dist worksteal -m long

lint: $(FULL) ## ruff: format check and rules
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

type: $(FULL) ## mypy, strict
	$(BIN)/mypy

ci: lint type test ## what has to pass before a change lands

photos: $(FULL) ## fetch the photographs of benchmarks/photos (once; about 220 MB)
	$(BIN)/python benchmarks/photos/fetch.py

assets: $(FULL) ## fetch the object packages and pack their cut-outs (once; about 1 GB)
	$(BIN)/mobius-seg assets fetch
	$(BIN)/mobius-seg assets pack

$(PACK):
	$(MAKE) assets

$(BACKBONE)/backbone.safetensors: | $(FULL) $(PACK)
	$(BIN)/mobius-seg pretrain --preset mobius-n --out $(BACKBONE)

train-release: $(FULL) $(BACKBONE)/backbone.safetensors | $(PACK) ## train mobius-n for STEPS=10000 into runs/mobius-n, or go on
	$(BIN)/mobius-seg train --preset mobius-n --backbone $(BACKBONE) --out $(RUN) --steps $(STEPS) --size $(SIZES) --flat 0.6 --loss $(LOSS) $(if $(wildcard $(RUN)/checkpoints/latest.json),--resume)

bench: $(FULL) | $(PACK) ## measure everything in docs/results.md and write it again
	$(BIN)/python benchmarks/run_setup.py
	$(BIN)/python benchmarks/run_import.py
	$(BIN)/python benchmarks/run_compose.py
	$(BIN)/python benchmarks/run_speed.py
	$(BIN)/python benchmarks/run_vocabulary.py
	$(BIN)/python benchmarks/run_quality.py
	$(BIN)/python benchmarks/run_errors.py
	$(BIN)/python benchmarks/run_wordings.py
	$(BIN)/python benchmarks/run_calibration.py
	$(BIN)/python benchmarks/run_points.py
	$(BIN)/python benchmarks/sheet.py
	$(BIN)/python benchmarks/galleries.py
	$(BIN)/python benchmarks/claims/cost.py
	$(BIN)/python benchmarks/report.py

NODE := web/node_modules/.package-lock.json

$(NODE): web/package-lock.json
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

web: $(FULL) $(NODE) ## make what the browser page loads into web/assets (some minutes; needs npm)
	$(BIN)/python web/make_assets.py

web-serve: ## serve the browser page on this machine
	$(PYTHON) web/serve.py

clean: ## remove caches and build results (keeps .venv, assets/ and runs/)
	rm -rf build dist $(OVERLAYS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
