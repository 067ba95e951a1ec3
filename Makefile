# make quickstart    install, then train, measure, export and use a model on the sample, one step after another
# make test          install, then run the fast tests
# make test-slow     the tests that take long
# make soak          kill a run at random moments, some sixty times, for half an hour or more
# make accelerator   on a GPU or TPU: kernels, training steps and benchmarks in eight minutes (EXTRAS=test,cuda,torch)
# make check         formatting, lint and types

# The first of these Pythons that runs; all extras are tested on python3.11.
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
EXTRAS := test
VENV := .venv
BIN := $(VENV)/bin
PIP ?= $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN := runs/quickstart
STEPS := 32
QUERIES := 2000
LAYERS :=
TESTS := tests
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
# Most of the time goes into compilation: this keeps XLA's optimisations and turns off LLVM's.
COMPILE_FAST := XLA_FLAGS='--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'


.PHONY: quickstart test test-slow soak accelerator check
.SUFFIXES:

# One stamp per set of extras, so that each is installed once.
$(VENV)/installed.%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'error: no Python found, expected 3.11 or newer'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: Python {sys.version.split()[0]} found, expected 3.11 or newer")'
	@echo "== installing into $(VENV) with $(PYTHON): about 1 GiB, a minute or more"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@VIRTUAL_ENV=$(VENV) $(PIP) --constraint constraints.txt --editable '.[$*]'
	@touch $@

quickstart: $(VENV)/installed.test
	@rm -rf $(RUN)
	@echo '== 1/5 data: an excerpt of ESCO becomes shards of pairs'
	$(BIN)/python -m data_prep build --esco=data_prep/sample --vacancies=data_prep/sample/sentences.csv \
	  --held_out_occupations=0.2 --output=$(RUN)/data
	@echo '== 2/5 training, with an evaluation before and after'
	$(BIN)/python -m uwe_jax.main --config=configs/uwe.py:quickstart --config.data.dir=$(RUN)/data \
	  --config.steps=$(STEPS) --config.run.evaluate_queries=$(QUERIES) $(LAYERS:%=--config.model.layers=%) --workdir=$(RUN)/train
	@echo '== 3/5 export to the Hugging Face format'
	$(BIN)/python -m uwe_jax.export --workdir=$(RUN)/train --output=$(RUN)/model
	@echo '== 4/5 ranking skills for job titles with the export'
	$(BIN)/python -m uwe_jax.rank --model=$(RUN)/model --targets=data_prep/sample/skills_en.csv --column=preferredLabel --k=3 \
	  'data engineer' 'pastry cook' 'night nurse on a surgical ward'
	@echo
	@echo '== 5/5 where everything is'
	@echo 'data      $(RUN)/data          manifest.json says what is in it'
	@echo 'training  $(RUN)/train         metrics.jsonl, evaluation.jsonl, tensorboard/, checkpoints/'
	@echo 'model     $(RUN)/model         README.md says how to use it'

test: $(VENV)/installed.$(EXTRAS)
	@$(BIN)/python -c 'import torch' 2>/dev/null || echo 'torch is not installed: tests that compare with it are skipped (make test EXTRAS=test,torch runs them)'
	$(COMPILE_FAST) $(PYTEST) -m 'not slow' $(TESTS)

test-slow: $(VENV)/installed.$(EXTRAS)
	$(PYTEST) -m slow $(TESTS)

soak: $(VENV)/installed.test
	$(BIN)/python -m tests.soak

accelerator: $(VENV)/installed.$(EXTRAS)
	$(BIN)/python -m tests.accelerator

check: $(VENV)/installed.$(EXTRAS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
