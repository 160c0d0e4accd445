# make demo, make test: on a machine with Python and make they do all set-up themselves.
PYTHON ?= python3
# More for pip install: an index of CPU builds of torch where pip's own would give CUDA's.
PIP_ARGS ?=
# --record: benchmarks write benchmarks/records, which is in git, and not runs/records.
RECORD ?=
# Test processes, each with one thread.
JOBS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test lint format type pytest test-portable native docs dist wheels bench gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## digits: dense, magnitude, GMP, ADMM, SAFE; a table and a report
	$(BIN)/steppe demo

test: lint type pytest ## everything that must hold: lint, format, types, tests

lint: $(STAMP) ## ruff: rules and formatting, nothing changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## ruff: formats and mends what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP) ## mypy, strict, over src/
	$(BIN)/mypy

# after the quick checks also under make -j, so that its count is the last line
pytest: $(STAMP) | lint type
	$(PYTEST)

test-portable: $(STAMP) ## the tests with the kernels of older processors too; slow
	for kernels in avx2 default; do ATEN_CPU_CAPABILITY=$$kernels $(PYTEST) || exit 1; done

native: $(STAMP) ## compiles the sparse kernels, says which instruction sets work here
	$(BIN)/python -m steppe.sparse.native

docs: $(STAMP) ## the documentation site, into site/; no warning is let pass
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: $(STAMP) ## a wheel and an sdist, into dist/
	$(BIN)/python -m build

wheels: $(STAMP) ## wheels with compiled kernels for every Linux of this processor, into dist/; docker
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cibuildwheel>=2.21'
	$(BIN)/python -m cibuildwheel --platform linux --output-dir dist

bench: $(STAMP) ## speed beside the peers; RECORD=--record renews the records in git
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		-c constraints.txt -e '.[bench]'
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file $(RECORD) || exit 1; done

gpu: $(STAMP) ## all that needs a GPU, under nine minutes: tests, speed, a run; one record
	$(BIN)/python benchmarks/gpu.py $(RECORD)

clean: ## removes the environment and every cache
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is stale when what it was made from is newer, or when it was made elsewhere:
# its scripts and the editable install hold the checkout's path.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "steppe needs Python 3.11 or newer; got $$($(PYTHON) --version 2>&1)." \
			"Way out: make PYTHON=python3.12 ..."; exit 1; }
	@echo 'setting up .venv from pyproject.toml and constraints.txt'
	@{ test ! -e $(STAMP) || test "$$(cat $(STAMP))" = '$(CURDIR)'; } \
		&& $(BIN)/pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		-c constraints.txt -e '.[dev]'
	@printf '%s\n' '$(CURDIR)' > $(STAMP)
