"""The ops of torch_trf: patch statistics in one read of the pixels, and the small solvers that maps need by thousands.

The ops always exist. Each file defines one: its schema, its reference in plain PyTorch and what checks its arguments;
the compiled libraries in the package's folder register kernels for CPU and CUDA tensors, and those outrank the
reference.
"""

from ._checks import FEATURE_TYPES
from ._eigenbasis import MOST_CHANNELS, eigenbasis
from ._logme_evidence import logme_evidence
from ._patch_joint_mass import patch_joint_mass
from ._patch_log_likelihood import patch_log_likelihood
from ._patch_moments import patch_moments
from ._patches import LARGEST_INT64, LEAST_INT64, Size, class_index, fault_columns, patch_shape, patches
from ._registration import has_extension, load_extension

load_extension()

__all__ = [
    "FEATURE_TYPES",
    "LARGEST_INT64",
    "LEAST_INT64",
    "MOST_CHANNELS",
    "Size",
    "class_index",
    "eigenbasis",
    "fault_columns",
    "has_extension",
    "logme_evidence",
    "patch_joint_mass",
    "patch_log_likelihood",
    "patch_moments",
    "patch_shape",
    "patches",
]
