# Everything a contributor types. Needs Python 3.11 or later and make; the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup browser quickstart test test-slow soak milvus-test gpu-test bench gpu-bench real-shape check nano-backbone nano-embedder small-backbone open-sets study

setup: .venv/ready

# With the constraints pip takes exactly the versions that are tested. torchvision stands apart: its wheel cannot be imported
# beside a CPU build of torch, and would take transformers down with it; the one test that needs it (sentence-transformers)
# looks for it there.
.venv/ready: pyproject.toml constraints.txt
	@echo "Installing some 3 GB of packages into .venv; this takes minutes and says nothing."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade \
		--target .venv/torchvision torchvision
	touch .venv/ready

# The browser of the tests of reports and of the search page; they are skipped without it.
browser:
	apt-get update -qq && apt-get install -y -qq chromium

quickstart: setup
	$(BIN)/cocoa quickstart --out runs/quickstart

check: setup
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks
	$(BIN)/mypy

# Two at a time, file by file, the long files first (tests/conftest.py); each test computes on one thread.
test: check
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/pytest -m slow

# Kills two training ranks a hundred times; the run must end as if nothing had happened. A server under load for minutes.
soak: setup
	$(BIN)/pytest -m slow tests/training/test_checkpoints.py tests/serving/test_load.py

# The index in a real Milvus server, whose old wheels need an environment of their own.
.venv-milvus/bin/milvus-server:
	$(PYTHON) -m venv .venv-milvus
	.venv-milvus/bin/pip install --quiet --disable-pip-version-check milvus==2.3.5 'pymilvus<2.7' 'setuptools<81'

milvus-test: setup .venv-milvus/bin/milvus-server
	COCOA_MILVUS_SERVER=$(CURDIR)/.venv-milvus/bin/milvus-server $(BIN)/pytest -m slow tests/corpus/test_milvus.py

# Each benchmark beside its peer; run them where nothing else runs. The figures are kept in reference/, with the date.
BENCHMARKS := encode warmup_step bridge_step contrastive_step cached_step evaluate images growth index serve
bench: setup
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --json reference/$$name.json || exit 1; done

# The same at the shape of Qwen2-VL-2B, for a GPU as large as an H200. At 64 pairs ours is taken alone, for its share of the machine's
# rate: the plain step, one pass of all of them, would need several times the memory.
GPU_SHAPE := --backbone qwen2-vl-2b --pixels 448
gpu-bench: setup
	$(BIN)/python -m benchmarks.encode $(GPU_SHAPE) --items 96 --repeats 3 --json reference/gpu/encode.json
	$(BIN)/python -m benchmarks.bridge_step $(GPU_SHAPE) --batch-size 16 --json reference/gpu/bridge_step.json
	$(BIN)/python -m benchmarks.warmup_step $(GPU_SHAPE) --batch-size 16 --json reference/gpu/warmup_step.json
	$(BIN)/python -m benchmarks.bridge_step $(GPU_SHAPE) --batch-size 64 --alone --json reference/gpu/bridge_step_64.json
	$(BIN)/python -m benchmarks.contrastive_step $(GPU_SHAPE) --pairs 1024 --chunk-tokens 16384 --repeats 1 --json reference/gpu/contrastive_step.json

# Holds a GPU's numbers against the CPU's; skipped where there is no GPU.
gpu-test: setup
	$(BIN)/pytest tests/gpu

# One optimiser step of each stage at the real Qwen2-VL-2B shape with random weights (20 GB of memory, half an hour).
real-shape: setup
	$(BIN)/python -m scripts.step_real_shape --out reference/real-shape.json

# Makes the weights that ship in src/cocoa/assets/nano again (half an hour on two cores).
nano-backbone: setup
	$(BIN)/cocoa train recipes/nano-backbone.yaml --out runs/nano-backbone

# Makes the embedding model that ships in src/cocoa/assets/nano-embedder again (13 minutes of one core's time).
nano-embedder: setup
	$(BIN)/python -m scripts.make_nano_embedder

# Makes the backbone that studies/small-scale.yaml begins from, in runs/small-backbone/model (45 minutes on two cores).
small-backbone: setup
	$(BIN)/python -m scripts.make_small_backbone

# The real-data table of docs/results.md.
open-sets: setup
	$(BIN)/python scripts/run_open_sets.py --out runs/open-sets

# Four arms, three seeds: shows that `cocoa ablate` works, no evidence.
study: setup
	$(BIN)/cocoa ablate studies/nano-small.yaml --out runs/nano-small
