# Two commands do everything: `make demo` and `make test`. Each sets up its own virtual environment.
#   make test PACKAGE=trainer    the tests of one package alone: cli, engines, server, trainer, wire, e2e or docker
#   make check                   what has changed: format, lint, types, and the fast tests of its packages
#   make docs                    the documentation as a site, in site/
#   make proto                   heliostat_proto anew, from the .proto files
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt

# What starts servers runs one after another: two at once starve each other on two cores.
SERVERS := e2e docker
SPREAD := --numprocesses 2 --dist loadfile

.PHONY: demo test check lint docs proto clean

demo: $(VENV)/.demo
	$(BIN)/heliostat demo

test: $(VENV)/.dev
ifdef PACKAGE
	$(BIN)/pytest $(if $(filter $(PACKAGE),$(SERVERS)),,$(SPREAD)) tests/$(PACKAGE)
else
	$(BIN)/pytest $(SPREAD) $(SERVERS:%=--ignore tests/%)
	$(BIN)/pytest $(SERVERS:%=tests/%)
endif

check: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" .ci/check

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

proto: $(VENV)/.dev
	$(BIN)/python proto/generate.py

# torch first and alone: with it in place, no other package asks for a newer build of it.
$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit("heliostat needs Python 3.11 or 3.12: make PYTHON=python3.11 ...") if not (3, 11) <= sys.version_info < (3, 13) else None'
	$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/.made

$(VENV)/.torch: $(BIN)/pip constraints.txt
	$(INSTALL) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "Installing heliostat into $(VENV) ..."
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "Installing heliostat and its test tools into $(VENV) ..."
	$(INSTALL) --editable '.[dev]'
	@touch $@

# Only what make made: runs and the server's state are people's work.
clean:
	@if [ -e "$(VENV)/.made" ] || [ "$(VENV)" = .venv ]; then rm -rf "$(VENV)"; \
	elif [ -e "$(VENV)" ]; then echo "$(VENV) is not of make's making: delete it yourself" >&2; exit 1; fi
