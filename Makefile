# Two commands do everything on a machine with Python 3.11+ and make:  make demo,  make test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLIENTS_VENV ?= .venv-clients
CLIENTS_STAMP := $(CLIENTS_VENV)/.installed
CUDA_VENV ?= .venv-cuda
CUDA_BIN := $(CUDA_VENV)/bin
CUDA_STAMP := $(CUDA_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-long test-models test-clients test-crash test-cuda costs captures lint style mutate mutate-lua bench bench-engine
.PHONY: bench-shortcuts bench-gpu chaos soak clean
# Six at a time: half of a run is waiting for other processes. One file stays in one process, with its worker; files
# are begun in their order, the longest first (tests/order.py).
PARALLEL := -n 6 --dist loadfile --no-loadscope-reorder
# The tests start Python some hundreds of times. Each time it would compile all of this anew where it may keep nothing.
unexport PYTHONDONTWRITEBYTECODE

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(STAMP) ## One job from a prompt to its answer: broker, worker and tiny model included
	@$(BIN)/python -m producer.demo $(if $(PROMPT),"$(PROMPT)")

test: $(STAMP) style ## Linters, types and all tests but the long and the whole matrices; what was skipped is named
	$(BIN)/python -m pytest $(PARALLEL) -m "not long and not matrix"

test-fast: $(STAMP) ## For the work in between: unit tests that compile nothing and start nothing
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not matrix" tests/unit

test-long: $(STAMP) ## The tests that `make test` leaves out because they take long, without those of `make chaos`
	$(BIN)/python -m pytest -m long --ignore tests/chaos

test-models: $(STAMP) ## The engine in every combination of its settings, where `make test` has each pair once
	$(BIN)/python -m pytest $(PARALLEL) tests/unit/worker/engine

test-clients: $(STAMP) $(CLIENTS_STAMP) ## The gateway with clients of others, in an environment of theirs (a few minutes the first time)
	GENQUEUE_CLIENTS_PYTHON=$(CLIENTS_VENV)/bin/python $(BIN)/python -m pytest tests/clients

test-crash: $(STAMP) ## A hundred streams through two gateways while all behind them is killed in turn (ten minutes); CRASH="--rounds 1"
	$(BIN)/python -m pytest tests/crash
	@$(BIN)/python -m tests.crash $(CRASH)

test-cuda: $(CUDA_STAMP) ## The CUDA path without a GPU, on a stand-in: compiled, captured, counted, disturbed (a few minutes)
	$(CUDA_BIN)/python -m pytest -n 2 --dist loadfile tests/cuda
	TRITON_INTERPRET=1 $(CUDA_BIN)/python -m pytest tests/unit/worker/engine/forward/gpu tests/unit/worker/engine/sampling/gpu

costs: $(STAMP) ## What each test file costs, in processor time; COSTS="tests/unit"
	@$(BIN)/python -m tests.costs $(COSTS)

lint: style ## Style, types, and who may import whom
	$(BIN)/mypy

# In a second. Types take twenty where nothing is known of them yet: a test looks at these, beside the others.
style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

mutate: $(STAMP) ## Faults put into the code, of which tests must see 85 %; goes on where it was stopped; MUTATE="event_log"
	@$(BIN)/python -m tests.mutation $(MUTATE)

mutate-lua: $(STAMP) ## The listed faults in the Lua scripts, each with the test that must fail; MUTATE="SUBMIT"
	@$(BIN)/python -m tests.mutation.lua $(MUTATE)

bench: $(STAMP) ## Served against bare, beside a hand-written peer; BENCH="--rounds 7 ..."
	@$(BIN)/python -m tests.benchmarks.serving $(BENCH)

bench-engine: $(STAMP) ## The engine against transformers and llama.cpp; on a GPU with BENCH="--device cuda:0 ..."
	@$(BIN)/python -m tests.benchmarks.engine $(BENCH)

bench-shortcuts: $(STAMP) ## What prefix reuse and prompt lookup save
	@$(BIN)/python -m tests.benchmarks.shortcuts $(BENCH)

bench-gpu: $(STAMP) ## On a machine with a GPU: what must be right there, and every speed, in nine minutes
	@$(BIN)/python -m tests.benchmarks.gpu $(BENCH)

chaos: $(STAMP) ## Kill workers, engines and the server at random; check every invariant (a quarter of an hour)
	$(BIN)/python -m pytest tests/chaos
	@$(BIN)/python -m tests.chaos $(CHAOS)

captures: $(STAMP) ## Every command in a terminal and every page of dashboard and gateway, to be looked at: CAPTURES="--to FOLDER"
	@$(BIN)/python -m tests.captures $(CAPTURES)

soak: $(STAMP) ## Half an hour of steady load: nothing may grow
	@$(BIN)/python -m tests.chaos.soak $(SOAK)

clean: ## Remove what was set up
	rm -rf $(VENV) $(CUDA_VENV) $(CLIENTS_VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) .ci/set_up.py $(VENV)
	@touch $@

# instructor wants an older openai than the others do.
$(CLIENTS_STAMP): $(wildcard tests/clients/requirements*.txt) tests/clients/node/package-lock.json
	@echo "Setting up $(CLIENTS_VENV), once: 1.4 GB on disk"
	@$(PYTHON) -m venv $(CLIENTS_VENV)
	@$(CLIENTS_VENV)/bin/pip install -q -r tests/clients/requirements.txt
	@$(PYTHON) -m venv $(CLIENTS_VENV)/instructor
	@$(CLIENTS_VENV)/instructor/bin/pip install -q -r tests/clients/requirements-instructor.txt
	@if command -v npm >/dev/null; then npm ci --prefix tests/clients/node --no-audit --no-fund --loglevel=error; fi
	@touch $@

# `===` is PyPI's build, which is the one with CUDA. --no-deps leaves out NVIDIA's packages, for which the stand-in is.
$(CUDA_STAMP): constraints.txt $(wildcard tests/cuda/stand_in/*)
	@echo "Setting up $(CUDA_VENV), once: torch with CUDA and Triton, 0.7 GB to fetch and 2.6 GB on disk"
	@$(PYTHON) -m venv $(CUDA_VENV)
	@sed 's/^torch==/torch===/' constraints.txt > $(CUDA_VENV)/requirements.txt
	@$(CUDA_BIN)/python -m pip install -q --no-deps -r $(CUDA_VENV)/requirements.txt setuptools
	@$(CUDA_BIN)/python -m pip install -q --no-deps -e .
	@$(CUDA_BIN)/python tests/cuda/stand_in/build.py
	@touch $@
