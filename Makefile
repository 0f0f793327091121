# Every target makes the virtual environment .venv itself. PYTHON picks the interpreter (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin
PYTEST := TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python -m pytest

.PHONY: demo test fuzz test-slow test-docs test-reference lint types docs bench learning-curve torture clean

demo: .venv/.installed
	$(BIN)/python -m pseudoseg_tf.demo

test: .venv/.installed
	$(PYTEST) -n 2

test-slow: .venv/.installed
	$(PYTEST) -n 2 -m "slow or not slow"

# The tutorial, command by command as it stands.
test-docs: .venv/.installed
	$(PYTEST) -m "slow or not slow" tests/test_docs.py tests/test_tutorial.py

# Where the reference's numbers are.
SHARED ?= ../shared
test-reference: .venv/.installed
	$(BIN)/python -m tests.reference.compare --dir=$(SHARED)/reference/A

# Seconds for each of the readers.
FUZZ_SECONDS ?= 600
fuzz: .venv/.installed
	$(BIN)/python -m tests.fuzzing --seconds=$(FUZZ_SECONDS) --shared=$(SHARED)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed
	$(BIN)/mypy

# The reference of all keys, and the pages of the Python functions; anything that pdoc warns of is an error. The programs
# are left out: each defines its flags for the whole process, and --help shows them.
docs: .venv/.installed
	mkdir -p build
	$(BIN)/python -m pseudoseg_tf.config_reference > build/configuration.md
	mv build/configuration.md docs/configuration.md
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python -W error::UserWarning -m pdoc --docformat google --output-directory build/api \
	  pseudoseg_tf '!pseudoseg_tf.cli'

# Where the learning curve finds its images and first weights.
DATA ?= ../shared/data/voc12_subset
WEIGHTS ?= ../shared/weights/mobilenet_v1_1.0_imagenet.npz
learning-curve: .venv/.installed
	$(BIN)/python -m benchmarks.learning_curve --data=$(DATA) --weights=$(WEIGHTS) --out=runs/learning_curve

# Small cases, some minutes; each program's --help shows how to measure another network, crop or batch.
bench: .venv/.installed
	$(BIN)/python -m benchmarks.step --out=runs/bench/step.json --set init.weights= --set model.backbone=mobilenet_v1 \
	  --set data.crop_size=129 --set data.batch_labeled=2 --set data.batch_unlabeled=2
	$(BIN)/python -m benchmarks.input --out=runs/bench/input.json
	$(BIN)/python -m benchmarks.scaling --out=runs/bench/scaling.json

# Kills, stops and starves runs: minutes.
torture: .venv/.installed
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python -m tests.torture

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/.installed: setup.py pyproject.toml constraints.txt
	@echo "Installing into .venv; this takes some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
