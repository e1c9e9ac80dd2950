# Every target makes the environment that it needs. PYTHON=… picks the interpreter (3.11 or newer).
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
PYTHONS ?= $(foreach name,python3.11 python3.12 python3.13 python3.14,\
	$(shell $(name) -c 'print("$(name)")' 2>/dev/null))
BIN := .venv/bin
EXTRAS := train,serve,live,targets,sign,sbom
CODE := $(wildcard src tests benchmarks examples docs *.py)
WORKERS ?= -n 6 --dist loadfile --no-loadscope-reorder
PIP := 26.1.2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test check lint suite bench docs dist format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: .venv/ready  ## the whole line on small free data, in under three minutes
	$(BIN)/catflap demo

test: .venv/ready .venv-base/ready  ## the fast tests; at their end what was skipped, and how to get it
	$(BIN)/pytest -m "not slow" $(WORKERS)

check: lint suite  ## what has to pass before a change is merged; faster as make -j 2 check

lint: .venv/ready
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

# A test that failed beside others runs once more alone: it has to pass there, and is named in both summaries.
suite: .venv/ready .venv-base/ready
	$(BIN)/pytest $(WORKERS) || $(BIN)/pytest --last-failed --last-failed-no-failures none

bench: .venv/ready  ## every benchmark, or BENCH=name; each says its machine, versions and n
	@for script in benchmarks/$(or $(BENCH),*).py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

docs: .venv/ready  ## write the generated pages, build the site into site/, check links, commands and code blocks
	$(BIN)/python docs/make_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/pytest tests/docs

dist: .venv/ready  ## sdist and wheel into dist/, installed into empty environments of each Python here, and used there
	$(BIN)/python tests/packaging/check_dist.py $(PYTHONS)

format: .venv/ready  ## format the code and mend what ruff can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:  ## remove the environments and every cache
	rm -rf .venv .venv-base .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What developers use: the extras that install side by side, and the tools.
.venv/ready: pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error Catflap needs Python 3.11 or newer; name one with PYTHON=…))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and sys.argv[1])' \
		"$(PYTHON) is older than Python 3.11; name a newer one with PYTHON=…"
	@echo "Installing Catflap with its training environment into .venv; the first time takes minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'pip==$(PIP)'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]' --group dev
	touch $@

# What a device has: the base dependencies only. tests/base proves there that nothing else is needed.
.venv-base/ready: pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error Catflap needs Python 3.11 or newer; name one with PYTHON=…))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and sys.argv[1])' \
		"$(PYTHON) is older than Python 3.11; name a newer one with PYTHON=…"
	test -x .venv-base/bin/python || $(PYTHON) -m venv .venv-base
	.venv-base/bin/python -m pip install --quiet 'pip==$(PIP)'
	.venv-base/bin/python -m pip install --quiet -c constraints.txt -e .
	touch $@
