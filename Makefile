# Every target sets up what it needs in .venv; PYTHON chooses the interpreter (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test check faults soak bench openapi clean

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

clean:
	rm -rf .venv build *.egg-info

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	  { echo "mmad needs Python 3.11 or 3.12, $(PYTHON) is $$($(PYTHON) -V 2>&1): make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/serve.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[serve]'
	@touch $@

.venv/dev.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/serve.stamp
