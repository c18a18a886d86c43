# Everything a developer or CI runs. `make help` lists the targets; each sets up what it needs by itself.

# The demo: the arguments of `policypress`, in this one place.
DEMO = train --algo sac --env InvertedPendulum-v5 --steps 15000 --sparsity 0.95 \
	--set batch_size=128 --set learning_rate=1e-3 --set learning_starts=500 \
	--compare dense --out runs/demo --resume
# The scripts that `make bench` runs, in this order.
BENCHMARKS = benchmarks/overhead.py benchmarks/latency.py benchmarks/inside_c.py benchmarks/startup.py
# What `make checks` runs, in this order: each script of checks/ in short.
CHECKS = "agreement.py --pairs 100000" "agreement.py --sanitize --pairs 5000 --observations 128 --c-every 40" \
	"onnx_agreement.py --seeds 1" small_payloads.py "fuzz_policy_files.py --cases 5000" "link_exports.py --pairs 4" \
	"agents.py --only gsde --only old" "processors.py --policies 5 --observations 50"

# May be given on the command line, as in `make test JOBS=1 ARGS="-k masks"`.
PYTHON ?= python3#  the interpreter .venv is made with, 3.10 or newer
TORCH ?= torch#     at its pin in constraints.txt; or the path of a wheel of that version
JOBS ?= 2#          processes that run tests
ARGS ?=#            more arguments for pytest

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
STAMP := $(VENV)/.installed
# `command || $(call fail,sentence)`; no comma in the sentence
fail = { echo "make $(if $(filter $(STAMP),$@),venv,$@): $(1)" >&2; exit 1; }

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP) ## make .venv with everything that training, tests and the demo need

$(STAMP): pyproject.toml constraints.txt $(wildcard src/policypress/*/*.[ch])
	@echo "==> Setting up $(VENV) at the versions in constraints.txt (some minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		$(call fail,$(PYTHON) is missing or older than Python 3.10; name another with make PYTHON=/path/to/python3)
	@PYTHON="$(PYTHON)" scripts/setup_debian.sh || $(call fail,a required package is missing; it is named above)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		$(call fail,$(PYTHON) could not make a virtual environment in $(VENV))
	@echo "==> Installing torch first so that nothing else picks another build of it"
	@$(PIP_INSTALL) "$(strip $(TORCH))" || \
		$(call fail,pip could not install torch; its own words stand above)
	@echo "==> Installing policypress with the extras train and export and dev"
	@$(PIP_INSTALL) -e '.[train,export,watch,dev]' || $(call fail,pip could not install the dependencies; its own words stand above)
	@touch $@

.PHONY: setup
setup: $(STAMP) ## venv and the system packages that tests need
	@PYTHON="$(PYTHON)" scripts/setup_debian.sh || $(call fail,a required package is missing; it is named above)

.PHONY: demo
demo: $(STAMP) ## train and press a small policy from end to end
	@echo "==> policypress $(DEMO)"
	@$(VENV)/bin/policypress $(DEMO) || $(call fail,the demo did not finish; the reason stands above)

.PHONY: lint
lint: setup ## check style and types and imports
	@echo "==> ruff check"
	@$(PY) -m ruff check . || $(call fail,ruff has complaints; make format mends many of them)
	@echo "==> ruff format --check"
	@$(PY) -m ruff format --check . || $(call fail,some files are not formatted; run make format)
	@echo "==> mypy"
	@# 2: on a busy machine its workers can be too late for it
	@$(PY) -m mypy || { [ $$? -eq 2 ] && $(PY) -m mypy --num-workers 0; } || $(call fail,mypy has complaints; they stand above)
	@echo "==> imports"
	@$(VENV)/bin/lint-imports || $(call fail,an import breaks the layers of pyproject.toml; it stands above)
	@$(PY) checks/circles.py || $(call fail,files import one another in a circle; it stands above)

.PHONY: test
test: lint ## what CI runs: set-up and style and types and the quick tests
	@echo "==> pytest (quick tests in $(strip $(JOBS)) processes)"
	@$(PY) -m pytest -n $(strip $(JOBS)) --dist worksteal --durations=10 $(ARGS) || $(call fail,the quick tests did not pass)

.PHONY: test-slow
test-slow: setup ## only the tests marked slow
	@echo "==> pytest (slow tests in $(strip $(JOBS)) processes)"
	@code=0; $(PY) -m pytest -n $(strip $(JOBS)) --dist worksteal -m slow --durations=10 $(ARGS) || code=$$?; \
	case $$code in \
		0) ;; \
		5) echo "No test is marked slow$(if $(strip $(ARGS)), and fits ARGS).";; \
		*) $(call fail,the slow tests did not pass);; \
	esac

.PHONY: bench
bench: $(STAMP) ## run the benchmarks
	@for script in $(BENCHMARKS); do \
		echo "==> $$script"; \
		$(PY) "$$script" || $(call fail,$$script did not finish; the reason stands above); \
	done

.PHONY: checks
checks: $(STAMP) ## run every script of checks/ in short; minutes
	@for check in $(CHECKS); do \
		echo "==> checks/$$check"; \
		$(PY) checks/$$check || $(call fail,checks/$$check found a fault; it stands above); \
	done

.PHONY: package
package: $(STAMP) ## build the wheel and check that it works without torch
	@echo "==> Building and checking the package"
	@PYTHON="$(PY)" scripts/check_package.sh || $(call fail,the package is not fit to publish; the reason stands above)

.PHONY: format
format: $(STAMP) ## mend style and layout
	@echo "==> ruff check --fix; ruff format"
	@$(PY) -m ruff check --fix --exit-zero .
	@$(PY) -m ruff format .

.PHONY: constraints
constraints: $(STAMP) ## write constraints.txt from what is installed in .venv
	@$(PY) scripts/write_constraints.py

.PHONY: clean
clean: ## remove build output and caches; keeps .venv and runs/
	@echo "==> Removing build output and caches ($(VENV) and runs/ stay)"
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests benchmarks checks examples scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
