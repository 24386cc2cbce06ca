# Each target sets up all it needs in a virtual environment of its own, once: `make demo` on a fresh machine is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off
# Of what pip says: the large packages, and the step that takes long without a word.
PIP_NEWS := Downloading .*\.whl.* \([0-9]{2,}\.[0-9]+ MB\)|Installing collected packages
SHELL := bash

.PHONY: demo test test-slow lint icons screenshots clean

demo: $(VENV)/.demo
	$(BIN)/mob-uncertainty demo --output demo-results --accept-licence

# A worker for each core. Threads of torch would only get in each other's way: the tests' networks are tiny.
# The longest files come first (Testing/Python/conftest.py), not those with most tests. Bytecode is kept, whatever the
# environment says: the tests' many processes would compile everything again.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist loadfile \
	--no-loadscope-reorder --durations=25

test: $(VENV)/.test
	$(PYTEST)

test-slow: $(VENV)/.test
	$(PYTEST) -m slow

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The icon of extension and module, and the sample's picture.
icons: $(VENV)/.demo
	$(BIN)/python Testing/draw_icons.py

# The documents' pictures: of the panel, and what the demo draws.
screenshots: $(VENV)/.test demo
	$(BIN)/python Testing/screenshots.py

clean:
	rm -rf $(VENV) demo-results build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# The stamps keep an installation from being repeated until pyproject.toml changes.
$(VENV)/.demo: EXTRA :=
# Python compiles what the demo loads when it does: a part of 4,200 modules, which would take 13 s.
$(VENV)/.demo: PIP += --no-compile
$(VENV)/.test: EXTRA := [test]
$(VENV)/.lint: EXTRA := [lint]
$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "Installing what pyproject.toml names into $(VENV): a minute the first time, some for all that the tests need."
	@set -o pipefail; $(PIP) --editable '.$(EXTRA)' | { grep --line-buffered -oE '$(PIP_NEWS)' || true; }
	@echo "Installed."
	@touch $@
