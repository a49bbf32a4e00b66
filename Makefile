# make demo   makes a genuine vmcore and prints its backtrace
# make test   runs every check and every test that is not slow and rare; make test-all those too
# Both install what they need on a Debian host: packages (as root or with sudo), and a virtual environment in .venv. The demo
# installs no programs and packages that only tests need.

.DELETE_ON_ERROR:
.PHONY: setup host demo-host lock check lint unit integration e2e test test-all coverage demo bench docs clean

# pytest caches the test modules that it rewrites: rewriting them each time takes a third of the unit tests' time.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
USABLE := .venv/usable
SHELL_FILES := $(filter-out %.py %.tsv %.c %__pycache__,$(wildcard tools/* .ci/run Containerfile.d/files/*))
PYTEST := $(BIN)/pytest --timeout=900
DEMO := .cache/demo

setup: host $(READY)

host:
	@tools/setup-host

# pip of Debian 12 is too old for --group.
$(READY): pyproject.toml dev.lock | host
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement dev.lock
	$(BIN)/python -m pip install --quiet --editable . --group dev
	$(BIN)/python -m compileall -q sandbox
	@touch $@

demo-host:
	@tools/setup-host demo

# The versions of dev.lock, and of what vmbox itself needs alone.
$(USABLE): pyproject.toml dev.lock | demo-host
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^[a-z].*==/s/ *\\$$//p' dev.lock >.venv/versions
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .venv/versions --editable .
	@touch $@

# Pins what development installs by hash; run it again after a change of pyproject.toml's dependencies.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --group dev --all-extras --universal --generate-hashes \
		--no-emit-index-url --custom-compile-command 'make lock' --output-file dev.lock

# Before each commit: all that needs no engine and no patience.
check: lint unit

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	shellcheck $(SHELL_FILES)

# Without those marked slow, which `make test` runs. One that takes long, and is not marked, is named at the end.
unit: setup
	$(PYTEST) --numprocesses=2 --quiet -m 'not slow' --durations=5 --durations-min=0.5 tests/unit

integration: setup
	$(PYTEST) tests/integration

e2e: setup
	$(PYTEST) tests/e2e

# One run of pytest, so that engines and images are made once. Four processes on two processors: the tests of Docker, of
# Podman, and of rootless Podman wait for networks, dying kernels and limits of time for a part of theirs; the fourth has all
# that needs no engine. By their order, not by their number: the three that take longest are handed out first.
test: lint
	$(PYTEST) --numprocesses=4 --dist=loadgroup --no-loadscope-reorder --durations=10 tests/unit tests/integration tests/e2e

# With all that `make test` leaves out because it is slow and rare: hours.
test-all: export VMBOX_TEST_FAMILIES := all
test-all: export VMBOX_TEST_FIDELITY := all
test-all: export VMBOX_TEST_FAULTS := all
test-all: export VMBOX_TEST_EMULATION := all
test-all: export VMBOX_TEST_LARGE := all
test-all: test

# What no test reaches, in subprocesses too: of all tests, or with TESTS=tests/unit of those. Tests of costs are left out,
# because to trace a program costs more than it does.
coverage: TESTS ?= tests/unit tests/integration tests/e2e
coverage: setup
	$(BIN)/python -m pip install --quiet --group coverage
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest --timeout=1800 --quiet --numprocesses=4 --dist=loadgroup --no-loadscope-reorder --ignore-glob='*/test_budget*' $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

demo: $(if $(wildcard $(READY)),setup,$(USABLE))
	$(BIN)/vmbox demo $(DEMO)
	$(BIN)/vmbox run $(DEMO)/vmcore -- bt

bench: setup
	$(BIN)/python -m benchmarks

# The documentation; a link that leads nowhere is an error.
docs: setup
	$(BIN)/python -m sphinx -W --keep-going docs docs/_build/html

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	tools/clean-cache
