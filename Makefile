# Each target makes .venv first if it is missing or older than what it is made from. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint docs site bench notebooks clean

help:
	@echo "make demo       cross-modal patching with the bundled pair of models: 4 to 6 minutes on two cores"
	@echo "make test       the test suite: about 20 minutes on two cores"
	@echo "make lint       ruff and mypy"
	@echo "make docs       write the tables of docs/ again and build the site, build/site/index.html: about 4 minutes"
	@echo "make site       build the site alone, offline"
	@echo "make bench      speed beside nnsight, TransformerBridge, pyvene and plain forwards, beside plain Trainer and peft,"
	@echo "                and beside one item at a time: about an hour on two cores"
	@echo "make notebooks  run every notebook in probes/notebooks and write it again: about 6 minutes"
	@echo "make clean      remove .venv and caches; results and run folders stay"

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m experiments.cross_modal_patch

# One process for each core, at most four, with one thread each: tests are small. What is slow begins first.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m experiments.model_table
	$(BIN)/python -m experiments.scaling
	$(MAKE) --no-print-directory site

site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

bench: $(STAMP)
	$(BIN)/python -m experiments.bench
	$(BIN)/python -m experiments.bench_tuning
	$(BIN)/python -m experiments.bench_evaluation

# Notebooks are kept as jupytext scripts; the .ipynb beside each holds what it printed and drew.
notebooks: $(STAMP)
	$(BIN)/python -m probes.notebooks

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
