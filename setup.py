"""Builds torch_trf's compiled kernels: `_C` (CPU, always) and `_C_cuda` (where PyTorch and the machine have CUDA).

Both use the LibTorch stable ABI alone, so that one wheel serves every Python from 3.10 and every PyTorch from 2.11.
Environment: `TORCH_TRF_NO_EXT=1` builds neither (the package then runs on its Python reference); `TORCH_TRF_NO_CUDA=1`
leaves out the GPU kernels; `CUDA_HOME` is where the toolkit is looked for first; `TORCH_CUDA_ARCH_LIST` chooses GPU
architectures.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import setup

STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # PyTorch 2.11
# Loops over lanes become vector instructions: no result changes, but no errno is set and no exception is raised.
VECTORIZE = ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
DEFAULT_ARCHITECTURES = "7.5;8.0;8.6;9.0+PTX"


def find_toolkit() -> Path | None:
    """The folder that holds bin/nvcc and cuda_runtime.h; `nvcc` on PATH may be a wrapper that lies elsewhere."""
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        dryrun = subprocess.run([nvcc, "--dryrun", "-E", "none.cu"], capture_output=True, text=True, check=False)
        candidates += re.findall(r"^#\$ TOP=(.*)$", dryrun.stdout + dryrun.stderr, re.MULTILINE)
        candidates.append(str(Path(nvcc).resolve().parent.parent))
    candidates.append("/usr/local/cuda")
    for folder in map(Path, filter(None, candidates)):
        headers = [folder / "include", *folder.glob("targets/*/include")]
        if (folder / "bin" / "nvcc").exists() and any((header / "cuda_runtime.h").exists() for header in headers):
            return folder.resolve()
    return None


def why_no_cuda(torch_cuda: str | None, toolkit: Path | None) -> str | None:
    """Why the GPU kernels cannot be built for a PyTorch with CUDA `torch_cuda`; None where they can."""
    if os.environ.get("TORCH_TRF_NO_CUDA") == "1":
        return "TORCH_TRF_NO_CUDA=1"
    if torch_cuda is None:
        return "this PyTorch has no CUDA"
    if toolkit is None:
        return "no CUDA toolkit was found; set CUDA_HOME to the folder that holds bin/nvcc"
    version = subprocess.run([toolkit / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.findall(r"release (\d+)", version)
    if release != [torch_cuda.partition(".")[0]]:
        return (
            f"the toolkit at {toolkit} is CUDA {' '.join(release)} and this PyTorch has CUDA {torch_cuda}: set"
            " CUDA_HOME to a toolkit of that major version, or install a PyTorch built with the toolkit's and use"
            " --no-build-isolation"
        )
    return None


def extensions() -> dict:
    """What `setup` needs to build the kernels."""
    if toolkit := find_toolkit():
        os.environ["CUDA_HOME"] = str(toolkit)  # read by torch.utils.cpp_extension when it is imported
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"torch_trf needs PyTorch at build time ({error}). Install torch first, or leave out --no-build-isolation."
        ) from error

    headers = sorted(str(path) for path in Path("csrc").rglob("*.*h"))
    modules = [
        CppExtension(
            "torch_trf._C",
            sorted(map(str, Path("csrc/cpu").glob("*.cpp"))),
            depends=headers,
            py_limited_api=True,
            extra_compile_args=[*STABLE_ABI, "-O3", "-g0", *VECTORIZE, "-fvisibility=hidden"],
        )
    ]
    if reason := why_no_cuda(torch.version.cuda, toolkit):
        print(f"torch_trf: the GPU kernels are left out: {reason}")
    else:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
        flags = [*STABLE_ABI, "-DUSE_CUDA", "-O3"]
        modules.append(
            CUDAExtension(
                "torch_trf._C_cuda",
                sorted(map(str, Path("csrc/cuda").glob("*.cu"))),
                depends=headers,
                py_limited_api=True,
                extra_compile_args={"cxx": flags, "nvcc": flags},
            )
        )
    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**({} if os.environ.get("TORCH_TRF_NO_EXT") == "1" else extensions()))
