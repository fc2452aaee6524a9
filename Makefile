# make setup | train | test | test-all | docs | bench | lint | clean. Nothing here needs root.
# the Python that was tested most comes first; PYTHON=... names another
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3.10 python3
CAN_BUILD := import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c '$(CAN_BUILD)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONFIG := configs/risurconv/risurconv-s_kicad.py
WORK_DIR := work_dirs/risurconv-s_kicad

.PHONY: setup train test test-all docs bench lint clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: found none of $(PYTHONS) that has venv, wanted Python 3.10 to 3.14: apt-get install python3-venv, or make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c '$(CAN_BUILD)' 2>/dev/null || { echo "make: $(PYTHON): found $$($(PYTHON) -V 2>&1 | tail -n 1), wanted Python 3.10 to 3.14 with venv (apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
# onedl-mmcv brings opencv-python, which needs a desktop's libraries, into the folder of its headless build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --force-reinstall opencv-python-headless
	@touch $@

train: setup
	$(BIN)/python tools/train.py $(CONFIG) --work-dir $(WORK_DIR)
	$(BIN)/python tools/test.py $(CONFIG) $(WORK_DIR) --work-dir $(WORK_DIR) --protocols

# Two processes of one thread each: networks in tests are too small to share among threads. A file stays in one
# process, whose fixtures it shares.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

docs: setup
	$(BIN)/python tools/analysis/list_models.py --write

bench: setup
	$(BIN)/python benchmarks/points.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) work_dirs build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
