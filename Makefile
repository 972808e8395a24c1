PYTHON ?= python3
TORCH ?=
LOCK ?=
FUZZ_SECONDS ?= 14400
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(LOCK:%=-c %)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: audit docs fuzz demo web test test-all test-gpu checks fast medium slow rest hours wheel-demo coverage mutants fix lint types imports bench peers clean

.venv/user: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)  # PyTorch's own build without CUDA; PyPI's brings about 5 GB of it on Linux
	$(INSTALL) torch --index-url https://download.pytorch.org/whl/cpu
endif
	$(INSTALL) -e .
	touch $@

.venv/developer: .venv/user
	$(INSTALL) -e ".[dev]"
	touch $@

demo: .venv/user           ## reconstruct a real X-ray scan and a simulated electron scan
	$(BIN)/phaseloom demo

web: .venv/user            ## open the page on the output of the demo
	$(INSTALL) -e ".[web]"
	test -f runs/demo/electron/result.h5 || $(BIN)/phaseloom demo
	$(BIN)/phaseloom web runs

docs: .venv/developer      ## the site, docs/_build/index.html, with the examples run (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build

test: .venv/developer      ## lint, types, import contracts and the fast tests: a few minutes
	$(MAKE) -j 2 checks fast

test-all: .venv/developer  ## every test
	$(MAKE) -j 2 checks
	$(PYTEST) -m "not hours"

test-gpu: .venv/developer  ## what needs a GPU: runs and kernels are those of the processor
	$(PYTEST) tests/parity/test_runs_on_gpu.py tests/parity/test_steps_on_gpu.py

checks: lint imports types

fast: .venv/developer
	$(PYTEST) -m "not medium and not slow"

medium: .venv/developer    ## tests of seconds each
	$(PYTEST) -m "medium and not slow"

slow: .venv/developer      ## tests of minutes each
	$(PYTEST) -m "slow and not hours" --durations=25

rest: .venv/developer      ## tests of seconds and of minutes, in one run
	$(PYTEST) -m "(medium or slow) and not hours" --durations=25

hours: .venv/developer     ## every call of every verb fails, or is killed at it; networks at size (hours)
	$(PYTEST) -m hours -s

fuzz: .venv/developer      ## damaged files, junk knobs and command lines for hours; counts into docs/damaged.md
	OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python -m tests.hostile.campaign --seconds $(FUZZ_SECONDS) \
	  --counts .fuzz/counts.json --found .fuzz/found.jsonl --folder .fuzz/files
	$(BIN)/python -m tests.hostile.campaign --table .fuzz/counts.json
	-$(BIN)/python -m tests.hostile.coverage_guided -max_total_time=$(FUZZ_SECONDS)

audit: .venv/developer     ## packages with known weaknesses, by pip-audit (needs the network)
	$(INSTALL) pip-audit
	$(BIN)/python -m pip_audit --progress-spinner off --skip-editable

wheel-demo:                ## the demo from a wheel, in an environment of its own
	rm -rf .wheel && $(PYTHON) -m venv .wheel/venv
	.wheel/venv/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w .wheel .
	.wheel/venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt $(LOCK:%=-c %) .wheel/*.whl
	cd .wheel && OMP_NUM_THREADS=1 venv/bin/phaseloom demo --quiet

coverage: .venv/developer  ## which lines the fast and medium tests run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" --cov --cov-report=term:skip-covered

mutants: .venv/developer   ## how many of 200 seeded mutants the tests miss (hours)
	$(BIN)/python -m benchmarks.mutants --count 200

lint: .venv/developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/developer
	$(BIN)/pyright

imports: .venv/developer
	$(BIN)/lint-imports

fix: .venv/developer       ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

peers: .venv/developer     ## environments of the programs that `bench` races against
	$(BIN)/python benchmarks/peers/install.py --into .bench

bench: .venv/developer     ## race them on unseen objects, with the settings that sweeps froze
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.race run --environments .bench

clean:
	rm -rf .venv .wheel runs build dist docs/_build docs/api docs/gallery
