"""Whether class scores are those before softmax, by a look at a few of them."""

import warnings

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LOOKED_AT = 64  # pixels of a batch at most, the first ones, so that the look costs next to nothing
LEAST_PIXELS = 16  # of fewer nothing is said
ROUNDING = 0.01  # of a sum of half precision
LEAST_ZEROS = 0.1  # share of the class scores that a ReLU may be seen by

# What class scores look like. Of several batches the largest holds: one that looks right clears all.
NOTHING, PROBABILITIES, RECTIFIED, SCORES = range(4)

DOUBTS = {
    PROBABILITIES: "the class scores are probabilities, or predictions: those of each pixel are not negative and sum"
    " to 1, and their softmax is taken again: give the scores before softmax, or the logarithm of the probabilities",
    RECTIFIED: "the class scores are never negative and many are exactly 0, as features after a ReLU are: give one"
    " score of each source class, before softmax",
}


def require_channels(channels: int) -> None:
    """Raises where softmax over so many channels says nothing.

    Raises:
        ValueError: one channel.
    """
    if channels == 1:
        raise ValueError("softmax of features of one channel is 1, whatever they are: softmax=False reads them as such")


def of_all_classes(scores: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Class scores; of the one output z of a binary model, which goes into a sigmoid, both: [0, z]. Warns of that.

    Args:
        scores: with source classes along `dim`.
        dim: of the source classes.
    """
    if scores.shape[dim] != 1:
        return scores
    warnings.warn(
        "the class scores have one channel: they are taken for the output z of a binary model before its sigmoid, and"
        " read as [0, z]",
        stacklevel=4,
    )
    return torch.cat([torch.zeros_like(scores), scores], dim)


def look_of_class_scores(images: Float[Tensor, "B Z H W"]) -> Int64[Tensor, ""]:
    """What the class scores look like, from the first pixels of the first image; waits for nothing."""
    columns = max(min(images.shape[-1], LOOKED_AT), 1)
    first = images[:1, :, : LOOKED_AT // columns, :columns].to(torch.float32).movedim(1, 0).flatten(1)
    is_negative = (first < 0).any()
    if images.device.type == "cpu" and not torch.compiler.is_compiling() and is_negative:
        return torch.tensor(SCORES, device=images.device)  # as mostly, and the rest need not be asked
    total = first.sum(0)
    counts = total != 0  # a pixel that was left out is 0 everywhere
    is_summing_to_1 = ((total * (total - 1)).abs() < ROUNDING).all()
    is_binary = first[:1].count_nonzero() == 0 if len(first) == 2 else torch.zeros_like(is_negative)  # [0, z]
    zeros = ((first == 0) & counts).sum()
    is_rectified = ~is_binary & (zeros > LEAST_ZEROS * len(first) * counts.sum())
    doubt = torch.where(is_summing_to_1, PROBABILITIES, torch.where(is_rectified, RECTIFIED, SCORES))
    return torch.where(is_negative, SCORES, doubt.where(counts.sum() >= LEAST_PIXELS, NOTHING))
