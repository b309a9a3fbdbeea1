"""Ops that are called past what Python checks, with arguments that nobody means: an error in words, never a crash."""

import pytest
import torch

from torch_trf import _ops

from .test_registration import PIXEL_OPS, SOLVERS, arguments_of, every_op, every_pixel_op

HUGE = [2**31, 2**36 + 1, 2**61, 2**62, 2**63 - 1]
ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def call(name, arguments):
    """The op, past the checks in Python."""
    return getattr(torch.ops.torch_trf, name)(*arguments)


def with_argument(name, place, value, device):
    """Arguments that the op takes, but for one."""
    arguments = arguments_of(name, device)
    arguments[place] = value
    return arguments


@pytest.mark.parametrize("num_classes", [0, -1, -(2**63), *HUGE[1:]])
@pytest.mark.parametrize("name", ["patch_moments", "patch_joint_mass"])
@pytest.mark.usefixtures("kernel")
def test_numbers_of_classes_that_fit_into_no_memory(name, num_classes, device):
    with pytest.raises(RuntimeError, match=r"num_classes|numbers are more than any memory holds"):
        call(name, with_argument(name, 2, num_classes, device))


@pytest.mark.parametrize("size", [0, -1, -(2**63), 7, *HUGE])
@pytest.mark.parametrize("place", [3, 4])
@every_pixel_op
@pytest.mark.usefixtures("kernel")
def test_patches_that_do_not_fit(name, place, size, device):
    with pytest.raises(RuntimeError, match="does not fit into 6 x 6 pixels"):
        call(name, with_argument(name, place, size, device))


@pytest.mark.parametrize("stride", [0, -1, -(2**63)])
@pytest.mark.usefixtures("kernel")
def test_strides_that_go_nowhere(stride, device):
    with pytest.raises(RuntimeError, match="stride must be positive"):
        call("patch_log_likelihood", with_argument("patch_log_likelihood", 5, stride, device))


@pytest.mark.parametrize("ignore_index", [-(2**63), 2**63 - 1, -1])
@pytest.mark.parametrize("name", ["patch_moments", "patch_joint_mass"])
def test_any_number_may_be_ignored(name, ignore_index, device):
    arguments = arguments_of(name, device)
    expected = call(name, arguments)
    arguments[1] = arguments[1].masked_fill(arguments[1] == 255, ignore_index)
    arguments[6] = ignore_index
    torch.testing.assert_close(call(name, arguments), expected, rtol=0, atol=0)


@every_op
@pytest.mark.usefixtures("kernel")
def test_tensors_that_do_not_belong_together(name, device):
    """Every tensor in every wrong shape: shorter, longer, of another rank, empty."""
    for place, tensor in enumerate(arguments_of(name, device)):
        if not isinstance(tensor, torch.Tensor):
            continue
        shapes = [(), (0,), (3,), (2, 3), tuple(tensor.shape[1:]), (2, *tensor.shape), (*tensor.shape[:-1], 5)]
        for shape in shapes:
            if shape == tuple(tensor.shape):
                continue
            arguments = with_argument(name, place, tensor.new_zeros(shape), device)
            with pytest.raises(ERRORS):
                call(name, arguments)


@every_op
@pytest.mark.usefixtures("kernel")
def test_types_that_no_kernel_reads(name, device):
    for place, tensor in enumerate(arguments_of(name, device)):
        if isinstance(tensor, torch.Tensor):
            for dtype in (torch.complex64, torch.int16, torch.float8_e4m3fn):
                with pytest.raises(ERRORS):
                    call(name, with_argument(name, place, tensor.to(dtype), device))


@pytest.mark.usefixtures("kernel")
def test_sizes_whose_products_overflow(device):
    nothing = torch.empty(0, dtype=torch.float64, device=device)
    many = nothing.new_empty(1).expand(1, 2**40, 1, 1)  # 2^40 channels in eight bytes
    labels = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    for name, more in {
        "patch_moments": (2**20, 1, 1, True, 255),
        "patch_joint_mass": (2**20, 1, 1, True, 255, False),
    }.items():
        with pytest.raises(RuntimeError, match="more than any memory holds"):
            call(name, (many, labels, *more))
    matrices = nothing.new_empty(0, 2**31, 2**31)
    with pytest.raises(RuntimeError, match="more than any memory holds"):
        call("eigenbasis", (matrices, matrices))


@pytest.mark.parametrize(("tolerance", "iterations"), [(float("nan"), 9), (-1.0, 9), (1e-3, 0), (1e-3, -5)])
def test_iterations_without_an_end(tolerance, iterations, device):
    arguments = arguments_of("logme_evidence", device)[:5]
    with pytest.raises(ValueError, match="tolerance"):
        _ops.logme_evidence(*arguments, epsilon=1e-5, tolerance=tolerance, max_iterations=iterations)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("tolerance", "iterations"), [(float("nan"), 9), (-1.0, 9), (1e-3, 0), (1e-3, -5)])
def test_iterations_without_an_end_past_the_checks(tolerance, iterations, device):
    with pytest.raises(RuntimeError, match="tolerance"):
        call("logme_evidence", (*arguments_of("logme_evidence", device)[:5], 1e-5, tolerance, iterations))


def test_what_is_no_number_ends_the_iteration(device):
    """Of 2^62 iterations, no more than two."""
    arguments = arguments_of("logme_evidence", device)[:5]
    arguments[3] = torch.full_like(arguments[3], torch.nan)
    evidence = _ops.logme_evidence(*arguments, epsilon=1e-5, tolerance=0.0, max_iterations=2**62)
    assert evidence.isnan().all()


def test_a_byte_that_is_no_bool_counts_as_true(device):
    arguments = arguments_of("logme_evidence", device)
    expected = call("logme_evidence", arguments)
    arguments[4] = torch.full_like(arguments[4], 2, dtype=torch.uint8).view(torch.bool)
    torch.testing.assert_close(call("logme_evidence", arguments), expected, rtol=0, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e308, 5e-324])
@pytest.mark.parametrize("name", [*PIXEL_OPS, *SOLVERS])
def test_numbers_at_the_edge(name, value, device):
    """Nothing is promised of the sums but that there are some, of the right shapes."""
    arguments = arguments_of(name, device)
    expected = call(name, arguments)
    filled = [
        torch.full_like(each, value, dtype=torch.float64)
        if isinstance(each, torch.Tensor) and each.is_floating_point()
        else each
        for each in arguments
    ]
    actual = call(name, filled)
    shapes = [
        [each.shape for each in (result if isinstance(result, tuple) else [result])] for result in (actual, expected)
    ]
    assert shapes[0] == shapes[1]
