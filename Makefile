# Two commands do everything on a machine with Python 3.11+ and make:  make demo,  make test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-engine bench-shortcuts chaos soak clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(STAMP) ## One job from a prompt to its answer: broker, worker and tiny model included
	@$(BIN)/python -m producer.demo $(if $(PROMPT),"$(PROMPT)")

test: $(STAMP) lint ## Linters, types and all tests but the long half of the chaos suite; what was skipped is named
	$(BIN)/python -m pytest -m "not long"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Served against bare, beside a hand-written peer; BENCH="--rounds 7 ..."
	@$(BIN)/python -m tests.benchmarks.serving $(BENCH)

bench-engine: $(STAMP) ## The engine against transformers and llama.cpp; on a GPU with BENCH="--device cuda:0 ..."
	@$(BIN)/python -m tests.benchmarks.engine $(BENCH)

bench-shortcuts: $(STAMP) ## What prefix reuse and prompt lookup save
	@$(BIN)/python -m tests.benchmarks.shortcuts $(BENCH)

chaos: $(STAMP) ## Kill workers, engines and the server at random; check every invariant (a quarter of an hour)
	$(BIN)/python -m pytest tests/chaos
	@$(BIN)/python -m tests.chaos $(CHAOS)

soak: $(STAMP) ## Half an hour of steady load: nothing may grow
	@$(BIN)/python -m tests.chaos.soak $(SOAK)

clean: ## Remove what was set up
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
