# Every target installs its requirements in .venv from the lock files in requirements/. PYTHON is the interpreter.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: serve test check campaigns faults soak bench openapi lock lock-check newest matrix dist clean

serve: .venv/serve.stamp  ## run the service on this machine, at http://127.0.0.1:8000
	@exec $(BIN)/mmad serve $(ARGS)

test: .venv/dev.stamp  ## run all tests, in three processes: some wait while others compute
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/dev.stamp  ## format, lint, types, import rules, Dockerfiles
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile.*

campaigns: .venv/dev.stamp  ## weekly: the long form of tests that draw their cases at random, then `make faults`
	$(BIN)/pytest --campaign tests/test_hostile.py tests/test_schemathesis.py tests/test_times.py $(ARGS)
	@$(BIN)/python -m tests.faults

faults: .venv/dev.stamp  ## inject 200 faults under load and check every accepted job (half an hour or more)
	@$(BIN)/python -m tests.faults $(ARGS)

soak: .venv/dev.stamp  ## half an hour of load; checks that no process leaks memory or file descriptors
	@$(BIN)/python -m tests.soak $(ARGS)

bench: .venv/dev.stamp  ## compare the speed of the engines on a generated clip
	$(BIN)/mmad bench $(ARGS)

openapi: .venv/dev.stamp  ## write openapi.yaml and docs/cli.md from the code
	$(BIN)/python -m service.app > openapi.yaml
	$(BIN)/python -m mmad.cli_reference > docs/cli.md

lock: .venv/python.stamp  ## update requirements/; ARGS=--upgrade takes the newest releases
	$(PIP) install uv
	$(BIN)/python scripts/lock.py $(ARGS)

lock-check: .venv/dev.stamp  ## check that requirements/ matches pyproject.toml and every extra has wheels for every Python
	$(BIN)/python scripts/lock.py --check

newest: .venv/python.stamp  ## run all tests with the newest releases instead of the locked ones
	$(PYTHON) -m venv --clear .venv/newest
	.venv/newest/bin/python -m pip --disable-pip-version-check install --quiet -e '.[dev]'
	.venv/newest/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

matrix: .venv/python.stamp  ## test fresh installations on every supported Python found; ARGS="--python 3.12" for one
	$(BIN)/python scripts/installs.py matrix $(ARGS)

dist: .venv/dev.stamp  ## build wheel and sdist in dist/ and test each in an empty environment
	$(BIN)/python scripts/installs.py dist

clean:
	rm -rf .venv build dist *.egg-info

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
	  { echo "mmad needs Python 3.11 to 3.14, $(PYTHON) is $$($(PYTHON) -V 2>&1): make $(MAKECMDGOALS) PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/serve.stamp: .venv/python.stamp pyproject.toml requirements/serve.txt
	$(PIP) install --require-hashes --no-deps -r requirements/serve.txt
	$(PIP) install --no-deps -e .
	@touch $@

# The second install adds torch, pinned in pyproject.toml, in the build that pip selects for this machine.
.venv/dev.stamp: .venv/python.stamp pyproject.toml requirements/dev.txt
	$(PIP) install --require-hashes --no-deps -r requirements/dev.txt
	$(PIP) install -e '.[dev]'
	@touch $@ .venv/serve.stamp
