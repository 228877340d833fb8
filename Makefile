# Each target makes .venv first if it is missing or older than what it is made from. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint docs bench notebooks clean

help:
	@echo "make demo       cross-modal patching with the bundled pair of models: about 5 minutes on two cores"
	@echo "make test       the test suite: about 5 minutes on two cores"
	@echo "make lint       ruff and mypy"
	@echo "make docs       write the tables of docs/ again, from the registry, the test battery and counted sweeps"
	@echo "make bench      speed beside nnsight, TransformerBridge, pyvene and plain forwards: about 50 minutes on two cores"
	@echo "make notebooks  run every notebook in probes/notebooks"
	@echo "make clean      remove .venv and caches; results and run folders stay"

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m experiments.cross_modal_patch

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m experiments.model_table
	$(BIN)/python -m experiments.scaling

bench: $(STAMP)
	$(BIN)/python -m experiments.bench

# Notebooks are kept as jupytext scripts, without outputs; executed copies go to runs/notebooks.
notebooks: $(STAMP)
	@mkdir -p runs/notebooks; set -e; found=; \
	for script in $$(find probes/notebooks -name '*.py' 2>/dev/null | sort); do \
		found=yes; copy=runs/notebooks/$$(basename $$script .py).ipynb; \
		$(BIN)/jupytext --quiet --to ipynb --output $$copy $$script; \
		$(BIN)/jupyter-execute --inplace $$copy; \
		echo "$$copy"; \
	done; \
	test -n "$$found" || echo "probes/notebooks holds no notebooks yet."

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
