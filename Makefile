# `make demo` and `make test` are all the set-up a fresh machine needs: each makes .venv if it is missing.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

WORKERS ?= 2
PYTEST := $(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

.PHONY: demo test test-all lint benchmark clean

demo: $(INSTALLED)  ## meta-train in PyTorch and in JAX on the same episodes; report in metabridge-report/
	$(VENV)/bin/metabridge compare

test: $(INSTALLED)  ## every law, documentation examples included; WORKERS=8 for a larger machine
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED)  ## the same with the tests marked slow
	$(PYTEST)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmark: $(INSTALLED)
	$(VENV)/bin/python benchmarks/loading.py
	$(VENV)/bin/python benchmarks/metamodules.py

clean:
	rm -rf $(VENV) metabridge-report

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@
