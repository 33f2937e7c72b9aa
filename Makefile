# Each target is one command that does all its own set-up: a virtual environment in .venv, made once and brought up
# to date when pyproject.toml or what is compiled changes.

PYTHON ?=
PY     := .venv/bin/python
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test check bench faults format docs dashboards clean

help:            ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.demo   ## real flights through real clients while a worker dies; KEEP=1 leaves it running
	@$(PY) -m examples.demo $(if $(KEEP),--keep) $(ARGS)

test: .venv/.test   ## every test; ARGS="-k fetch" for some
	@$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

check: .venv/.check  ## lint, format, types and layers
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

bench: .venv/.bench  ## the numbers; results go to bench/results
	@$(PY) -m bench $(ARGS)

faults: .venv/.test  ## real faults for MINUTES=30, the same ones for a SEED; the report goes to build/faults
	@$(PY) -m tests.system.faults run --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(ARGS)

format: .venv/.check ## write the code the way `make check` wants it
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format .

docs: .venv/.test    ## write the generated parts of docs/ again
	@$(PY) -m docs.generate

dashboards: .venv/.test ## write grafana/ again from grafana/panels.py
	@$(PY) -m grafana

clean:           ## remove the environment and everything built
	rm -rf .venv build dist redbroker/wire/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# One stamp per extra, so that `make demo` does not wait for mypy to install.
.venv/.demo .venv/.test .venv/.check .venv/.bench: .venv/.%: pyproject.toml hatch_build.py redbroker/wire/_record_set.c .ci/venv
	@sh .ci/venv $*
	@touch $@
