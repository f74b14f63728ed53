# Each target does all of its own set-up: on a fresh machine, `make demo` is enough.
.PHONY: help setup demo test check bench gallery format clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:            ## Show the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)  ## Create .venv and install isthmus with everything for development.

demo: $(READY)   ## The main job on embedded data: two trainings, their story, a report (about a minute).
	$(BIN)/isthmus demo --out isthmus-demo-digits-mlp

test: $(READY)   ## All tests. Set ISTHMUS_DATA to run those that need published data sets.
	$(BIN)/python -m pytest -n 2 --dist loadfile tests src

check: $(READY)  ## Format, lint, types (strict), import contracts.
	$(BIN)/ruff format --check src tests benchmarks gallery
	$(BIN)/ruff check src tests benchmarks gallery
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## All benchmarks, one thread; writes benchmarks/results.md.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

gallery: $(READY) ## Long reproductions (hours): writes docs/gallery; needs ISTHMUS_DATA.
	OMP_NUM_THREADS=1 $(BIN)/python -m gallery

format: $(READY) ## Format the code.
	$(BIN)/ruff format src tests benchmarks gallery
	$(BIN)/ruff check --fix src tests benchmarks gallery

clean:           ## Remove the environment and caches.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
