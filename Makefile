# make run    set up, then test one paper's claims on real input (PAPER=<arXiv id> names another)
# make test   set up with every extra, then run every test
# make lint   format and lint check, types, import order
# make bench  speed against the limits and peers named in benchmarks/
PYTHON ?= python3
PAPER ?= 2602.06938
JOBS ?= 2
BIN := .venv/bin
AREA = $(basename $(notdir $(firstword $(shell grep -l '"$(PAPER)"' src/assay/papers/cards/*.toml))))
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test lint bench browser clean
.DEFAULT_GOAL := run

run:
	@test -n "$(AREA)" || { echo "no paper $(PAPER) in the catalogue"; exit 2; }
	@$(MAKE) --no-print-directory .venv/.ready-$(AREA)
	$(BIN)/assay run $(PAPER) --jobs $(JOBS)

test: .venv/.ready-all browser
	$(BIN)/pytest -n 2 --dist loadfile

# The browser of the end-to-end tests, where it may be installed; without one these tests are skipped.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; } || \
	  echo "no chromium: the tests of the pages in a browser will be skipped"

lint: .venv/.ready-all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.ready-all
	$(BIN)/python -m benchmarks

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Assay needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/.ready-%: .venv/bin/pip pyproject.toml constraints.txt
	$(INSTALL) --editable '.[$*]'
	@touch $@

clean:
	rm -rf .venv
