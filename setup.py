"""Builds torch_trf's compiled kernels: `_C` (CPU, always) and `_C_cuda` (where PyTorch and the machine have CUDA).

Both use the LibTorch stable ABI alone, so that one wheel serves every Python from 3.10 and every PyTorch from 2.11.
Environment: `TORCH_TRF_NO_EXT=1` builds neither (the package then runs on its Python reference); `TORCH_CUDA_ARCH_LIST`
chooses GPU architectures; `CUDA_HOME` the toolkit.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import setup

STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # PyTorch 2.11
DEFAULT_ARCHITECTURES = "7.5;8.0;8.6;9.0+PTX"


def find_toolkit() -> str | None:
    """The folder that holds include/cuda_runtime.h; `nvcc` on PATH may be a wrapper that lies elsewhere."""
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        dryrun = subprocess.run([nvcc, "--dryrun", "-E", "none.cu"], capture_output=True, text=True, check=False)
        candidates += re.findall(r"^#\$ TOP=(.*)$", dryrun.stdout + dryrun.stderr, re.MULTILINE)
        candidates.append(str(Path(nvcc).resolve().parent.parent))
    candidates.append("/usr/local/cuda")
    for folder in filter(None, candidates):
        if any(Path(folder).glob("**/include/cuda_runtime.h")) and (Path(folder) / "bin" / "nvcc").exists():
            return str(Path(folder).resolve())
    return None


def extensions() -> dict:
    """What `setup` needs to build the kernels."""
    toolkit = find_toolkit()
    if toolkit:
        os.environ["CUDA_HOME"] = toolkit  # read by torch.utils.cpp_extension when it is imported
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"torch_trf needs PyTorch at build time ({error}). Install torch first, or leave out --no-build-isolation."
        ) from error

    modules = [
        CppExtension(
            "torch_trf._C",
            ["csrc/cpu/patch_moments.cpp"],
            depends=["csrc/patch_moments.h"],
            py_limited_api=True,
            extra_compile_args=[*STABLE_ABI, "-O3", "-g0", "-fopenmp-simd", "-fvisibility=hidden"],
        )
    ]
    if toolkit and torch.version.cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
        modules.append(
            CUDAExtension(
                "torch_trf._C_cuda",
                ["csrc/cuda/patch_moments.cu"],
                depends=["csrc/patch_moments.h"],
                py_limited_api=True,
                extra_compile_args={
                    "cxx": [*STABLE_ABI, "-DUSE_CUDA", "-O3"],
                    "nvcc": [*STABLE_ABI, "-DUSE_CUDA", "-O3"],
                },
            )
        )
    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**({} if os.environ.get("TORCH_TRF_NO_EXT") == "1" else extensions()))
