# Development commands; each ends in a sentence that says what to do next. `make` alone lists them.
# On a fresh Debian or Ubuntu machine with Python 3.11+ (python3-venv), git, curl and make, `make test` does all.
.DEFAULT_GOAL := help
.PHONY: help environment setup check test fmt demo bench

VENV ?= $(CURDIR)/.venv
# Where the real ComfyUI that the tests run lies; kept between runs (2 GB).
COMFYUI_TEST_DIR ?= $(CURDIR)/.comfyui
PYTEST_ARGS ?=
export COMFYUI_TEST_DIR
export PYWORKER_VENV := $(VENV)
PYTHON := $(VENV)/bin/python

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "To start the service: ./start_server.sh"

environment:
	@./start_server.sh --setup-only --dev

setup: environment ## Make the Python environment and install the ComfyUI that the tests run
	@$(PYTHON) -m provisioning comfyui --own --workspace "$(COMFYUI_TEST_DIR)"
	@$(PYTHON) -m provisioning checkpoint --workspace "$(COMFYUI_TEST_DIR)"
	@echo "Everything is there. Next: make check test"

check: environment ## Lint, format, types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@echo "All checks passed. Next: make test (make fmt repairs what ruff found)"

test: setup ## Run all tests, those against a real ComfyUI included (PYTEST_ARGS="tests/lib -x" narrows)
	$(PYTHON) -m pytest $(PYTEST_ARGS)
	@echo "All tests passed. Next: make bench measures, ./start_server.sh starts the service"

fmt: environment ## Format the code and repair what can be repaired
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	@echo "Formatted. Next: make check"

demo: environment ## Show the router: three workers on a fake ComfyUI, load, the page (DEMO_SECONDS=20 ends it)
	@exec $(PYTHON) -m router.demo

BENCHMARKS := overhead latency load gap large soak streams
bench: setup ## Measure our service against raw ComfyUI: all of docs/benchmarks (half an hour)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(PYTHON) -m benchmark $$name || exit $$?; done
	@echo "The tables above are the results, the plots are in var/. Next: docs/benchmarks/README.md says how they are read"
