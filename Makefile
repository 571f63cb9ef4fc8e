PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN ?= runs/digits

export HF_HUB_OFFLINE ?= 1

.PHONY: install demo test lint benchmarks results clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

# Train 40 sub-models of handwritten digits in one network, measure all, choose one under a budget, cut it out.
demo: $(INSTALLED)
	$(BIN)/sortednet train configs/digits.yaml --output $(RUN) --resume false
	$(BIN)/sortednet evaluate $(RUN)
	$(BIN)/sortednet select $(RUN) max_params=50000 --name small
	$(BIN)/sortednet extract $(RUN) small
	$(BIN)/sortednet report $(RUN)
	@echo "The report: $(RUN)/report.html. The table: $(RUN)/table.csv. The small model: $(RUN)/extracted."

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/core.py --out benchmarks/results/core.json
	$(BIN)/python benchmarks/quality.py --out benchmarks/results/quality.json
	$(BIN)/python benchmarks/pretrained.py --out benchmarks/results/pretrained.json
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
