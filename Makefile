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

.PHONY: help demo check test fuzz lint bench clean

help:
	@echo "make demo    rank small models, fine-tune them, and see which metric was right; in build/demo"
	@echo "make check   style, types and the quick tests, without doctests, in less than a minute: before every commit"
	@echo "make test    run all tests and doctests, with the compiled kernels and on the Python reference"
	@echo "make fuzz    try many damaged files, configurations and values on everything that reads any"
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
