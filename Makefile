# make demo     label a few dozen testbed scenes and print what came out
# make test     lint, type-check and run the test suite
# make figures  measure the README's figures
# Each first makes a virtual environment in .venv and installs into it what constraints.txt pins.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
BIN    := .venv/bin
DEMO   := build/demo
KEEP   ?= 0.1

# Small models on two cores that Ray shares: threads that spin while they wait cost more than they give.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo figures test check clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/python -m adafv.testbed.dataset --scenes 36 --output $(DEMO)/scenes
	$(BIN)/python jobs/label.py --input $(DEMO)/scenes --output $(DEMO)/labelled --keep 0.1 --price-per-hour 0.10
	$(BIN)/python -m adafv.testbed.score $(DEMO)/labelled --truth $(DEMO)/scenes

# The figures in README and docs/testbed.md: 2,000 questions and more, by each strategy, through the job.
figures: install
	rm -rf build/figures/$(KEEP) build/figures/scenes
	$(BIN)/python -m adafv.testbed.dataset --scenes 180 --seed 1000 --output build/figures/scenes
	for strategy in none random saliency text adafv; do \
		$(BIN)/python jobs/label.py --input build/figures/scenes --output build/figures/$(KEEP)/$$strategy \
			--strategy $$strategy --keep $(KEEP) && \
		$(BIN)/python -m adafv.testbed.score build/figures/$(KEEP)/$$strategy --truth build/figures/scenes \
			--json build/figures/$(KEEP)/$$strategy.json || exit 1; \
	done

test: check
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build
