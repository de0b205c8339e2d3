# Everything a developer does. Needs make and Python 3.11 or newer; the rest goes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DISTRIBUTIONS := libs/common libs/client services/gateway services/coordinator services/shard
SOURCES := $(wildcard libs services tests bench examples)
NATIVE := $(wildcard services/shard/native/*)
PROTOS := $(wildcard proto/vector_db/v1/*.proto)

.PHONY: help venv run demo test test-unit test-pure check static format sim golden proto bench-write bench-query bench-txn bench-moves bench-engine bench-peers bench-scaling crash mesh damage differential clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## The virtual environment in .venv (made by every other target)

$(STAMP): constraints.txt $(DISTRIBUTIONS:%=%/pyproject.toml) $(NATIVE)
	@if [ ! -x $(BIN)/python ]; then \
	  for py in $${PYTHON:-} python3 python3.13 python3.12 python3.11; do \
	    if command -v "$$py" >/dev/null && \
	       "$$py" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      found=$$py; break; \
	    fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo "vector-db needs Python 3.11 or newer; none found (set PYTHON=/path/to/python3)" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$$found cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; \
	    exit 1; }; \
	fi
	@echo "Installing what constraints.txt lists"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r constraints.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps \
	  -C editable_mode=compat $(addprefix -e ,$(DISTRIBUTIONS))
	@touch $@

run: venv ## Serve on http://127.0.0.1:8080 and grpc://127.0.0.1:9090
	@exec $(BIN)/vector-db run all

demo: venv ## Load a small dictionary, search it, go on serving
	@exec $(BIN)/vector-db demo

static: venv
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

check: static ## The quick loop: format, lint, types, import rules, unit tests
	$(BIN)/python -m pytest tests/unit --durations=5

# What starts processes and minds how long they take; it has the machine to itself.
REAL := tests/integration tests/crash tests/mesh tests/e2e
UNIT := tests/unit

test: venv ## Everything: the static checks and all tests
	@# Hundreds of processes start: a third less each where PYTHONDONTWRITEBYTECODE is set.
	@$(BIN)/python -m compileall -q $(DISTRIBUTIONS)
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-unit static test-pure
	$(BIN)/python -m pytest $(REAL) --durations=25

test-unit: venv
	$(BIN)/python -m pytest $(UNIT) --durations=15

test-pure: venv
	$(BIN)/python -m pytest $(addprefix --ignore=,$(UNIT) $(REAL)) --durations=15

SEEDS ?= 200
SEED_START ?= 1

sim: venv ## Whole services on a seeded loop under faults: SEEDS=200 SEED_START=1
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --start $(SEED_START) --jobs 2

golden: venv ## Write the effects of the protocol's scripts anew, to look at in the diff
	$(BIN)/python -m pytest tests/sim/golden --rewrite-golden

format: venv ## Rewrite the sources in the house style
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

proto: venv ## Generate libs/common/vector_db/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=libs/common --pyi_out=libs/common \
	  --grpc_python_out=libs/common $(PROTOS)

bench-write: venv ## Durable rows a second, beside the raw cost of the same bytes
	$(BIN)/python bench/write.py

bench-query: venv ## Query latency and rate, beside raw FAISS and a bare route
	$(BIN)/python bench/query.py

bench-txn: venv ## Transactions, beside one JetStream publish (BASELINE=PYTHON: and another version)
	$(BIN)/python bench/txn.py $(if $(BASELINE),--baseline $(BASELINE))

bench-moves: venv ## Queries and writes while shards move, beside the same while none does
	$(BIN)/python bench/moves.py

ROWS ?= 1000000
DIM ?= 128

bench-engine: venv ## A large collection beside raw FAISS, in process and over REST: ROWS=1000000 DIM=128
	$(BIN)/python -m bench.engine --rows $(ROWS) --dimension $(DIM)

bench-peers: venv ## The same rows in other databases, each in an environment of its own (under an hour)
	$(BIN)/python -m bench.peers

bench-scaling: venv ## What many workers would cost and do, from what few are measured to (docs/scaling.md)
	$(BIN)/python -m bench.scaling

crash: venv ## Kill and pause services under load, check all that clients saw (ROUNDS=200 SEED=n)
	@$(BIN)/python -m tests.crash

mesh: venv ## The whole mesh at 200 calls/s, a fault every 20 s: MINUTES=10 SEED=n RATE=200
	@$(BIN)/python -m tests.mesh

damage: venv ## Cut the log at every byte, flip 10,000 bits over all files, take the power and the broker away
	VECTOR_DB_TEST_FLIPS=10000 VECTOR_DB_TEST_POWER_CUTS=10 $(BIN)/python -m pytest -s \
	  tests/crash/test_damaged_files.py tests/crash/test_power_loss.py tests/integration/test_broker_lost.py

SEQUENCES ?= 1000

differential: venv ## Random lives of a store against a dictionary with exact search: SEQUENCES=1000
	VECTOR_DB_TEST_SEQUENCES=$(SEQUENCES) $(BIN)/python -m pytest tests/property

clean: ## Remove .venv, caches and build outputs (never data/)
	rm -rf $(VENV) .make build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache bench/out
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
