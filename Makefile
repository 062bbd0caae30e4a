# Every target sets up what it needs in .venv, from the lock in requirements/; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: serve test check faults soak bench openapi lock lock-check newest matrix dist clean

serve: .venv/serve.stamp  ## everything on this machine, at http://127.0.0.1:8000
	@exec $(BIN)/mmad serve $(ARGS)

test: .venv/dev.stamp  ## all tests, in two processes
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

check: .venv/dev.stamp  ## format, lint, types, import rules, Dockerfiles
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile.*

faults: .venv/dev.stamp  ## 200 faults while callers work, and what became of every accepted job (half an hour or more)
	@$(BIN)/python -m tests.faults $(ARGS)

soak: .venv/dev.stamp  ## half an hour of load, and whether any process grows
	@$(BIN)/python -m tests.soak $(ARGS)

bench: .venv/dev.stamp  ## the whole way on a generated clip, engine against engine
	$(BIN)/mmad bench $(ARGS)

openapi: .venv/dev.stamp  ## write openapi.yaml from the code
	$(BIN)/python -m service.app > openapi.yaml

lock: .venv/python.stamp  ## resolve requirements/ anew; ARGS=--upgrade takes the newest releases
	$(PIP) install uv
	$(BIN)/python scripts/lock.py $(ARGS)

lock-check: .venv/dev.stamp  ## does the lock fit pyproject.toml, and has every extra wheels for every Python?
	$(BIN)/python scripts/lock.py --check

newest: .venv/python.stamp  ## all tests with the newest releases in place of the locked ones
	$(PYTHON) -m venv --clear .venv/newest
	.venv/newest/bin/python -m pip --disable-pip-version-check install --quiet -e '.[dev]'
	.venv/newest/bin/pytest -n 2 --dist loadfile $(ARGS)

matrix: .venv/python.stamp  ## fresh installs on every supported Python found here; ARGS="--python 3.12" for one
	$(BIN)/python scripts/installs.py matrix $(ARGS)

dist: .venv/dev.stamp  ## wheel and sdist in dist/, each installed in an empty environment and tried
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

# The last line adds torch, as pinned in pyproject.toml, in whichever build this machine's pip finds.
.venv/dev.stamp: .venv/python.stamp pyproject.toml requirements/dev.txt
	$(PIP) install --require-hashes --no-deps -r requirements/dev.txt
	$(PIP) install -e '.[dev]'
	@touch $@ .venv/serve.stamp
