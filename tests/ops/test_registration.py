"""Every op: how it is registered, loaded and traced, and what it does not take."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch

import torch_trf
from torch_trf import _ops
from torch_trf._ops import LARGEST_INT64, LEAST_INT64

from ..helpers import IGNORED, random_images, run_python

PACKAGE = Path(torch_trf.__file__).parent
TARGET_GIVEN_SOURCE = torch.full((2, 2, 4, 3), 0.25, dtype=torch.float64)
PIXEL_OPS = {  # the arguments after features and labels
    "patch_moments": (4, 3, 2, True, 255),
    "patch_joint_mass": (4, 3, 2, True, 255, False),
    "patch_log_likelihood": (TARGET_GIVEN_SOURCE, 3, 2, 3, 4, True, 255),
}
SOLVERS = {
    "eigenbasis": (torch.eye(3).double().expand(2, 3, 3), torch.ones(2, 4, 3).double()),
    "logme_evidence": (
        *(torch.ones(size, dtype=torch.float64) for size in ((2, 3), (2, 4, 3), (2, 4))),
        torch.full((2,), 5.0, dtype=torch.float64),
        torch.ones(2, 4, dtype=torch.bool),
        1e-5,
        1e-3,
        100,
    ),
}
every_op = pytest.mark.parametrize("name", [*PIXEL_OPS, *SOLVERS])
every_pixel_op = pytest.mark.parametrize("name", PIXEL_OPS)


def arguments_of(name, device):
    """Arguments that the op takes on `device`."""
    arguments = SOLVERS.get(name)
    if arguments is None:
        features, labels = random_images(2, 3, 6, 6, device="cpu")
        arguments = (features.nan_to_num(0), labels, *PIXEL_OPS[name])
    return [value.contiguous().to(device) if isinstance(value, torch.Tensor) else value for value in arguments]


def sums_of(name, features, labels):
    """What a pixel op finds in the images as wholes, of four classes."""
    height, width = labels.shape[1:]
    arguments = {
        "patch_moments": (4, height, width, True, IGNORED),
        "patch_joint_mass": (4, height, width, True, IGNORED, False),
        "patch_log_likelihood": (TARGET_GIVEN_SOURCE[:1, :1].to(features.device), *[height, width] * 2, True, IGNORED),
    }
    return getattr(_ops, name)(features, labels, *arguments[name])


@pytest.mark.usefixtures("annotations_unchecked")  # sizes are symbols while PyTorch traces
@every_op
def test_schema_shapes_and_tracing(name, device):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, while it traces
        torch.library.opcheck(getattr(torch.ops.torch_trf, name).default, tuple(arguments_of(name, device)))


@every_op
def test_backward_is_an_error(name, device):
    first, *others = arguments_of(name, device)
    outputs = getattr(torch.ops.torch_trf, name)(first.requires_grad_(), *others)
    outputs = outputs if isinstance(outputs, torch.Tensor) else next(x for x in outputs if x.requires_grad)
    with pytest.raises(RuntimeError, match=f"torch_trf::{name} has no backward"):
        outputs.sum().backward()


@pytest.mark.parametrize("pool_batch", [True, False])
@every_pixel_op
def test_no_image(name, pool_batch, device):
    features, labels, *others = arguments_of(name, device)
    others[-3 if name == "patch_joint_mass" else -2] = pool_batch
    if name == "patch_log_likelihood":
        others[0] = others[0] if pool_batch else others[0][None][:0]
    outputs = getattr(_ops, name)(features[:0], labels[:0], *others)
    grid = (2, 3) if name != "patch_log_likelihood" else (2, 2)
    batch = grid if pool_batch else (0, *grid)
    for tensor in outputs[:-1]:
        assert tensor.shape[: len(batch)] == batch
        assert not tensor.any()
    assert outputs.faults.tolist() == torch.tensor([0, LARGEST_INT64, LEAST_INT64, 0]).expand(*batch, 4).tolist()


@every_pixel_op
def test_faults_count_and_bound_what_should_not_be_there(name, device):
    features = torch.tensor([[1.0, torch.nan, torch.nan, torch.inf, 5.0, 6.0]], device=device).expand(3, 6)
    labels = torch.tensor([[[0, 1, IGNORED, 1, -7, 300]]], device=device)
    assert sums_of(name, features[None, :, None], labels).faults.tolist() == [[[2, -7, 300, 2]]]


@every_pixel_op
def test_no_fault_bounds_nothing(name, device):
    features, labels = torch.ones(1, 3, 1, 2, device=device), torch.zeros(1, 1, 2, dtype=torch.int64, device=device)
    assert sums_of(name, features, labels).faults.tolist() == [[[0, LARGEST_INT64, LEAST_INT64, 0]]]


@every_pixel_op
def test_a_single_pixel_that_is_ignored_is_nothing(name, device):
    features = torch.full((1, 3, 1, 1), torch.nan, device=device)
    labels = torch.full((1, 1, 1), IGNORED, dtype=torch.uint8, device=device)
    *sums, faults = sums_of(name, features, labels)
    assert not any(tensor.any() for tensor in sums)
    assert faults.tolist() == [[[0, LARGEST_INT64, LEAST_INT64, 0]]]


@pytest.mark.usefixtures("annotations_unchecked")
@every_pixel_op
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.zeros(1, 4, 5, dtype=torch.int64)}, r"\[2, 3, 6, 6\] .* \[1, 4, 5\]"),
        ({0: torch.zeros(2, 3, 6, 6, dtype=torch.int32)}, "not torch.int32"),
        ({1: torch.zeros(2, 6, 6, dtype=torch.int16)}, "not torch.int16"),
        ({1: torch.zeros(2, 6, 6, dtype=torch.int64, device="meta")}, "labels on meta"),
        ({3: 7}, "7 x 2 pixels does not fit into 6 x 6"),
        ({4: 0}, "3 x 0 pixels does not fit"),
    ],
    ids=["grid", "features", "labels", "device", "too high", "no width"],
)
def test_what_does_not_fit_is_an_error(name, change, message):
    arguments = arguments_of(name, "cpu")
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(ValueError, match=message):
        getattr(_ops, name)(*arguments)


@pytest.mark.parametrize("name", ["patch_moments", "patch_joint_mass"])
def test_no_class_is_an_error(name):
    features, labels, _, *others = arguments_of(name, "cpu")
    with pytest.raises(ValueError, match="must be positive, not 0"):
        getattr(_ops, name)(features, labels, 0, *others)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        (
            "eigenbasis",
            0,
            torch.ones(2, 3, 4).double(),
            r"matrix must be .* \[2, 4, 4\] on cpu, not .*3, 4\]",
        ),
        ("eigenbasis", 0, torch.ones(2, 3, 3), "not torch.float32"),
        ("eigenbasis", 1, torch.ones(1, 4, 3).double(), r"rows must be .* \[2, 4, 3\] on cpu, not .* \[1, 4, 3\]"),
        ("eigenbasis", 1, torch.ones(2, 4, 3, dtype=torch.float64, device="meta"), "on cpu, not .* on meta"),
        ("logme_evidence", 0, torch.ones(3).double(), r"sigma must be .* \[2, 3\] on cpu, not .* \[3\]"),
        ("logme_evidence", 1, torch.ones(2, 3, 3).double(), r"projected must be .* \[2, 4, 3\]"),
        ("logme_evidence", 2, torch.ones(2, 4), r"outside must be .*, not torch.float32"),
        ("logme_evidence", 3, torch.ones(2), r"count must be .*, not torch.float32"),
        ("logme_evidence", 4, torch.ones(2, 4), r"included must be torch.bool \[2, 4\] on cpu, not torch.float32"),
    ],
)
def test_what_a_solver_does_not_take_is_an_error(name, place, value, message):
    arguments = arguments_of(name, "cpu")
    arguments[place] = value
    constants = dict(zip(("epsilon", "tolerance", "max_iterations"), arguments[5:], strict=name == "logme_evidence"))
    with pytest.raises(ValueError, match=message):
        getattr(_ops, name)(*arguments[:5], **constants)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("patch_moments", {1: torch.zeros(1, 4, 5, dtype=torch.int64)}, r"\[2, 3, 6, 6\] .* \[1, 4, 5\]"),
        ("patch_moments", {0: torch.zeros(2, 3, 6, 6, dtype=torch.int32)}, "float16 or bfloat16, not Int"),
        ("patch_joint_mass", {1: torch.zeros(2, 6, 6, dtype=torch.int16)}, "int64, int32 or uint8, not Short"),
        ("patch_joint_mass", {3: 7}, "7 x 2 pixels does not fit into 6 x 6"),
        ("patch_log_likelihood", {2: TARGET_GIVEN_SOURCE[:1]}, r"target_given_source \[1, 2, 4, 3\] .* 4 patches"),
        ("eigenbasis", {1: torch.ones(1, 4, 3).double()}, r"\[2, 3, 3\] and rows \[1, 4, 3\]"),
        ("eigenbasis", {1: torch.ones(2, 4, 3)}, r"not Float \[2, 4, 3\]"),
        ("logme_evidence", {1: torch.ones(2, 3, 3).double()}, r"projected \[2, 3, 3\]"),
    ],
)
def test_a_kernel_never_reads_beyond_its_tensors(name, change, message):
    """It is called past the checks in Python, as anybody can call an op of PyTorch."""
    arguments = arguments_of(name, "cpu")
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.torch_trf, name)(*arguments)


REPORT = "import torch_trf; print(torch_trf.has_extension('cpu'), torch_trf.has_extension('cuda'), torch_trf.__file__)"


@pytest.fixture
def bare_package(tmp_path):
    """A copy of the package without its compiled libraries."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "torch_trf", ignore=ignore))


@pytest.mark.slow
def test_reference_on_request(tmp_path):
    result = run_python(REPORT, folder=tmp_path, TORCH_TRF_NO_EXT="1")
    assert result.stdout.startswith("False False"), result.stderr


@pytest.mark.slow
def test_missing_library_is_an_error_on_request(bare_package):
    assert run_python(REPORT, folder=bare_package.parent).stdout == f"False False {bare_package / '__init__.py'}\n"
    result = run_python(REPORT, folder=bare_package.parent, TORCH_TRF_REQUIRE_EXT="1")
    assert result.returncode == 1
    assert "ImportError: TORCH_TRF_REQUIRE_EXT=1" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch has no CUDA")
@pytest.mark.skipif(not (PACKAGE / "_C.abi3.so").exists(), reason="no compiled kernel")
def test_unloadable_cuda_library_leaves_the_cpu_kernels_and_says_what_to_do(bare_package):
    shutil.copy(PACKAGE / "_C.abi3.so", bare_package)
    (bare_package / "_C_cuda.abi3.so").write_bytes(b"built for another CUDA")
    result = run_python(REPORT, folder=bare_package.parent)
    assert result.stdout.startswith("True False")
    assert "pip install --no-build-isolation" in result.stderr
