# make quickstart   set everything up and teach a small model
# make test         set everything up and run the tests
# make lint         what CI checks besides the tests
# make matrix       what composes with what, each cell tried: an hour; writes docs/matrix.md
#
# Set-up needs Python 3.11 or newer, nothing else, and stays inside .venv. Repeating a target installs nothing again
# until pyproject.toml or constraints.txt changes. PYTHON=python3.13 chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3.14 python3 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# torch must be constrained in the command that first needs it: an unpinned one brings gigabytes that nobody tested.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
define install
@echo "installing ft into $(VENV); torch is large, so the first time takes minutes"
$(PIP) --editable '.[$(1)]'
@touch $@ $(2)
endef

.PHONY: quickstart test lint matrix clean

quickstart: $(VENV)/.user
	$(BIN)/ft run examples/quickstart.yaml

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses auto --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

matrix: $(VENV)/.dev
	$(BIN)/python tests/contract/matrix.py

clean:
	rm -rf $(VENV)

$(VENV)/.user: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,plot)

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev,$(VENV)/.user)

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'ft needs Python 3.11 or newer with its venv module (on Debian: python3-venv)'; exit 5; }
	$(PYTHON) -m venv $(VENV)
