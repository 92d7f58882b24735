# Two commands do all the set-up on a fresh machine with Python: `make demo` and `make test`.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test test-slow test-gpu test-oldest test-package docs fixtures check format bench tables clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## segment example pictures by words with an embedded tiny CLIP
	$(BIN)/denseclip demo --out demo --overwrite

test: $(VENV)/.developer  ## all tests but the slow ones
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(VENV)/.developer
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.developer  ## what needs a GPU; skipped without one
	$(BIN)/python -m pytest -m gpu -rs

test-package: $(VENV)/.developer  ## the wheel, built, checked, installed by itself and used
	$(BIN)/python -m pytest tests/test_wheel.py

docs: $(VENV)/.developer  ## the documentation site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

OLDEST ?= .venv-oldest

test-oldest:  ## all tests but the slow ones, with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	$(OLDEST)/bin/python -m pytest -m 'not slow'

fixtures: $(VENV)/.developer  ## equality with the official code; DENSECLIP_FIXTURES names another folder of cases
	$(BIN)/python -m pytest -m fixtures

check: $(VENV)/.developer  ## format, lint, types
	$(BIN)/ruff format --check src tests benchmarks tools examples
	$(BIN)/ruff check src tests benchmarks tools examples
	$(BIN)/mypy

format: $(VENV)/.developer
	$(BIN)/ruff format src tests benchmarks tools examples
	$(BIN)/ruff check --fix src tests benchmarks tools examples

bench: $(VENV)/.developer  ## speed as ratios, written to results/bench.json
	$(BIN)/python -m benchmarks

TABLES = kspd variants table4 table5 table1 table6 table2a table2b table2c table3 ade20k coco

tables: $(VENV)/.developer  ## the papers' tables in miniature: hours; the same command goes on after a stop
	for table in $(TABLES); do \
	  $(BIN)/denseclip reproduce $$table --out runs/reproduce && cp runs/reproduce/$$table-mini.* results/ || exit 1; \
	done

clean:
	rm -rf $(VENV) demo runs site dist
