# make install   the package and what the page needs, in .venv; make help lists the targets
# make demo   the whole pipeline on generated data, from images to accuracy by question type
# make easy_vqa   the same on easy-VQA, a published set of pictures and questions, in two minutes;
#             FEATURES="clevr_cnn pixels" compares these features
# make sound  the same on questions about synthesised sounds
# make segmentation   the same on referring expressions, from images to masks and their mean IoU
# make correction   a segmentation network corrected by hints in words, FiLM against a guide
# make zero_shot   questions about unseen pairs of colour and shape, by arithmetic on γ and β
# make few_shot   new words from ten pictures each, by γ and β alone and in other ways
# make page   a web page that asks a trained network about pictures, and shows how it answers
# make laboratory   claims about FiLM tested with three seeds each, in half an hour on two cores
# make docs   the documents as a site, in build/docs
# make notebooks   runs both notebooks, and stores their outputs
# make test   lint, types and tests, in ten minutes on two cores
# make coverage   the tests of make test, with the share of the code that they run, by file
# make test-processes   tests that start, kill and restart whole programs, and measure their memory:
#             torchrun, launchers, Slurm, searches; in six minutes
# make soak   every stage killed 50 times and restarted, a long training run, and property tests
#             with fresh seeds and ten times as many examples; in an hour
# Each target first installs what it needs into .venv: easy_vqa the package with easy-vqa, docs,
# laboratory and the tests the developers' libraries, the others the package with the page.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EASY_VQA := $(VENV)/.installed-easy-vqa
TESTABLE := $(VENV)/.installed-dev

.PHONY: install help docs notebooks demo easy_vqa sound segmentation correction zero_shot few_shot page laboratory test coverage test-processes soak lint clean

install: $(INSTALLED)

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

demo: $(INSTALLED)
	$(BIN)/python scripts/demo.py

easy_vqa: $(EASY_VQA)
	$(BIN)/python scripts/easy_vqa.py $(FEATURES)

sound: $(INSTALLED)
	$(BIN)/python scripts/sound.py

segmentation: $(INSTALLED)
	$(BIN)/python scripts/segmentation.py

correction: $(INSTALLED)
	$(BIN)/python scripts/generate_clevr.py data=correction
	$(BIN)/python scripts/preprocess_questions.py data=correction allow_unknown=true
	$(BIN)/python scripts/extract_features.py data=correction
	$(BIN)/python scripts/train.py experiment=correction_base run=base
	$(BIN)/python scripts/make_hints.py checkpoint=outputs/correction_base/base
	$(BIN)/python scripts/preprocess_questions.py data=correction_hints
	$(BIN)/python scripts/train.py -m experiment=correction sweep=correction
	$(BIN)/python scripts/correct.py checkpoint=outputs/correction_base/base dir=outputs/sweeps/correction

zero_shot: $(INSTALLED)
	$(BIN)/python scripts/zero_shot.py

few_shot: $(INSTALLED)
	$(BIN)/python scripts/generate_clevr.py data=mini
	$(BIN)/python scripts/extract_features.py data=mini data.backbone.name=clevr_cnn
	$(BIN)/python scripts/few_shot.py data=mini

page: $(INSTALLED)
	$(BIN)/python scripts/page.py

docs: $(TESTABLE)
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

notebooks: $(TESTABLE)
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/store.py

laboratory: $(TESTABLE)
	$(BIN)/python scripts/generate_clevr.py data=lab
	$(BIN)/python scripts/preprocess_questions.py data=lab
	$(BIN)/python scripts/extract_features.py data=lab
	$(BIN)/python scripts/laboratory.py "claims=[parts/hour]" results=outputs/laboratory/data

# In parallel, with one thread each.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not processes" -n auto --dist loadfile --no-loadscope-reorder

test: lint
	$(TESTS) --durations=10

# The total is on the second last line. Kernels that numba compiles count as not run.
coverage: $(TESTABLE)
	$(TESTS) --cov=filmvqa --cov-report=term:skip-covered

test-processes: $(TESTABLE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m processes -n 2 --dist worksteal --durations=10

soak: $(TESTABLE)
	FILMVQA_KILLS=50 $(BIN)/python -m pytest tests/end_to_end/test_kills.py tests/training/test_memory.py
	OMP_NUM_THREADS=1 FILMVQA_EXAMPLES=10 $(BIN)/python -m pytest -m hypothesis -n auto

lint: $(TESTABLE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installs .[$(1)]. uv takes a third of pip's time, but does not read pip's settings: it gets the index
# that these name. pip installs if the settings name a proxy or no index, or if uv fails.
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@pip="$(BIN)/python -m pip --disable-pip-version-check"; packages="-c constraints.txt -e .[$(1)]"; \
	settings=$$($$pip config list); \
	index=$$(printf '%s\n' "$$settings" | sed -n "s/^[a-z:]*\.index-url='\(.*\)'$$/\1/p" | head -n 1); \
	export PATH="$$PATH:$(abspath $(BIN))" UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
	! printf '%s\n' "$$settings" | grep -qE '[.](no-index|proxy)=' && \
	{ uv --version || $$pip install uv; } > /dev/null 2>&1 && \
	uv pip install --quiet --python $(BIN)/python $$packages || \
	$$pip install --quiet $$packages
	@touch $@
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,page)

$(EASY_VQA): pyproject.toml constraints.txt
	$(call install,easy-vqa)

$(TESTABLE): pyproject.toml constraints.txt
	$(call install,dev)

clean:
	rm -rf outputs data/mini data/easy_vqa data/sound data/referring data/correction data/correction_hints data/cogent_mini data/cogent_both
