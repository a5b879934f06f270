# `make demo` and `make test` work in a fresh clone: the first target that needs it builds .venv.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.10 python3; do \
	if $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	then echo $$python; break; fi; done)
PYTEST_FLAGS ?= -n 2 --dist loadfile
INSTALLED := .venv/installed

.PHONY: demo test bench lint commands clean

demo: $(INSTALLED)
	.venv/bin/parity demo

test: $(INSTALLED)
	.venv/bin/python -m pytest $(PYTEST_FLAGS)

# Alone on the machine: what runs beside it is in the figures.
bench: $(INSTALLED)
	.venv/bin/python -m benchmarks --out runs/bench

lint: $(INSTALLED)
	.venv/bin/ruff check
	.venv/bin/ruff format --check

commands: $(INSTALLED)
	.venv/bin/python -c "from replication.cli import app; \
		from replication.console.reference import markdown; \
		print(markdown(app), end='')" > docs/commands.md

clean:
	rm -rf reports/out build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The mark is written last, so an interrupted installation is taken up again by the next call.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10, 3.11 or 3.12 found."; \
		echo "  Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing the pinned packages into .venv; this takes some minutes the first time."
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
