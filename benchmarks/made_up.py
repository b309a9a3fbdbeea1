"""A small feature folder made from nothing: plausible label maps, and the logits of an imperfect source model."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

CLASSES = ("sky", "building", "road", "pavement", "vegetation", "vehicle", "person", "pole")
NUM_CHANNELS = 12  # the source model knows four classes that the labels do not
IGNORE_INDEX = 250  # as in the published folders


def make_feature_folder(
    path: str | Path, *, shift: float, seed: int = 0, num_images: int = 10, height: int = 90, width: int = 120
) -> None:
    """Writes `<path>/final/<k>.npy` (float32 logits) and `<path>/label/<k>.npy` (int64) for a made-up data set.

    Street-like label maps, and logits that a model trained on other streets might give: each class has a direction in
    feature space, neighboring pixels share their noise, and the further the domain, the more classes are confused.

    Args:
        path: folder to write to, made if it is missing.
        shift: distance from the model's own domain, at least 0; 0 is the domain that it was trained on.
        seed: of everything random.
        num_images: number of images.
        height: of an image, in pixels.
        width: of an image, in pixels.

    Raises:
        ValueError: a folder that is not empty.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> make_feature_folder(folder, shift=0.5, num_images=1)
        >>> np.load(folder / "final" / "0.npy").shape, np.load(folder / "label" / "0.npy").shape
        ((12, 90, 120), (90, 120))
    """
    generator = torch.Generator().manual_seed(seed)
    direction = 5 * torch.randn(len(CLASSES), NUM_CHANNELS, generator=torch.Generator().manual_seed(1))
    confused = direction + shift * 5 * torch.randn(
        len(CLASSES), NUM_CHANNELS, generator=torch.Generator().manual_seed(2)
    )
    folders = [Path(path) / name for name in ("final", "label")]
    if Path(path).exists() and any(Path(path).iterdir()):
        raise ValueError(f"{path} is not empty: nothing is written over it")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for k in range(num_images):
        labels = make_street(height, width, generator)
        means = confused[labels.clamp(max=len(CLASSES) - 1)].movedim(-1, 0)
        logits = means + (3 + 3 * shift) * _smooth_noise(height, width, generator)
        for folder, array in zip(folders, (logits, labels), strict=True):
            np.save(folder / f"{k}.npy", array.numpy())


def make_street(height: int, width: int, generator: torch.Generator) -> Int64[Tensor, "H W"]:
    """Labels of a made-up street: sky above buildings above pavement and road, with what stands before them.

    Args:
        height: in pixels.
        width: in pixels.
        generator: of everything random.

    Returns:
        Numbers of `CLASSES`; `IGNORE_INDEX` at the bottom.

    Example:
        >>> make_street(90, 120, torch.Generator().manual_seed(0)).shape
        torch.Size([90, 120])
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    rows, columns = torch.arange(height).unsqueeze(1) / height, torch.arange(width) / width
    roof = uniform(0.2, 0.35) + 0.08 * torch.sin(columns * uniform(8.0, 20.0) + uniform(0.0, 6.0)).sign()
    kerb = uniform(0.55, 0.65)
    labels = torch.where(rows < roof, 0, 1).masked_fill(rows > kerb, 3)
    middle = (columns - uniform(0.4, 0.6)).abs()
    labels = labels.masked_fill((rows > kerb) & (middle < 0.1 + 0.8 * (rows - kerb)), 2)
    for label, number, tall, wide in ((4, 3, 0.3, 0.15), (7, 3, 0.5, 0.01), (5, 3, 0.12, 0.15), (6, 4, 0.16, 0.03)):
        for _ in range(number):
            foot, side = uniform(kerb, kerb + 0.2), uniform(0.0, 1.0)
            inside = (rows < foot) & (rows > foot - tall) & ((columns - side).abs() < wide / 2)
            labels = labels.masked_fill(inside, label)
    return labels.masked_fill(rows > 1 - 0.05, IGNORE_INDEX)  # the bonnet of the camera's own car


def _smooth_noise(height: int, width: int, generator: torch.Generator) -> Float[Tensor, "D H W"]:
    """Noise of unit variance, half of it shared by neighboring pixels."""
    coarse = torch.randn(1, NUM_CHANNELS, height // 8, width // 8, generator=generator)
    coarse = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    fine = torch.randn(NUM_CHANNELS, height, width, generator=generator)
    return (coarse / coarse.std() + fine) / 2**0.5
