# Two commands: `make demo` and `make test` (`make test-all` adds the slow tests). Each sets up what it needs in .venv; the second call is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two processes of one thread each, which is quicker than one of two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations 10
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-all lint docs clean

demo: $(VENV)/installed
	@echo "== making pictures from twelve prompts (demo/)"
	@$(BIN)/sfumato create --prompts examples/prompts.txt --output demo --seed 7 --grid --overwrite
	@echo "== done: look at demo/sheet.png; $(BIN)/sfumato serve opens the studio"

test: $(VENV)/installed-dev lint
	@echo "== tests but for the slow ones, with the network blocked"
	@$(PYTEST)

test-all: $(VENV)/installed-dev lint docs
	@echo "== all tests, with the network blocked"
	@$(PYTEST) -m ""

docs: $(VENV)/installed-dev
	@echo "== the documentation: build/docs/index.html; sfumato serve has it under /docs/"
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/docs

lint: $(VENV)/installed-dev
	@echo "== ruff and mypy"
	@$(BIN)/ruff check src tests examples benchmarks recipes
	@$(BIN)/mypy

$(VENV)/bin/python:
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== installing sfumato with all extras (PyTorch is the largest part)"
	@$(PIP) --editable ".[train,reduce,search,studio]"
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== installing sfumato with what the tests need"
	@$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache
