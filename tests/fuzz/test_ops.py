"""Ops under arguments drawn from a seed: kernels and references agree, or both refuse."""

import pytest
import torch

from torch_trf import _ops
from torch_trf._ops import _logme_evidence, _patch_joint_mass, _patch_log_likelihood, _patch_moments

REFERENCES = {
    "patch_moments": _patch_moments.patch_moments_reference,
    "patch_joint_mass": _patch_joint_mass.patch_joint_mass_reference,
    "patch_log_likelihood": _patch_log_likelihood.patch_log_likelihood_reference,
    "logme_evidence": _logme_evidence.logme_evidence_reference,
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LABEL_DTYPES = (torch.int64, torch.int32, torch.uint8)
SIZES = (1, 1, 2, 3, 5, 8)
ODD = (-(2**63), -7, -1, 0, 1, 2, 3, 200, 255, 2**40, 2**63 - 1)


def strided(tensor, chance):
    """The same values, or fewer of them, with other strides."""
    kind = chance.randrange(5)
    if kind == 0:
        return tensor.movedim(-1, 0).contiguous().movedim(0, -1)
    if kind == 1:
        return tensor[:1].expand_as(tensor)
    if kind == 2:
        return torch.stack([tensor, tensor], -1).flatten(-2)[..., ::2]
    if kind == 3:
        return tensor.flip(-1).mT.contiguous().mT
    return tensor


def pixels(chance, generator):
    """Features and labels of any strides and types; some are no numbers, some no classes, and seldom a shape is off."""
    batch, channels, height, width = (chance.choice(SIZES) for _ in range(4))
    features = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    features *= 10.0 ** chance.choice((-300, -5, 0, 0, 0, 4, 100))
    if chance.random() < 0.3:
        features[torch.rand(features.shape, generator=generator) < 0.1] = chance.choice((torch.nan, torch.inf, 0.0))
    labels = torch.randint(0, 4, (batch, height, width), generator=generator)
    if chance.random() < 0.3:
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = chance.choice((255, 99, 200))
    if chance.random() < 0.1:
        labels = labels[..., :-1] if width > 1 else labels[:-1]
    dtype, label_dtype = chance.choice(DTYPES), chance.choice(LABEL_DTYPES)
    return strided(features.to(dtype), chance), strided(labels.to(label_dtype), chance)


def arguments(name, chance):
    """Arguments of an op, most of them sound."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))

    def number(*sound):
        return chance.choice(ODD) if chance.random() < 0.1 else chance.choice(sound)

    if name == "logme_evidence":
        entries, classes, directions = chance.choice((0, 1, 2)), chance.choice((0, 1, 3)), chance.choice((0, 1, 4))
        scale = 10.0 ** chance.choice((-100, 0, 0, 100))
        shapes = ((entries, directions), (entries, classes, directions), (entries, classes))
        real = [torch.rand(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]
        included = torch.rand(entries, classes, generator=generator) < 0.8
        count = torch.full((entries,), float(directions + chance.randrange(9)), dtype=torch.float64)
        return [*real, count, included, 1e-5, 1e-3, chance.choice((-1, 0, 1, 11, 100))]
    features, labels = pixels(chance, generator)
    patch = [number(*{1, min(2, size), size}) for size in features.shape[-2:]]
    pool, ignore_index = chance.random() < 0.5, number(255, 3, -1)
    if name == "patch_log_likelihood":
        stride = [number(1, 2, *patch) for _ in range(2)]
        size = [(size - p) // max(s, 1) + 1 for size, p, s in zip(features.shape[-2:], patch, stride, strict=True)]
        grid = [*([] if pool else [len(features)]), *(min(max(each, 0), 64) for each in size)]
        given = torch.rand(*grid, 4, features.shape[1], generator=generator, dtype=torch.float64)
        return [features, labels, given, *patch, *stride, pool, ignore_index]
    classes = [number(4), *patch, pool, ignore_index]
    return [features, labels, *classes, *([chance.random() < 0.5] if name == "patch_joint_mass" else [])]


@pytest.mark.usefixtures("annotations_unchecked", "kernel")
@pytest.mark.parametrize("name", REFERENCES)
def test_kernels_and_references_agree_or_refuse(name, chances):
    for chance in chances(150):
        drawn = arguments(name, chance)
        try:
            actual = getattr(torch.ops.torch_trf, name)(*drawn)
        except RuntimeError:
            with pytest.raises((ValueError, RuntimeError), match=r"must|not fit|no memory|any memory"):
                sound(name, drawn)
            continue
        expected = REFERENCES[name](*drawn)
        actual, expected = ([each] if isinstance(each, torch.Tensor) else list(each) for each in (actual, expected))
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-300, equal_nan=True)


def sound(name, drawn):
    """The op as the package calls it, checks in Python included."""
    if name == "logme_evidence":
        *tensors, epsilon, tolerance, iterations = drawn
        return _ops.logme_evidence(*tensors, epsilon=epsilon, tolerance=tolerance, max_iterations=iterations)
    return getattr(_ops, name)(*drawn)
