PYTHON ?= python3
BIN := .venv/bin
FAST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: demo test test-all fix lint types imports bench peers clean

.venv/user: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/developer: .venv/user
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/user           ## reconstruct a real X-ray scan and a simulated electron scan
	$(BIN)/phaseloom demo

test: .venv/developer      ## lint, types, imports and the fast tests
	$(MAKE) lint types imports
	$(FAST) -m "not slow"

test-all: .venv/developer  ## the slow tier as well
	$(MAKE) lint types imports
	$(FAST)

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/pyright

imports:
	$(BIN)/lint-imports

fix: .venv/developer       ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

peers: .venv/developer     ## environments of the programs that `bench` races against
	$(BIN)/python benchmarks/peers/install.py --into .bench

bench: .venv/developer     ## race them on unseen objects, with the settings that sweeps froze
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.race run --environments .bench

clean:
	rm -rf .venv runs build dist
