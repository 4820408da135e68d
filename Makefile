# `make run` and `make test` do all the set-up they need, once, in .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
GL_PACKAGES := libegl1 libgl1-mesa-dri

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test lint types docs pytest clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s%s\n", $$1, $$2}' Makefile

setup: $(INSTALLED)  ## create .venv and install everything into it

run: $(INSTALLED)  ## evaluate the bundled Cube model on 50 held-out goals
	@$(BIN)/python eval/success_rate.py --env cube --episodes 50

test: lint  ## lint, type-check, make the docs and test
	@$(MAKE) --no-print-directory -j 2 types docs pytest

lint: $(INSTALLED)  ## ruff
	@echo "== ruff"
	@$(BIN)/ruff check

# The top folders become lewm_agent.<name> by installing, so mypy reads an installed copy: what ships.
types: $(INSTALLED)  ## mypy --strict
	@echo "== mypy --strict"
	@rm -rf build/types build/lib
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --target build/types .
	@cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p lewm_agent

docs: $(INSTALLED)  ## the documentation as a site in build/docs; a link that leads nowhere is an error
	@echo "== sphinx"
	@$(BIN)/python -m sphinx -b html -q -W --keep-going -d build/doctrees docs build/docs

pytest: $(INSTALLED)  ## the tests alone: three processes, for they often wait for those they start
	@echo "== pytest"
	@$(BIN)/pytest -q -n 3 --dist worksteal --durations 10

clean:  ## remove .venv, builds and caches
	@rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(need_python)
	@$(need_venv)
	@$(need_gl)
	@echo "Installing lewm-agent and its libraries into .venv (about 7 GB with CUDA, some minutes, once) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq -c constraints.txt 'setuptools>=77'
	@$(BIN)/python -m pip install -qq -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

define need_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo "lewm-agent needs Python 3.11 or newer, '$(PYTHON)' is not; name one that is: make PYTHON=/path/to/python3.11" >&2; \
  exit 1; }
endef

define need_venv
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
  echo "'$(PYTHON)' cannot create virtual environments; on Debian, install that part: apt-get install python3-venv" >&2; \
  exit 1; }
endef

# Only MuJoCo environments draw with GL, so a machine without it can still go on.
define need_gl
if [ "$$(uname)" = Linux ] && ! PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p | grep -q 'libEGL\.so\.1'; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing $(GL_PACKAGES) ..." \
    && apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(GL_PACKAGES) >/dev/null; then :; \
  else echo "MuJoCo environments need GL to draw; on Debian, as root: apt-get install $(GL_PACKAGES)" >&2; fi; fi
endef
