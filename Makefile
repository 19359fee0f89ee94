# Two commands matter: `make run` shows the whole way from text to a served model, `make test` proves it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.DELETE_ON_ERROR:
.PHONY: help run test test-slow check format bench bench-quick docs constraints clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: $(RUN)      ## install what the quickstart needs and run it
	$(BIN)/mainspring quickstart

test: $(DEV)     ## the whole test suite but what is marked slow
	$(PYTEST) -n 2 --dist loadfile -m "not slow"

test-slow: $(DEV) ## the long tests
	$(PYTEST) -m slow

check: $(DEV)    ## style, types, and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)   ## put the code in its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)    ## every benchmark at full size; writes benchmarks/results and docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-quick: $(DEV) ## every benchmark, small
	$(BIN)/python -m benchmarks --quick

docs: $(DEV)     ## write the generated pages anew
	$(BIN)/python -m tools.reference

constraints: $(DEV) ## pin what is installed now
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' | grep -v '^mainspring'; } > .constraints.new
	@mv .constraints.new constraints.txt

clean:           ## remove the environment and what tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Mainspring needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# What is already installed for the tests is enough for a run.
$(RUN): pyproject.toml constraints.txt | $(BIN)/python
	@test $(DEV) -nt pyproject.toml -a $(DEV) -nt constraints.txt || $(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[quickstart]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@
