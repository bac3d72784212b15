# Everything here sets itself up: `make test` on a fresh machine needs Python 3.11 or newer and make.
#
#   make test PYTHON=python3.12           another interpreter (run `make clean` first)
#   make test VENV=.venv-old CONSTRAINTS=old.txt      other pins, beside the tested ones

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# Parallel test processes, each with one thread.
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.peers
DOCUMENTED := $(VENV)/.docs
BENCHMARKS := $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help test test-all demo notebooks docs docs-links bench clean

help:
	@echo "make test       ruff (check and format), mypy --strict and the fast tests"
	@echo "make test-all   the same with the slow tests, such as the stress suite"
	@echo "make demo       run the main job: hbode demo"
	@echo "make notebooks  execute every notebook in place"
	@echo "make docs       build the site, docs/_build/html/index.html, and check its links"
	@echo "make docs-links ask the network whether links to other sites are alive"
	@echo "make bench      run benchmarks/*.py into benchmarks/results/"
	@echo "make clean      remove the virtual environment, caches and builds"

# hatchling first and no build isolation: the build backend is then pinned too.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("hbode needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": name another with make PYTHON=...")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c $(CONSTRAINTS) hatchling
	$(PIP) install -q -c $(CONSTRAINTS) --no-build-isolation -e '.[dev]'
	@touch $@

$(PEERS): $(INSTALLED)
	$(PIP) install -q -c $(CONSTRAINTS) --no-build-isolation -e '.[peers]'
	@touch $@

$(DOCUMENTED): $(INSTALLED)
	$(PIP) install -q -c $(CONSTRAINTS) --no-build-isolation -e '.[docs]'
	@touch $@

test: MARKED = not slow
test test-all: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hbode
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "$(MARKED)"

demo: $(INSTALLED)
	$(BIN)/hbode demo

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/execute.py

docs: $(DOCUMENTED)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html

docs-links: $(DOCUMENTED)
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

bench: $(PEERS)
	@mkdir -p benchmarks/results
	@set -e; for script in $(BENCHMARKS); do \
	  table=benchmarks/results/$$(basename $$script .py).txt; \
	  echo "$$script -> $$table"; \
	  $(BIN)/python $$script > $$table.part; \
	  mv $$table.part $$table; \
	  cat $$table; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build docs/api docs/notebooks
	find $(wildcard hbode tests benchmarks notebooks) -name __pycache__ -prune -exec rm -rf {} +
