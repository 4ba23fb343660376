# Two commands do all the set-up: `make run` and `make test`. `make help` lists the others.
# Each sets up what it needs, once: .venv, and as root on Debian the packages that are missing.

# The first of these that is 3.11 or later and can make a .venv. The distribution's own comes first:
# it is built with profile guidance, which makes a call a tenth cheaper.
PYTHON ?= /usr/bin/python3 /usr/bin/python3.11 python3.11 python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
LOCK := .ci/requirements.lock
NODE := $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,\
	$(wildcard tests/*/*/package-lock.json tests/*/*/*/package-lock.json))

# $(call apt,packages): install Debian packages when permitted; else name what is missing, and go on.
define apt
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "installing Debian packages: $(1)"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(1) >/dev/null; \
else false; fi || echo "missing on this machine: $(1)" >&2
endef

.PHONY: help run check test lint types fast tests test-compiled compiled compiler system fmt cov lock clean fuzz soak bench
.DELETE_ON_ERROR:
.NOTPARALLEL: # one .venv for all, and two cores for the tests

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | column -t -s '|'

run: $(VENV)/.run ## a gate with a real luigid and supervisord behind it, on https://localhost:8443 (PORT, LUIGID_PORT)
	@exec $(VENV)/bin/callgate demo --dir .demo

check: lint types fast ## lint, types and every test that needs no other process: about a minute

test: lint types tests test-compiled ## lint, types, every test once, and the compiled package's own

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.test
	$(VENV)/bin/mypy

# The tests start hundreds of Python processes. Each would compile the sources anew without a cache.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(VENV)/bin/python -m pytest
WORKERS := --numprocesses 2 --dist loadfile
PATHS_OF_A_CALL := tests/catalog tests/edge tests/gate tests/identity tests/policy tests/protocol tests/audit/writing

fast: $(VENV)/.test
	@chmod -R go-w policies # a clone made under another umask: the gate would refuse them
	$(PYTEST) -q $(WORKERS) -m "not process"

# What starts processes runs one test at a time: it measures memory, kills, and waits for real programs.
tests: $(VENV)/.test system $(NODE)
	@chmod -R go-w policies
	$(PYTEST) -q $(WORKERS) -m "not process"
	$(PYTEST) -q -m process --durations=10 --durations-min=5

# The same sources with the path of a call compiled by mypyc. They are copied, so that an edited
# source here is never behind an old binary.
COMPILED := build/compiled
AS_COMPILED := cd $(COMPILED) && PYTHONPATH="$(CURDIR)/$(COMPILED)" "$(CURDIR)/$(VENV)/bin/python"
compiled: $(COMPILED)/.built ## the package with the path of a call compiled: a wheel in dist/, a tree in build/compiled

$(COMPILED)/.built: $(VENV)/.compile pyproject.toml $(shell find proxy policies -name __pycache__ -prune -o -print)
	@$(can_compile) || { echo "mypyc needs gcc and Python's headers (Debian: gcc libc6-dev python3-dev)" >&2; exit 1; }
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED) && touch $(COMPILED)/.begun # as old as the copies: what is edited meanwhile is newer
	@cp -R pyproject.toml README.md LICENSE proxy policies $(COMPILED)
	@echo "mypyc compiles the path of a call: about two minutes"
	@cd $(COMPILED) && HATCH_BUILD_HOOKS_ENABLE=1 "$(CURDIR)/$(VENV)/bin/python" -m pip wheel --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --wheel-dir "$(CURDIR)/dist" .
	@mv $(COMPILED)/.begun $@

$(VENV)/.compile: $(VENV)/.test | compiler
	$(PIP) --constraint $(LOCK) --editable '.[compiled]'
	@touch $@

HEADER := import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())
can_compile = { command -v gcc && $(VENV)/bin/python -c '$(HEADER)'; } >/dev/null
compiler: | $(VENV)/bin/python
	@$(can_compile) || { $(call apt,gcc libc6-dev python3-dev); }

# make runs a line that names $(MAKE) even under --dry-run; this variable hides the name from it.
AGAIN := $(MAKE) --no-print-directory
# The tests of what is compiled, in that tree; processes that they start find the compiled package
# first. Under CI=true all tests.
test-compiled: $(VENV)/.test compiler system $(NODE)
	@if $(can_compile); then $(AGAIN) $(COMPILED)/.tests \
		&& ( $(AS_COMPILED) -m pytest -q $(WORKERS) -m "not process" tests/test_compiled.py $(PATHS_OF_A_CALL) ) \
		&& ( if [ "$$CI" = true ]; then $(AS_COMPILED) -m pytest -q -m process; \
		else $(AS_COMPILED) -m pytest -q tests/e2e/test_forwarding.py tests/e2e/test_luigi_worker.py; fi ); \
	else echo "SKIPPED: the tests of the compiled package, for want of a C compiler" >&2; [ "$$CI" != true ]; fi

.PHONY: $(COMPILED)/.tests
$(COMPILED)/.tests: $(COMPILED)/.built
	@rm -rf $(COMPILED)/tests $(COMPILED)/deploy && cp -R tests deploy Makefile .ci $(COMPILED) && chmod -R go-w $(COMPILED)/policies

$(VENV)/bin/python:
	@for python in $(PYTHON); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || { $(call apt,python3-venv); }; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null && echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV) && exit 0; \
	done; echo "Callgate needs Python 3.11 or later, with its venv module." >&2; exit 1

$(VENV)/.run: $(VENV)/bin/python pyproject.toml $(LOCK)
	@echo "installing Callgate, luigi and supervisor into $(VENV): about half a minute"
	@$(PIP) --constraint $(LOCK) --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml $(LOCK)
	@echo "installing Callgate and its test tools into $(VENV): about a minute"
	@$(PIP) --constraint $(LOCK) --editable '.[test]'
	@touch $@ $(VENV)/.run

# What some tests need outside Python. Without it they are skipped (and under CI=true they fail), each with its reason.
system:
	@command -v node >/dev/null && command -v npm >/dev/null || { $(call apt,nodejs npm); }
	@command -v curl >/dev/null || { $(call apt,curl); }
	@command -v chromium >/dev/null || { $(call apt,chromium); }
	@test -x /usr/sbin/nginx -a -x /usr/sbin/haproxy || { $(call apt,nginx-light haproxy); }
	@command -v slowhttptest >/dev/null || { $(call apt,slowhttptest); }
	@command -v ruby >/dev/null && command -v php >/dev/null && command -v lua5.1 >/dev/null \
		|| { $(call apt,librpc-xml-perl libfrontier-rpc-perl libxmlrpc-lite-perl php-cli php-xmlrpc ruby ruby-xmlrpc lua5.1 lua-xmlrpc); }
	@command -v java >/dev/null && test -e /usr/share/java/axmlrpc.jar || { $(call apt,default-jdk-headless libaxmlrpc-java); }

%/node_modules/.package-lock.json: %/package-lock.json | system
	@echo "installing the npm packages of $*"
	@npm ci --prefix $* --no-audit --no-fund --loglevel=error && touch $@ || echo "$*: npm could not set up its packages" >&2

fmt: $(VENV)/.test ## format the sources and sort their imports
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix-only --select I .

cov: $(VENV)/.test system $(NODE) ## branch coverage across processes, and the packages that must be complete
	@rm -rf build/coverage && mkdir -p build/coverage
	$(VENV)/bin/python -m coverage run -m pytest -q -m "process or not process"
	-$(VENV)/bin/python -m coverage combine --quiet
	$(VENV)/bin/python -m coverage report --skip-covered
	$(VENV)/bin/python -m coverage report --skip-covered --fail-under=100 \
		--include 'proxy/identity/*,proxy/protocol/*,proxy/policy/*,proxy/audit/format/*,proxy/gate/*'

lock: $(VENV)/.compile ## write the versions that are installed now to .ci/requirements.lock
	$(VENV)/bin/python -m pip freeze --exclude-editable --disable-pip-version-check > $(LOCK)

SECONDS ?= 60
fuzz: $(VENV)/.fuzz ## fuzz what reads the texts of others, for SECONDS=60 in all
	$(VENV)/bin/python -m tests.fuzz --seconds $(SECONDS)

$(VENV)/.fuzz: $(VENV)/.test
	$(PIP) --constraint $(LOCK) --editable '.[fuzz]'
	@touch $@

MINUTES ?= 10
soak: $(COMPILED)/.tests ## drive everything, compiled, through faults for MINUTES=10, then prove that no call was lost
	$(AS_COMPILED) -m tests.soak --minutes $(MINUTES)

# The bench installs what it compares with: wrk, HAProxy and nginx as root on Debian, Envoy and mitmproxy under .bench.
bench: compiled ## measure against Envoy, HAProxy and mitmproxy, and against the targets; about BENCH_SECONDS=1100 in all
	$(VENV)/bin/python -m tests.bench --readme $(ARGS)

clean: ## remove what these targets have made
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find tests -name node_modules -type d -prune -exec rm -rf {} +
