# make run    a gate with a real luigid and supervisord behind it, on https://localhost:8443 (PORT and LUIGID_PORT override the ports)
# make test   lint, types and every test, on the sources and on what mypyc makes of them
# make compiled   the package with its hot path compiled: a wheel in dist/, and a tree to test and measure in build/compiled
# make bench  measure against Envoy, HAProxy and mitmproxy, and against our targets; about BENCH_SECONDS=1000 in all
# make fuzz   fuzz whatever reads what others have written, for SECONDS=60 in all
# make soak   drive everything, compiled, through faults for MINUTES=10, then prove that no call was lost
# make clean  what they have made
#
# All set up what they need, once: .venv, and as root on Debian the packages that are missing.

# The first of these that is 3.11 or later and can make a .venv. The distribution's own comes first: it is built with profile
# guidance, which makes a call a tenth cheaper than under a Python that was compiled without.
PYTHON ?= /usr/bin/python3 /usr/bin/python3.11 python3.11 python3
VENV := .venv
NODE := $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(wildcard tests/*/*/package-lock.json tests/*/*/*/package-lock.json))

# $(call apt,packages): install Debian packages when we may, else say what is missing and go on.
define apt
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(1) >/dev/null; \
else false; fi || echo "missing on this machine: $(1)" >&2
endef

.PHONY: run test lint types tests test-compiled compiled compiler system clean fuzz soak bench
.DELETE_ON_ERROR:
.NOTPARALLEL: # one .venv for all, and two cores for the tests

run: $(VENV)/.run
	@exec $(VENV)/bin/callgate demo --dir .demo

test: lint types tests test-compiled

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.test
	$(VENV)/bin/mypy

tests: $(VENV)/.test system $(NODE)
	@chmod -R go-w policies # a clone made under another umask: the gate would refuse them
	$(VENV)/bin/python -m pytest

# The same sources with the hot path compiled by mypyc. They are copied, so that no edited source here is ever behind an old binary.
COMPILED := build/compiled
AS_COMPILED := cd $(COMPILED) && PYTHONPATH="$(CURDIR)/$(COMPILED)" "$(CURDIR)/$(VENV)/bin/python"
compiled: $(COMPILED)/.built

$(COMPILED)/.built: $(VENV)/.compile pyproject.toml $(shell find proxy policies -name __pycache__ -prune -o -print)
	@$(can_compile) || { echo "mypyc needs gcc and Python's headers (Debian: gcc libc6-dev python3-dev)" >&2; exit 1; }
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED) && touch $(COMPILED)/.begun # as old as the copies: what is edited meanwhile is newer
	@cp -R pyproject.toml README.md LICENSE proxy policies $(COMPILED)
	@echo "mypyc compiles the hot path: about two minutes"
	@cd $(COMPILED) && HATCH_BUILD_HOOKS_ENABLE=1 "$(CURDIR)/$(VENV)/bin/python" -m pip wheel --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --wheel-dir "$(CURDIR)/dist" .
	@mv $(COMPILED)/.begun $@

$(VENV)/.compile: $(VENV)/.test | compiler
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[compiled]'
	@touch $@

HEADER := import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())
can_compile = { command -v gcc && $(VENV)/bin/python -c '$(HEADER)'; } >/dev/null
compiler: | $(VENV)/bin/python
	@$(can_compile) || { $(call apt,gcc libc6-dev python3-dev); }

AGAIN := $(MAKE) --no-print-directory# by this name, since make runs a line with the other even when it is only to say what it would do
# The tests again, in that tree; every process that they start finds the compiled package first.
test-compiled: $(VENV)/.test compiler system $(NODE)
	@if $(can_compile); then $(AGAIN) $(COMPILED)/.tests && $(AS_COMPILED) -m pytest; \
	else echo "SKIPPED: the tests of the compiled package, for want of a C compiler" >&2; [ "$$CI" != true ]; fi

.PHONY: $(COMPILED)/.tests
$(COMPILED)/.tests: $(COMPILED)/.built
	@rm -rf $(COMPILED)/tests $(COMPILED)/deploy && cp -R tests deploy Makefile $(COMPILED) && chmod -R go-w $(COMPILED)/policies

$(VENV)/bin/python:
	@for python in $(PYTHON); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || { $(call apt,python3-venv); }; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null && "$$python" -m venv --clear $(VENV) && exit 0; \
	done; echo "Callgate needs Python 3.11 or later, with its venv module." >&2; exit 1

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.run

# What some tests need beside Python; without it they are skipped (and under CI=true they fail), each saying so.
system:
	@command -v node >/dev/null && command -v npm >/dev/null || { $(call apt,nodejs npm); }
	@command -v curl >/dev/null || { $(call apt,curl); }
	@command -v slowhttptest >/dev/null || { $(call apt,slowhttptest); }

%/node_modules/.package-lock.json: %/package-lock.json | system
	@npm ci --prefix $* --no-audit --no-fund --loglevel=error && touch $@ || echo "$*: npm could not set up its packages" >&2

SECONDS ?= 60
fuzz: $(VENV)/.fuzz
	$(VENV)/bin/python -m tests.fuzz --seconds $(SECONDS)

$(VENV)/.fuzz: $(VENV)/.test
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

MINUTES ?= 10
soak: $(COMPILED)/.tests
	$(AS_COMPILED) -m tests.soak --minutes $(MINUTES)

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find tests -name node_modules -type d -prune -exec rm -rf {} +

# The bench installs what it compares with: wrk, HAProxy and nginx as root on Debian, Envoy and mitmproxy under .bench.
bench: compiled
	$(VENV)/bin/python -m tests.bench --readme $(ARGS)
