PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/digits
LOCK := constraints.txt

# What is installed says a stamp for each: everything, or what the demo needs. Either is remade when the lock changes.
INSTALLED := $(VENV)/.installed
DEMO := $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(VENV)/.installed-demo)
UV := $(if $(wildcard $(BIN)/uv),$(BIN)/uv,build/uv/bin/uv)

export HF_HUB_OFFLINE ?= 1

.PHONY: install demo test test-fast lint benchmarks lock newest oldest fuzz clean

# Everything, with the versions of the lock.
install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(LOCK)
	$(PYTHON) tools/install.py --venv $(VENV) --lock $(LOCK) --extras dev
	touch $@

$(VENV)/.installed-demo: pyproject.toml $(LOCK)
	$(PYTHON) tools/install.py --venv $(VENV) --lock $(LOCK) --extras cli
	touch $@

# Train 40 sub-models of handwritten digits in one network, measure all, choose one under a budget, cut it out.
demo: $(DEMO)
	$(BIN)/sortednet train configs/digits.yaml --output $(RUN) --resume false
	$(BIN)/sortednet evaluate $(RUN)
	$(BIN)/sortednet select $(RUN) max_params=50000 --name small
	$(BIN)/sortednet extract $(RUN) small
	$(BIN)/sortednet report $(RUN)
	@echo "The report: $(RUN)/report.html. The table: $(RUN)/table.csv. The small model: $(RUN)/extracted."

# What most changes need, in under two minutes: the rooms of the core, the layering, the surface, the pages.
FAST = tests/test_layering.py tests/imports/test_lazy.py tests/test_docs.py tests/test_space.py tests/views \
  tests/network/test_sorted_net.py tests/network/test_checkpoint.py tests/training/test_sampling.py \
  tests/training/test_steps.py tests/evaluation/test_table.py tests/contracts/test_objectives.py \
  tests/test_cli.py::test_no_command_shows_the_commands src/sortednet/imports src/sortednet/space.py
test-fast: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(FAST)

# The whole suite.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# Style and types.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measure again what the README claims, and make its tables.
benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/core.py --out benchmarks/results/core.json
	$(BIN)/python benchmarks/quality.py --out benchmarks/results/quality.json
	$(BIN)/python benchmarks/pretrained.py --out benchmarks/results/pretrained.json
	$(BIN)/python benchmarks/tables.py

# Write the lock again from what pyproject.toml asks for. What is locked stays where the registry has it and nothing
# forbids it; `make lock UPGRADE=1` takes the newest of all, `make lock UPGRADE=peft` of one.
lock: $(UV)
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-config -q \
	  $(if $(UPGRADE),$(if $(filter 1,$(UPGRADE)),--upgrade,--upgrade-package $(UPGRADE))) \
	  --annotation-style line --custom-compile-command "make lock" -o $(LOCK) >/dev/null

# uv where nothing is installed yet: the lock may be what cannot be installed.
build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install -q -c $(LOCK) uv || build/uv/bin/python -m pip install -q uv

# The contract tests and those of each feature with what the registry has today; docs/support.md says what came out.
# `make newest PYTHONS="3.11 3.13" EVERY=7` names the Pythons, or paths of them, and runs each 7th test only.
newest: $(UV)
	$(PYTHON) tools/support.py newest --uv $(UV) --pythons $(or $(PYTHONS),3.11 3.12 3.13) --every $(or $(EVERY),1)

# The same with the floors that pyproject.toml names.
oldest: $(UV)
	$(PYTHON) tools/support.py oldest --uv $(UV) --pythons $(or $(PYTHONS),3.11) --every $(or $(EVERY),1)

# Open 2,000 damaged files of every kind; `make fuzz COUNT=20000 SEED=1` opens others.
fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --count $(or $(COUNT),2000) --seed $(or $(SEED),0)

# Remove what was made, runs included.
clean:
	rm -rf $(VENV) runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
