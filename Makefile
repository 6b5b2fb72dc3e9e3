# Needs Python >= 3.10, a C++ compiler and a package index; everything else goes into a virtual environment.
#
#   make test PYTHON=python3.12 VENV=/tmp/venv PYTEST_ARGS="-k forget"

PYTHON ?= python3
VENV ?= .venv
MERGEKIT_VENV ?= .venv-mergekit
PYTEST_ARGS ?=
WORKERS ?= 2
BENCH_ARGS ?=
# What `make test-mergekit` has installed.
MERGEKIT_PYTHON ?= $(patsubst %mergekit-yaml,%python,$(wildcard $(MERGEKIT_VENV)/bin/mergekit-yaml))
DEMO_ARGS ?=
TORTURE_ARGS ?=
FUZZ_ARGS ?=
SANITIZE_ARGS ?=
# Of each target of `make fuzz`, and the clang, one with libFuzzer, that compiles the core for it.
SECONDS ?= 60
CLANG ?= $(firstword $(notdir $(wildcard $(foreach v,clang++ clang++-19 clang++-18 clang++-16 clang++-14,/usr/bin/$(v)))))

PYTHON_IN := $(VENV)/bin/python
PYTEST := $(abspath $(VENV))/bin/pytest
# What the package is built from; clang-format looks after that and the benchmarks' own program.
NATIVE := $(shell find bindings -name '*.cpp' -o -name '*.h' -o -name '*.inl')
FORMATTED := $(NATIVE) benchmarks/disk/floor.cpp tests/fuzz/core.cpp tests/torture/shim.c
SOURCES := pyproject.toml setup.py MANIFEST.in $(NATIVE) $(shell find sta_kernels -name '*.py' -o -name py.typed -o -name '*.j2')

# Tests and benchmarks run in their own folders, where `import sta_kernels` finds the installed package and nothing else.
unexport PYTHONPATH
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: $(VENV)/.with-demo ## fine-tune, merge and forget real image tasks; print the accuracies
	$(VENV)/bin/sta-kernels demo --out demo-out $(DEMO_ARGS)

.PHONY: test
test: $(VENV)/.with-test ## run the tests, in as many processes as WORKERS says
	cd tests && $(PYTEST) --timeout 600 -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

.PHONY: test-mergekit
test-mergekit: $(VENV)/.with-test $(MERGEKIT_VENV)/.with-mergekit ## run the same recipes with mergekit, and compare
	cd tests && $(PYTEST) mergekit --mergekit-python $(abspath $(MERGEKIT_VENV))/bin/python --timeout 600 $(PYTEST_ARGS)

.PHONY: test-gpu
test-gpu: $(VENV)/.with-test ## run the tests that need a GPU; without one, exit code 2
	cd tests && $(PYTEST) gpu --require-gpu $(PYTEST_ARGS)

.PHONY: audit
audit: $(VENV)/.with-test $(VENV)/.with-audit ## run the exhaustive tests that `make test` leaves out; takes minutes
	cd tests && $(PYTEST) -m audit $(PYTEST_ARGS)

.PHONY: attacks
attacks: $(VENV)/.with-test ## run every attack of SECURITY.md, and keep what was observed for docs/reliability.md
	cd tests && $(PYTEST) attacks --observations ../docs/reliability/attacks.json $(PYTEST_ARGS)

.PHONY: torture
torture: $(VENV)/.with-test ## kill, fill up and fail merges hundreds of times, and see each end in the same bits; takes a quarter of an hour
	cd tests && $(abspath $(PYTHON_IN)) -m torture --record ../docs/reliability/torture.json $(TORTURE_ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.with-test $(VENV)/.with-fuzz $(if $(CLANG),$(VENV)/fuzz/core) ## fuzz readers, and with a clang the core, for SECONDS each
	cd tests && $(abspath $(PYTHON_IN)) -m fuzz --seconds $(SECONDS) --work $(abspath $(VENV))/fuzz/work \
	  $(if $(CLANG),--core $(abspath $(VENV))/fuzz/core) --record ../docs/reliability/fuzz.json $(FUZZ_ARGS)

.PHONY: sanitize
sanitize: $(VENV)/.with-test $(VENV)/sanitize-address/.made $(VENV)/sanitize-thread/.made ## run the core's tests under ASan, UBSan and TSan
	cd tests && $(abspath $(PYTHON_IN)) -m sanitize --address $(abspath $(VENV))/sanitize-address \
	  --thread $(abspath $(VENV))/sanitize-thread --record ../docs/reliability/sanitizers.json $(SANITIZE_ARGS)

.PHONY: bench
bench: $(VENV)/.with-bench ## time the kernels against their baselines; rows go to benchmarks/results
	cd benchmarks && $(PYTEST) $(BENCH_ARGS)

.PHONY: bench-gpu
bench-gpu: $(VENV)/.with-test $(VENV)/.with-bench ## on a GPU: test the kernels, then time them; rows go to benchmarks/results
	$(PYTHON_IN) -m benchmarks.gpu $(BENCH_ARGS)

.PHONY: bench-memory
bench-memory: $(VENV)/.with-bench ## merge large checkpoints under several memory limits; takes 8 GB of disk
	$(PYTHON_IN) -m benchmarks.memory $(BENCH_ARGS)

.PHONY: bench-disk
bench-disk: $(VENV)/.with-bench ## time merges against their I/O, and against mergekit where it is installed; 6 GB of tmpfs
	$(PYTHON_IN) -m benchmarks.disk $(if $(MERGEKIT_PYTHON),--mergekit-python $(MERGEKIT_PYTHON)) $(BENCH_ARGS)

.PHONY: bench-scaling
bench-scaling: $(VENV)/.with-bench ## time merges of many sizes, from few and many models; 17 GB of tmpfs, or what there is
	$(PYTHON_IN) -m benchmarks.disk.scaling $(BENCH_ARGS)

.PHONY: bench-accuracy
bench-accuracy: $(VENV)/.with-demo ## merge a real ViT fine-tuned on five tasks, and test it; hours, resumed; 10 GB of cache
	$(PYTHON_IN) -m benchmarks.accuracy offline $(BENCH_ARGS)

.PHONY: lint
lint: $(VENV)/.with-dev ## check style, types and formatting, and that tables and pictures are those of their data
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(FORMATTED)
	$(PYTHON_IN) -m scripts.readme_tables --check
	$(PYTHON_IN) -m scripts.results_page --check

.PHONY: format
format: $(VENV)/.with-dev ## put the sources into the format that `make lint` checks
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(FORMATTED)

.PHONY: readme
readme: $(VENV)/.with-dev $(VENV)/.with-plot ## write tables and plots of README and docs anew, from demo-out where there is one, and benchmarks/results
	$(PYTHON_IN) -m scripts.readme_tables $(if $(wildcard demo-out/results.json),--demo demo-out)
	$(PYTHON_IN) -m scripts.results_page

.PHONY: clean
clean: ## remove the virtual environments and all that was built or cached
	rm -rf $(VENV) $(MERGEKIT_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache tests/.hypothesis benchmarks/.benchmarks
	find sta_kernels tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The virtual environment. Each step leaves a stamp, so that it is done again only when what it depends on changes.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is missing or older than 3.10: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The wheel, as users get it; built without what an earlier build left, which would be packed with it.
$(VENV)/.wheel: $(SOURCES) | $(VENV)/.made
	rm -rf build $(VENV)/wheels
	$(PYTHON_IN) -m pip wheel --no-deps --wheel-dir $(VENV)/wheels .
	@touch $@

# The package with one of pyproject.toml's extras. A wheel of an unchanged version is installed only when forced.
$(VENV)/.with-%: $(VENV)/.wheel
	$(PYTHON_IN) -m pip install --force-reinstall --no-deps $(VENV)/wheels/*.whl
	$(PYTHON_IN) -m pip install "$$(echo $(VENV)/wheels/*.whl)[$*]"
	@touch $@

# The package with a core that is watched while it runs. It is loaded into a Python that knows nothing of it, so the
# sanitizer's own library is preloaded by whoever runs it.
SANITIZE_address := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANITIZE_thread := -fsanitize=thread -fno-omit-frame-pointer

$(VENV)/sanitize-%/.made: $(SOURCES) | $(VENV)/.made
	rm -rf $(@D)
	CFLAGS="$(SANITIZE_$*)" LDFLAGS="$(SANITIZE_$*)" $(PYTHON_IN) -m pip install --no-deps --no-compile --target $(@D)/lib .
	@touch $@

FUZZED := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

$(VENV)/fuzz/core: tests/fuzz/core.cpp $(NATIVE) | $(VENV)/.made
	rm -rf $(VENV)/fuzz/lib
	CC=$(CLANG) CXX=$(CLANG) CFLAGS="$(FUZZED) -fsanitize=fuzzer-no-link" LDSHARED="$(CLANG) -shared" \
	  $(PYTHON_IN) -m pip install --no-deps --no-compile --target $(VENV)/fuzz/lib .
	$(CLANG) -std=c++17 -O1 -g $(FUZZED) -fsanitize=fuzzer -Ibindings/include $< \
	  $(VENV)/fuzz/lib/sta_kernels/kernels/libsta_core.so -Wl,-rpath,'$$ORIGIN/lib/sta_kernels/kernels' -o $@

# mergekit has an environment of its own, so that what it asks for changes nothing here. Packages that it does not bring,
# torch above all, are looked for in the first environment: gigabytes less to fetch.
$(MERGEKIT_VENV)/.with-mergekit: | $(VENV)/.with-test
	$(PYTHON_IN) -m venv $(MERGEKIT_VENV)
	$(PYTHON_IN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(MERGEKIT_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first_environment.pth"
	$(MERGEKIT_VENV)/bin/python -m pip install mergekit==0.1.5
	@touch $@
