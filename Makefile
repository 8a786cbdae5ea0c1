# Each target sets up what it needs, once: a virtual environment in .venv with the tested versions of constraints.txt.
#   make demo    a complete attack on a small challenge that it builds, with a submission and a report, in runs/demo
#   make test    the tests
#   make lint    style and types
#   make docs    the pages, in site/
#   make install everything that the last three need
# For another Python: make PYTHON=python3.12 test. For options of pip: make PIP_FLAGS='--no-cache-dir' test.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv

.PHONY: demo test lint docs install

demo: $(VENV)/installed-test
	$(VENV)/bin/jaxmia demo --out runs/demo

# Bytecode is kept even where the environment forbids it: tests start many processes.
test: $(VENV)/installed-test
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 25

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/pre-commit validate-config .pre-commit-config.yaml

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

install: $(VENV)/installed-all

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jaxmia needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev,docs]'
	@touch $@ $(VENV)/installed-dev $(VENV)/installed-docs $(VENV)/installed-test

$(VENV)/installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the packages into $(VENV), which takes some minutes"
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[$*]'
	@touch $@
