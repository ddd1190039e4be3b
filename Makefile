# The two commands of a new clone: `make demo` and `make test`. Each sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
# PoCL from pip where it serves the processor, else Intel's runtime; says which, and why.
CPU_DRIVER = $(BIN)/python tools/cpu_driver.py || $(INSTALL) '.[cpu]'

# `make test` runs some cases of tests that build thousands of kernels.
.PHONY: demo test test-all lint check docs env clean

demo: $(VENV)/.demo
	$(BIN)/python examples/ecg_denoise.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

# Each case on each device: an hour or two.
test-all: $(VENV)/.test
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal --all-cases

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

# What `lint` and `test` install, and nothing else: to run parts of them.
env: $(VENV)/.dev $(VENV)/.test
	@echo "The environment is in $(VENV): . $(VENV)/bin/activate"

# The site, in site/. Every warning is an error; docstrings are read, so no device is needed.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing clconv, PoCL and what the demo draws with into $(VENV) …"
	$(INSTALL) '.[pocl,demo]'
	$(CPU_DRIVER)
	@touch $@

# Intel's runtime beside PoCL: tests build thousands of kernels, which it does two to three times as fast.
$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing clconv, two CPU drivers (PoCL, Intel's runtime under its own licence) and what the tests"
	@echo "compare with into $(VENV): minutes, with PyTorch 5 GB …"
	$(INSTALL) '.[pocl,cpu,demo,test]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing clconv and what checks its text into $(VENV): minutes, with PyTorch 5 GB …"
	$(INSTALL) '.[dev,torch]'
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing clconv and what builds the site into $(VENV) …"
	$(INSTALL) '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
