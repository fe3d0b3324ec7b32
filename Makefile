PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard nbs/*.ipynb))

# Tests run on all cores, one thread each: with more threads than cores they would take three times as long.
# The other two tell glibc to keep the memory of large tensors. Otherwise it returns it and asks for new pages each time.
ONE_THREAD := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
PYTEST := $(ONE_THREAD) $(BIN)/pytest -n auto

.PHONY: help setup run test test-slow test-all lab practice notebooks bench mutants readme site site-serve test-latest test-lowest clean

help:
	@echo 'make run           the whole climb on the real data: a table, and a chart in climb.png'
	@echo 'make test          every notebook and its saved outputs, its practice copy, the export, the README, and the tests'
	@echo 'make test-slow     what takes longer: slow cells and tests, copies that are answered wrong or not at all, 60 mutants'
	@echo 'make test-all      both'
	@echo 'make setup         only make .venv from constraints.txt'
	@echo 'make lab           JupyterLab on the notebooks'
	@echo 'make practice      JupyterLab on practice copies of them, in the folder my_practice'
	@echo 'make notebooks     run every notebook from top to bottom and save its outputs'
	@echo 'make readme        make README.md from nbs/index.ipynb'
	@echo 'make site          the whole course as web pages, in _site/html; nothing is executed'
	@echo 'make site-serve    the same, shown at http://127.0.0.1:8000'
	@echo 'make bench         speed and memory, as ratios'
	@echo 'make mutants       600 small changes of the library: is each noticed by a test?'
	@echo 'make test-latest   the tests on the newest fastai, in .venv-latest'
	@echo 'make test-lowest   the tests of the modules on the oldest packages that settings.ini allows, in .venv-lowest'
	@echo 'make clean         remove what these made; PYTHON=python3.12 names another Python'

run: setup
	$(BIN)/mnist_sgd_run

test: setup
	$(PYTEST)

test-slow: setup site
	$(PYTEST) -m 'slow or slow_cells'
	$(ONE_THREAD) $(BIN)/nbdev_test --n_workers 2
	$(ONE_THREAD) $(BIN)/python tests/mutants.py --sample 60

test-all: test test-slow

setup: .venv/ready
.venv/ready: constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mnist_sgd needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo 'Setting up .venv with PyTorch, fastai and Jupyter. This takes some minutes and 2 GB, or 5 GB where PyTorch comes with CUDA.'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# a notebook that is not trusted loses the colours of its tables
lab: setup
	$(BIN)/jupyter trust $(NOTEBOOKS) > /dev/null
	$(BIN)/jupyter lab nbs

practice: setup
	$(BIN)/mnist_sgd_practice my_practice
	$(BIN)/jupyter lab my_practice

notebooks: setup
	$(BIN)/python -c 'from mnist_sgd.data import mnist_sample; mnist_sample()'
	$(BIN)/python tests/ledger.py
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=WARN $(NOTEBOOKS)
	$(BIN)/nbdev_clean
	$(MAKE) readme

bench: setup
	$(BIN)/python tests/bench.py

mutants: setup
	$(ONE_THREAD) $(BIN)/python tests/mutants.py --sample 600

readme: setup
	$(BIN)/python tests/readme.py

site: setup .venv-site/ready
	$(BIN)/python .github/site/pages.py _site/pages
	.venv-site/bin/sphinx-build -q -W --keep-going -E -j 2 -c .github/site _site/pages _site/html

.venv-site/ready: .github/site/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/pip install -q -r .github/site/requirements.txt
	touch $@

site-serve: site
	.venv-site/bin/python -m http.server --bind 127.0.0.1 --directory _site/html 8000

# torch stays pinned, so that no other build of it is fetched; everything else is the newest there is
test-latest:
	rm -rf build
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install -q torch==2.13.0
	.venv-latest/bin/pip install -q --upgrade --upgrade-strategy eager --force-reinstall --no-deps .
	.venv-latest/bin/pip install -q --upgrade --upgrade-strategy eager torch==2.13.0 '.[test,fastai,speed]'
	$(ONE_THREAD) .venv-latest/bin/pytest -n auto -m 'not slow and not pinned'

# uv finds the lowest versions, pip installs them, because it takes a torch for the CPU where there is one
test-lowest:
	rm -rf build
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q -c constraints.txt uv
	.venv-lowest/bin/uv pip compile -q --python .venv-lowest --resolution lowest-direct --extra test --extra fastai --extra speed setup.py -o .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install -q -c .venv-lowest/lowest.txt torch
	.venv-lowest/bin/pip install -q --force-reinstall --no-deps .
	.venv-lowest/bin/pip install -q -c .venv-lowest/lowest.txt '.[test,fastai,speed]'
	$(ONE_THREAD) .venv-lowest/bin/pytest -n auto -m 'not slow and not pinned' --ignore tests/test_notebooks.py --ignore tests/test_practice.py

clean:
	rm -rf .venv .venv-latest .venv-lowest .venv-site _site build *.egg-info climb.png
