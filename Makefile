# Two commands do everything: `make demo` and `make test`. Each sets up its own virtual environment.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/heliostat demo

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --dist loadfile --ignore tests/e2e --ignore tests/docker
	$(BIN)/pytest tests/e2e tests/docker

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

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
