# Each target sets up all it needs in a virtual environment of its own, once: `make demo` on a fresh machine is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off
# Of what pip says: the large packages, and the step that takes long without a word.
PIP_NEWS := Downloading .*\.whl.* \([0-9]{2,}\.[0-9]+ MB\)|Installing collected packages
SHELL := bash

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' MoBUncertainty/MoBUncertaintyLib/base/version.py)
# Where on GitHub the project is.
REPOSITORY := $(shell sed -n 's|^Source = "https://github.com/\(.*\)"|\1|p' pyproject.toml)

.PHONY: demo test test-slow lint icons screenshots docs release address clean

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

docs: $(VENV)/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going -d build/doctrees -c MoBUncertainty/Documentation . dist/site

# What is published: wheel and source, the documentation, the extension as a folder for Slicer's module paths, and its
# entry of the Extensions Index.
release: $(VENV)/.release docs
	rm -f dist/mob_uncertainty-* dist/MoBUncertainty-*
	$(BIN)/python -m build --outdir dist
	git archive --output dist/MoBUncertainty-$(VERSION).zip HEAD MoBUncertainty LICENSE.txt
	cp MoBUncertainty/Documentation/MoBUncertainty.json dist/

# `make address TO=…/SlicerMoBUncertainty` sets where on GitHub the project is, in all files that state it.
address:
	@[[ '$(TO)' =~ ^[A-Za-z0-9-]+/Slicer[A-Za-z0-9_.-]+$$ ]] || { echo 'Say where: make address TO=…/SlicerMoBUncertainty' >&2; exit 1; }
	git grep --files-with-matches --fixed-strings '$(REPOSITORY)' | xargs perl -pi -e 's#\Q$(REPOSITORY)\E#$(TO)#g'

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
$(VENV)/.docs: EXTRA := [docs]
$(VENV)/.release: EXTRA := [release]
$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "Installing what pyproject.toml names into $(VENV): a minute the first time, some for all that the tests need."
	@set -o pipefail; $(PIP) --editable '.$(EXTRA)' | { grep --line-buffered -oE '$(PIP_NEWS)' || true; }
	@echo "Installed."
	@touch $@
