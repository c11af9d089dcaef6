# make demo     label a few dozen testbed scenes and print what came out
# make test     lint, type-check and run the test suite
# make test-all  that, and what is marked nightly
# make test-vllm  the tests of the vLLM back end, in an environment of their own
# make types    try every image-text-to-text type of the installed transformers, and write docs/measurements/types.md
# make figures  measure the figures of docs/quality.md
# make photo    fetch published weights and pictures, and build the photo world's models; see docs/worlds.md
# make screenshots  take those of docs/; needs chromium and chromium-driver
# Each first makes a virtual environment in .venv and installs into it what constraints.txt pins.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
BIN    := .venv/bin
DEMO   := build/demo

# Small models on two cores that Ray shares: threads that spin while they wait cost more than they give.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo figures photo screenshots test test-all test-vllm types check clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/python -m adafv.worlds.drawn.dataset --scenes 36 --output $(DEMO)/scenes
	$(BIN)/python jobs/label.py --input $(DEMO)/scenes --output $(DEMO)/labelled --keep 0.1 --price-per-hour 0.10
	$(BIN)/python -m adafv.worlds.drawn.score $(DEMO)/labelled --truth $(DEMO)/scenes

# Strategies in four worlds: see docs/quality.md.
figures: install
	mkdir -p build/figures
	$(BIN)/python jobs/bench.py quality --worlds testbed,testbed-emerged,textured-clip,textured-qwen --scenes 40 \
		--seed 5000000 --json build/figures/worlds.json --chart build/figures/worlds.png

photo: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[photo]'
	$(BIN)/python -m adafv.worlds.photo.build

screenshots: install
	$(BIN)/python -m tests.screenshots docs

# In two processes: what takes longest are jobs, which wait for Ray more than they compute. With three, so many Rays
# start at once that some exceed the 30 s that Ray gives a node to start.
test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m ''

types: install
	$(BIN)/python -m tests.models.general.matrix

test-vllm:
	tests/vllm_cpu.sh build/vllm

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build
