# Every target works from a clean clone: `setup` builds .venv from the lock file first.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
else
  BIN := $(VENV)/bin
endif
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-extended test-all mutants faults same coverage check format lock bench

help:
	@echo "make demo           a Unitree Go1 learns to walk"
	@echo "make test           the test suite, about 8 minutes on two cores"
	@echo "make test-extended  the rest of what every submission must pass: kills, clusters, browsers"
	@echo "make test-all       both, and learning curves on real tasks"
	@echo "make check          format, lint, types, floors"
	@echo "make format         format the code"
	@echo "make mutants        put known bugs back, one at a time: the tests must find each"
	@echo "make faults         kill runs, fill disks, damage files, train for long"
	@echo "make same           whether learning is as it was in BASE=COMMIT, byte for byte"
	@echo "make coverage       which lines and branches of the core the tests reach"
	@echo "make bench          the benchmarks, in an environment of their own"
	@echo "make lock           renew requirements.lock"

setup: $(STAMP)

PIP := -m pip install --quiet --disable-pip-version-check

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else "Surefoot needs Python 3.11 or newer, $(PYTHON) is %d.%d; try make PYTHON=python3.12 ..." % v)'
	@echo "Setting up $(VENV) from requirements.lock (about a minute)..."
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(PIP) --only-binary :all: --require-hashes -r requirements.lock
	$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup
	$(BIN)/surefoot demo

PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

# most of the time is compilation: programs are optimized less here, and as users have them in the other sets
test: setup
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not slow and not extended"

test-extended: setup
	$(PYTEST) -m "extended and not slow"

test-all: setup
	$(PYTEST)

# `make mutants MUTANTS=catalogue` takes a quarter of an hour, all of it more than two hours
MUTANTS ?= catalogue functional

mutants: setup
	$(BIN)/python -m tests.mutants.run $(MUTANTS)

# a few minutes; with FAULTS=--long 200 kills, 10,000 damaged files and 2,000 updates
faults: setup
	$(BIN)/python -m tests.faults.run $(FAULTS)

# about ten minutes; with KINDS="hopper trpo" those alone (python benchmarks/same_bytes.py --list)
BASE ?= HEAD

same: setup
	$(BIN)/python benchmarks/same_bytes.py $(BASE) $(if $(KINDS),--kinds $(KINDS))

coverage: setup
	$(BIN)/python -m coverage run -m pytest -m "not slow" tests/functional tests/networks tests/rollout \
	  tests/update tests/training tests/envs tests/services
	$(BIN)/python -m coverage report

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --fork-strategy fewest --generate-hashes --custom-compile-command "make lock" \
	  --quiet -o requirements.lock

.bench-venv/.installed: benchmarks/requirements.txt
	$(PYTHON) -m venv --clear .bench-venv
	.bench-venv/bin/python $(PIP) -r benchmarks/requirements.txt
	@touch .bench-venv/.installed

# each about 2 to 10 minutes; e.g. `make bench BENCH=speed`. Longer ones, by name: learning_curves, lag
# (half an hour each), spikes (ten minutes), time_to_target and trpo (hours)
BENCH ?= speed limits overlap seeds start memory growth

bench: setup .bench-venv/.installed
	set -e; for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py; done
	.bench-venv/bin/python benchmarks/plots.py
