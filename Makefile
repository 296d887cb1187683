# `make help` names the commands. Each creates .venv here and reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard kernels/csrc/*)

.PHONY: help demo test system lint architecture bench clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## Name the commands.
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.train ## Run the main job on real pictures; DATA=FOLDER for a category of your own.
	$(BIN)/edgead demo --out demo $(if $(DATA),--data $(DATA))

test: system lint ## Install, lint and run the tests; ARGS=... for pytest.
	$(BIN)/python -m pytest $(ARGS)

system: ## Install with apt, where it may, what tests need of the system: browser, MQTT broker, RTSP server, emulators.
	@PYTHON="$(PYTHON)" sh tests/system.sh

lint: $(VENV)/.dev ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

architecture: $(VENV)/.dev ## Count lines and arrows between rooms, and draw docs/architecture.svg anew.
	$(BIN)/python tests/benchmarks/architecture.py --svg docs/architecture.svg

bench: $(VENV)/.dev .venv-bench/.done ## Run EdgeAD and its peers on CATEGORY=FOLDER in MVTec AD's layout; ARGS=... for run.py.
	@test -n "$(CATEGORY)" || { echo "name a category: make bench CATEGORY=data/mvtec_ad/bottle"; exit 2; }
	$(BIN)/python tests/benchmarks/field/run.py $(CATEGORY) $(ARGS)
	$(BIN)/python tests/benchmarks/field/table.py

.venv-bench/.done: tests/benchmarks/field/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --requirement tests/benchmarks/field/requirements.txt
	@touch $@

docs: $(VENV)/.docs ## Build the documentation as a site with search, in build/site; warnings are errors.
	$(BIN)/mkdocs build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "EdgeAD needs Python 3.10 or newer; set PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/.train: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.train

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.5,<10'
	@touch $@

clean: ## Remove .venv and what was built.
	rm -rf $(VENV) .venv-bench build *.egg-info
