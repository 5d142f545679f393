# `make film` and `make test` do all the set-up themselves, in any order and any number of times.

# Python 3.11; when empty, the first one that requirements/check.sh finds.
PYTHON ?=
VENV ?= .venv
# For those whose pip cannot find PyTorch's CPU build: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

INSTALL = PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH_INDEX='$(TORCH_INDEX)' bash requirements/install.sh
BIN = $(VENV)/bin
# Three processes; each starts Ray once at most for all tests that take it (tests/conftest.py).
SIDE_BY_SIDE = -n 3

.PHONY: help check install install-test film serve gpu-check test test-long lint lock clean

help:
	@echo "make film       install what is needed, make a film of the example story, and say where it lies"
	@echo "make serve      install what is needed and serve films over HTTP at http://127.0.0.1:8000/v1/videos"
	@echo "make test       install what tests need, then lint, check types and run the tests"
	@echo "make test-long  the same tests and those of full size"
	@echo "make gpu-check  see whether this machine's GPUs do as they should: seconds, GB and a verdict"
	@echo "make lint       ruff, import-linter and mypy alone"
	@echo "make install    only install, into $(VENV)"
	@echo "make lock       resolve requirements/*.in again (UPGRADE=1: let versions move)"
	@echo "make clean      remove $(VENV) and caches; films and stored results stay"
	@echo "Where pip does not find PyTorch's CPU build, add TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@PYTHON='$(PYTHON)' bash requirements/check.sh >/dev/null

check:
	@PYTHON='$(PYTHON)' bash requirements/check.sh >/dev/null && echo "Python 3.11 and its headers, pip, git, make, a C++ compiler: all here"

install:
	@$(INSTALL) cpu

install-test:
	@$(INSTALL) cpu test

film: install
	@$(BIN)/dreamrunner render examples/the-fox-and-the-robot.txt

serve: install
	@$(BIN)/dreamrunner serve

# For the first machine with GPUs (requirements/gpu.lock installed); without any it takes the miniature and two processes.
gpu-check: install
	$(BIN)/python -m benchmarks.gpu_check

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-long: lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "long or not long"

# A dry run of pip that downloads 1.5 GB and installs nothing. The GPU's lock is apart, since it is far bigger and must see
# PyTorch's CUDA build: python requirements/lock.py gpu
lock: install
	PIP_EXTRA_INDEX_URL="$${PIP_EXTRA_INDEX_URL:-} $(TORCH_INDEX)" $(BIN)/python requirements/lock.py cpu $(if $(UPGRADE),--upgrade)
	$(BIN)/python requirements/lock.py test $(if $(UPGRADE),--upgrade)

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find engine actors cluster serving tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
