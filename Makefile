# The two commands for a fresh machine are `make demo` and `make test`: both make the virtual environment themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: help demo test test-all test-matrix proof lint bench docs venv clean

help:
	@echo "make demo      a primary and two standbys with the pooler in front, until Ctrl-C"
	@echo "make test      the tests that need nothing but Python packages"
	@echo "make test-all  all tests; some need Debian packages, npm or Docker, and say which"
	@echo "               PYTEST_ARGS='-k cancel' chooses among them, here as in make test;"
	@echo "               PYTEST_ARGS=--riders=off runs them without riders"
	@echo "make test-matrix  all tests of failover on PostgreSQL 13, 15, 16, 17 and 18, one after another, and those for"
	@echo "                  10, 11 and 12; MATRIX='17 18' chooses"
	@echo "make proof     a million statements by 200 clients, every answer checked, while backends are terminated and"
	@echo "               statements canceled, and as many by 200 who change all that a session has;"
	@echo "               PROOF_ARGS=--help says what can be chosen"
	@echo "make lint      ruff and mypy"
	@echo "make bench     direct, PgBouncer, pgpool-II and pgstmtpool side by side, into docs/benchmarks.md;"
	@echo "               BENCH_ARGS=--help says what can be chosen"
	@echo "make docs      docs/configuration.md from the table of settings"
	@echo "make clean     remove the virtual environment and caches"

demo: $(READY)
	@exec $(BIN)/python -m tests.demo

test: $(READY)
	$(BIN)/python -m pytest -m "not needs_debian and not needs_npm and not needs_docker" $(PYTEST_ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

HA_TESTS := $(filter-out %/test_ha_old.py,$(sort $(wildcard tests/cluster/test_ha*.py)))
MATRIX ?= 13 15 16 17 18

test-matrix: $(READY)
	@for version in $(MATRIX); do \
		echo "== PostgreSQL $$version"; \
		HA_POSTGRES=$$version $(BIN)/python -m pytest -m "not needs_debian" $(HA_TESTS) $(PYTEST_ARGS) || \
			failed="$$failed $$version"; \
	done; \
	echo "== PostgreSQL 10, 11 and 12, and switchfunc.sql on 15"; \
	$(BIN)/python -m pytest tests/cluster/test_ha_old.py $(PYTEST_ARGS) || failed="$$failed 10-12"; \
	$(BIN)/python -m pytest -m needs_debian $(HA_TESTS) $(PYTEST_ARGS) || failed="$$failed switchfunc.sql"; \
	[ -z "$$failed" ] || { echo "FAILED:$$failed"; exit 1; }

proof: $(READY)
	@$(BIN)/python -m tests.proof $(PROOF_ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m bench.run --write $(BENCH_ARGS)

docs: $(READY)
	$(BIN)/python docs/generate.py

venv: $(READY)

# Made again when a requirement changes.
$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (PYTHON=... chooses one)" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' || { echo "Python has no ensurepip: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
