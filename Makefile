# Everything happens in .venv, which the first target to be made creates: torch and torchvision from the registry, the
# kernels of csrc/ compiled in place, and the tools of the `dev` extra.

PYTHON ?= python3
BIN := .venv/bin
KERNELS := $(shell find csrc -type f)
CORE_TESTS := tests/ops tests/test_pixels.py tests/test_maps.py tests/statistics tests/metrics
# A process for each core, with a thread each: the tensors of tests are small. Bytecode is kept, so that they start sooner.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope
TORCH = $(shell $(BIN)/python -c "import torch; print(torch.__path__[0])")

# TORCH_TRF_NO_EXT=1 makes every target work without the compiled kernels.
ifeq ($(TORCH_TRF_NO_EXT),1)
INSTALLED := .venv/installed-without-kernels
else
INSTALLED := .venv/installed
WITH_KERNELS := TORCH_TRF_REQUIRE_EXT=1
endif

.PHONY: help demo check test fuzz sanitize lint bench clean

help:
	@echo "make demo    rank small models, fine-tune them, and see which metric was right; in build/demo"
	@echo "make check   style, types and the quick tests, without doctests, in less than a minute: before every commit"
	@echo "make test    run all tests and doctests, with the compiled kernels and on the Python reference"
	@echo "make fuzz    try many damaged files, configurations and values on everything that reads any"
	@echo "make sanitize  build the CPU kernels with ASan and UBSan, and run the tests of the ops on them"
	@echo "make lint    check style and types"
	@echo "make bench   measure speed"
	@echo "make clean   remove .venv and whatever was built"
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv; TORCH_TRF_NO_EXT=1 leaves out the kernels."

demo: $(INSTALLED)
	rm -rf build/demo && mkdir -p build
	$(BIN)/torch-trf demo --output build/demo

check: lint
	$(WITH_KERNELS) $(PYTEST) --quiet --hypothesis-profile=quick -m "not slow and not distributed and not browser" tests

test: $(INSTALLED) .venv/cuda-compiled
	$(WITH_KERNELS) $(PYTEST)
ifneq ($(TORCH_TRF_NO_EXT),1)
	TORCH_TRF_NO_EXT=1 $(PYTEST) --quiet $(CORE_TESTS)
endif

fuzz: $(INSTALLED)
	$(PYTEST) --fuzz 100 tests/fuzz

# In a copy of its own, so that the kernels in use stay as they are. Python itself leaks by design: leaks are not looked for.
SANITIZED := build/sanitized
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize: $(INSTALLED)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r torch_trf tests conftest.py pyproject.toml $(SANITIZED) && rm -f $(SANITIZED)/torch_trf/*.so
	TORCH_TRF_NO_CUDA=1 CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" PATH="$(CURDIR)/$(BIN):$$PATH" \
	  python setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	cd $(SANITIZED) && PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= TORCH_TRF_REQUIRE_EXT=1 \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 LD_PRELOAD="$(foreach name,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))" \
	  $(CURDIR)/$(BIN)/python -m pytest --quiet tests/ops tests/fuzz/test_ops.py

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/maps.py
	$(BIN)/python benchmarks/transport.py

clean:
	rm -rf .venv build dist *.egg-info torch_trf/*.so .hypothesis .mypy_cache .pytest_cache .ruff_cache

# torch and torchvision in one command, so that they are a matching pair.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install "setuptools>=77" ninja torch torchvision
	touch $@

$(INSTALLED): .venv/torch pyproject.toml setup.py $(KERNELS)
	$(BIN)/pip install --no-build-isolation --editable ".[dev]"
	touch $@

# The installation above compiles csrc/cuda where PyTorch has CUDA too; elsewhere any compiler there is looks at it.
.venv/cuda-compiled: $(INSTALLED)
	if [ -e torch_trf/_C_cuda.abi3.so ]; then \
	  echo "csrc/cuda is compiled: torch_trf/_C_cuda.abi3.so"; \
	elif command -v nvcc; then \
	  for file in csrc/cuda/*.cu; do \
	    nvcc -std=c++20 -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020b000000000000 -I$(TORCH)/include \
	      -c $$file -o /dev/null || exit 1; \
	  done; \
	else \
	  echo "nvcc was not found: csrc/cuda is not compiled"; \
	fi
	touch $@
