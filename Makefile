# Two commands: `make demo` shows a first picture, `make test` runs everything.
# Both make their own environment in build/venv.
PYTHON ?= python3
VENV := build/venv
BIN := $(VENV)/bin
# Processes that share the Python tests; tests/conftest.py keeps together what belongs together.
WORKERS ?= 2
PYTEST := pytest tests --nbval notebooks -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo lab test test-gpu-simulated attack soak coverage lint js parity bench diffusionkit pictures docs clean

demo: $(VENV)/.lab
	$(BIN)/python tools/demo.py notebooks/01_first_picture.ipynb build/demo

lab: $(VENV)/.lab
	$(BIN)/jupyter lab notebooks

test: $(VENV)/.test lint js
	$(BIN)/python -m $(PYTEST)

# The branches for GPUs, computed by MLX's CPU kernels.
test-gpu-simulated: $(VENV)/.test
	SWIFTAI_SIMULATED_GPU=1 $(BIN)/python -m pytest tests/diffusion tests/engine -n $(WORKERS) --dist loadfile

# Hostile input that was not tried before, for an hour, or CASES inputs of each target whose name holds ONLY; many jobs, cancels, errors and kills. Not part of CI.
attack: $(VENV)/.test
	$(BIN)/python -m tests.attack $(if $(CASES),--cases $(CASES),60) $(ONLY)

soak: $(VENV)/.test
	$(BIN)/python -m tests.attack.soak 1000 50
	$(BIN)/python -m tests.attack.aborts 50

# The same tests, with the lines they run; the report is printed and written to build/coverage/.
coverage: $(VENV)/.test
	$(BIN)/python -m coverage run -m $(PYTEST)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage html --quiet
	$(BIN)/python -m coverage report --skip-covered

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Node is for developers: without it the committed bundle is used as it is.
js:
	@if command -v npm >/dev/null; then cd js && npm ci --no-audit --no-fund --silent && npm test --silent; \
	else echo "npm not found: the widget's own tests are skipped"; fi

parity: $(VENV)/.test
	$(PYTHON) tools/parity.py

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# The real DiffusionKit, in an environment that our own installer makes. Not part of CI: it takes minutes.
diffusionkit: $(VENV)/.test build/home/diffusionkit
	SWIFTAI_DIFFUSIONKIT_PYTHON=$(CURDIR)/build/home/diffusionkit/bin/python \
	$(BIN)/python -m pytest tests/guests -m diffusionkit

build/home/diffusionkit: | $(VENV)/.test
	SWIFTAI_HOME=build/home $(BIN)/python -m swiftai_nb diffusionkit install --yes

# Everything that shows the bundled model, made again: tutorials, README's film, stills, sheets of the widget's states. It needs
# Chromium. Look at all of it before you commit.
pictures: export HOME = $(CURDIR)/build/home/pictures
pictures: $(VENV)/.test
	rm -rf build/home/pictures && mkdir -p build/home/pictures
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	--ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb
	$(BIN)/python -m tests.browser.film
	$(BIN)/python -m tests.browser.states

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the site is in site/index.html"

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.lab: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[lab]"
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

clean:
	rm -rf build dist
