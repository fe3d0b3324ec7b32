PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard nbs/*.ipynb))

.PHONY: build/readme help setup run test test-all notebooks-test outputs-test units-test practice-test export-test readme-test lab practice notebooks bench readme test-latest clean

help:
	@echo 'make run           the whole climb on the real data: a table, and a chart in climb.png'
	@echo 'make test          every notebook and its saved outputs, the export, the README, and the tests'
	@echo 'make test-all      the same and what takes longer: slow cells, all saved outputs, slow tests'
	@echo 'make setup         only make .venv from constraints.txt'
	@echo 'make lab           JupyterLab on the notebooks'
	@echo 'make practice      JupyterLab on practice copies of them, in the folder my_practice'
	@echo 'make notebooks     run every notebook from top to bottom and save its outputs'
	@echo 'make readme        make README.md from nbs/index.ipynb'
	@echo 'make bench         speed and memory, as ratios'
	@echo 'make test-latest   the tests on the newest fastai, in .venv-latest'
	@echo 'make clean         remove what these made; PYTHON=python3.12 names another Python'

run: setup
	$(BIN)/mnist_sgd_run

test: notebooks-test outputs-test export-test readme-test
	$(MAKE) -j2 units-test practice-test

test-all: export-test readme-test
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --flags slow
	OMP_NUM_THREADS=1 $(BIN)/python tests/saved_outputs.py --all
	$(BIN)/pytest -m ''

# the first keeps one core busy, the second both at times
units-test: setup
	$(BIN)/pytest --ignore tests/test_practice.py

practice-test: setup
	$(BIN)/pytest tests/test_practice.py

setup: .venv/ready
.venv/ready: constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mnist_sgd needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# two notebooks at a time, each on one core: with more threads than cores they would take three times as long
notebooks-test outputs-test: export OMP_NUM_THREADS = 1

notebooks-test: setup
	$(BIN)/nbdev_test --n_workers 2

outputs-test: setup
	$(BIN)/python tests/saved_outputs.py

export-test: setup
	rm -rf build/exported && mkdir -p build && cp -r mnist_sgd build/exported
	$(BIN)/nbdev_export
	diff -r -x __pycache__ build/exported mnist_sgd
	@echo 'Export changes nothing.'

lab: setup
	$(BIN)/jupyter lab nbs

practice: setup
	$(BIN)/mnist_sgd_practice my_practice
	$(BIN)/jupyter lab my_practice

notebooks: setup
	$(BIN)/python -c 'from mnist_sgd.data import mnist_sample; mnist_sample()'
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=WARN $(NOTEBOOKS)
	$(BIN)/nbdev_clean
	$(MAKE) readme

bench: setup
	$(BIN)/python tests/bench.py

# the links of the notebook are relative to nbs/, those of README.md to the top
build/readme: setup
	rm -rf $@
	$(BIN)/jupyter nbconvert --to markdown nbs/index.ipynb --output-dir $@ --output README --log-level=ERROR \
	  --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags=remove_input --TagRemovePreprocessor.remove_cell_tags=remove_cell \
	  --ExtractOutputPreprocessor.output_filename_template='climb{extension}' --NbConvertApp.output_files_dir=nbs/images
	sed -e 's#](\([0-9][0-9a-z_]*\.ipynb\))#](nbs/\1)#' -e 's#](images/#](nbs/images/#' -e 's/!\[png\]/![Accuracy on the validation set after each epoch]/' $@/README.md > $@/linked && mv $@/linked $@/README.md

readme: build/readme
	mkdir -p nbs/images
	cp build/readme/README.md README.md
	cp build/readme/nbs/images/climb.png nbs/images/climb.png

readme-test: build/readme
	diff build/readme/README.md README.md
	cmp build/readme/nbs/images/climb.png nbs/images/climb.png

# torch stays pinned, so that no other build of it is fetched; everything else is the newest there is
test-latest:
	rm -rf build
	$(PYTHON) -m venv --clear .venv-latest
	.venv-latest/bin/pip install -q torch==2.13.0
	.venv-latest/bin/pip install -q torch==2.13.0 '.[test]'
	.venv-latest/bin/pytest

clean:
	rm -rf .venv .venv-latest build *.egg-info climb.png
