# make quickstart    install, then train, measure, export and use a model on the sample, one step after another
# make public        the same on all of ESCO, for three hours, measured on WorkBench's tasks (DATA=FOLDER, see
#                    uwe_jax/workbench/README.md); the same command continues
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
# For `make public`: the folder of its data, more flags for the training, and whose tokens are attended to.
DATA :=
FLAGS :=
SIDES := target query both
PUBLIC := runs/public
TESTS := tests
PROCESSES := 2
# Most of the time goes into compilation: this keeps XLA's optimisations and turns off LLVM's.
COMPILE_FAST := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
# This flag saves more, but a jaxlib that no longer has it aborts.
OLDER_JAXLIB := --xla_cpu_use_fusion_emitters=false
PYTEST = flags='$(COMPILE_FAST)'; \
	if XLA_FLAGS='$(OLDER_JAXLIB)' JAX_PLATFORMS=cpu $(BIN)/python -c 'import jax; jax.devices()' 2>/dev/null; then \
	  flags="$$flags $(OLDER_JAXLIB)"; \
	fi; \
	XLA_FLAGS="$$flags" $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadgroup --no-loadscope-reorder

.PHONY: quickstart public test test-slow soak accelerator check
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
	@rm -rf $(RUN)/data $(RUN)/train $(RUN)/model
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

public: EVALS := $(addprefix $(DATA)/workbench/,jobbert_titles_val.csv:vacancyTitle:escoJobTitle \
	skillskape_dev.csv:sentence:skills skill_extraction_house_validation.csv:sentence:label \
	skill_extraction_tech_validation.csv:sentence:label)
public: $(VENV)/installed.torch
	@test -d '$(DATA)/esco_1.2.0' || { echo 'error: DATA=$(DATA): no folder esco_1.2.0 in it; uwe_jax/workbench/README.md says what belongs there'; exit 1; }
	@echo '== 1/4 data: all of ESCO 1.2.0, and the sentences of SkillSkape, without the pairs of the evaluation sets'
	test -d $(PUBLIC)/data || $(BIN)/python -m data_prep build --esco=$(DATA)/esco_1.2.0 \
	  --vacancies=$(DATA)/train/skillskape_train.csv --drop_leaks --output=$(PUBLIC)/data $(EVALS:%=--eval=%)
	@echo '== 2/4 training; it may be stopped at any time'
	$(BIN)/python -m uwe_jax.main --config=configs/uwe.py:public --config.data.dir=$(PUBLIC)/data --workdir=$(PUBLIC)/train \
	  $(FLAGS)
	@echo '== 3/4 the model and what it was made from, by several scores, on every task; first, that no task leaked'
	$(BIN)/python -m data_prep check --shards=$(PUBLIC)/data $(EVALS:%=--eval=%)
	$(BIN)/python -m uwe_jax.workbench --data=$(DATA) --output=$(PUBLIC)/workbench \
	  --tasks=house,tech,skillskape,job_normalisation,onet_job_to_skill,onet_skill_to_job,held_out:$(PUBLIC)/data \
	  --max_queries=$(QUERIES) --training_data=$(PUBLIC)/data --model=base-mean=all-mpnet-base-v2:mean \
	  $(foreach side,$(SIDES),--model=base-$(side)=all-mpnet-base-v2:attend=$(side)) \
	  --model=trained=$(PUBLIC)/train --model=trained-mean=$(PUBLIC)/train:mean \
	  $(foreach side,$(SIDES),--model=trained-$(side)=$(PUBLIC)/train:attend=$(side)) \
	  --model=bm25=workrb:BM25Model --model=tf-idf=workrb:TfIdfModel
	@echo '== 4/4 export, with the results in its model card'
	@rm -rf $(PUBLIC)/model
	$(BIN)/python -m uwe_jax.export --workdir=$(PUBLIC)/train \
	  --results=$(PUBLIC)/workbench/results.json --output=$(PUBLIC)/model
	@echo
	@echo 'report    $(PUBLIC)/workbench/report.html'
	@echo 'model     $(PUBLIC)/model, with its card README.md'

test: $(VENV)/installed.$(EXTRAS)
	@$(BIN)/python -c 'import torch' 2>/dev/null || echo 'torch is not installed: tests that compare with it are skipped (make test EXTRAS=test,torch runs them)'
	@$(PYTEST) -m 'not slow' $(TESTS)

# Much of their time is waiting, for processes that were killed and servers that do not answer.
test-slow: PROCESSES := 3
test-slow: $(VENV)/installed.$(EXTRAS)
	@$(PYTEST) -m slow $(TESTS)

soak: $(VENV)/installed.test
	$(BIN)/python -m tests.soak

accelerator: $(VENV)/installed.$(EXTRAS)
	$(BIN)/python -m tests.accelerator

check: $(VENV)/installed.$(EXTRAS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
