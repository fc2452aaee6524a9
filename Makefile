# make setup | train | test | test-all | docs | bench | lint | clean. Nothing here needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONFIG := configs/risurconv/risurconv-s_kicad.py
WORK_DIR := work_dirs/risurconv-s_kicad

.PHONY: setup train test test-all docs bench lint clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or sys.exit("pointsuite wants Python 3.10 to 3.12, found %d.%d: make PYTHON=python3.11 ..." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing; install it with: apt-get install python3-venv" >&2; exit 1; }
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
