"""Features of one model on a data set, as files."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import require_choice
from .._errors import in_a_line
from .._files import PathLike, only_writer, write_bytes, write_json
from ..datasets import IGNORED, LabeledData, LabeledImage
from ..features import MANIFEST
from ..inference import ForwardPasses, Inference
from ..pixels import bilinear, nearest, size_of
from ._candidate import Candidate
from ._doubts import doubts
from ._first_images import check_transform, first_images, require_same
from ._image_features import image_features
from ._store import Settings, differences, plain

FileType = Literal["float32", "float16"]


def extract(
    candidate: Candidate,
    data: LabeledData,
    output: PathLike,
    *,
    dtype: FileType = "float32",
    inference: Inference = Inference(),
) -> tuple[int, int]:
    """Writes the features of a model on a data set in the layout that `FeatureFolder` reads.

    `final/<k>.npy` `[D, H, W]` on the grid of the features, `label/<k>.npy` `[H, W]` read nearest to the center of each
    feature (255 is ignored), and, of a candidate with class scores, `logits/<k>.npy` `[Z, H, W]`. Batches of which all
    files are there are not computed again, so an extraction that was interrupted goes on where it ended. `extract.json`
    tells of how many images the folder is to be: `FeatureFolder` reads none where some are missing.

    Args:
        candidate: the model, and its layers.
        data: the labeled images.
        output: the folder; it is made.
        dtype: of the features' files.
        inference: how the model is run.

    Returns:
        How many images were written, and how many were there.

    Raises:
        ValueError: a folder that holds features of other settings, an unknown type, features that float16 cannot hold,
            or as `Ranker`.
        OSError: files that cannot be written.
    """
    require_choice("dtype", dtype, FileType)
    folder = Path(output)
    layers = {"final": candidate.layer}
    if candidate.logits_layer is not None:
        layers["logits"] = candidate.logits_layer
    transform = candidate.make_transform()
    images = data.make(transform)
    passes = ForwardPasses(candidate.make(), inference)
    settings = {
        "candidate": candidate.settings,
        "data": asdict(data),
        "precision": inference.precision,
        "dtype": dtype,
        "images": getattr(images.dataset, "files", len(images)),
    }
    names = ("label", *layers)
    size = inference.batch_size
    with only_writer(folder):
        _write_settings(folder, plain(settings))
        for name in names:
            (folder / name).mkdir(exist_ok=True)
        there = [all((folder / name / f"{k}.npy").is_file() for name in names) for k in range(len(images))]
        # Whole batches, because an image alone does not give quite the numbers that it gives among others.
        batches = [range(len(images))[first : first + size] for first in range(0, len(images), size)]
        missing = [k for batch in batches for k in batch if not all(there[k] for k in batch)]
        first = first_images(images, missing, {})
        check_transform(candidate, transform, first)
        digests = {image.index: image.digest for image in first}
        label_counts = torch.zeros(IGNORED + 1, dtype=torch.int64, device="cpu")
        for image, features in image_features(passes, tuple(dict.fromkeys(layers.values())), images, missing, "images"):
            require_same(image, digests)
            digests[image.index] = image.digest
            label_counts += image.labels.flatten().bincount(minlength=len(label_counts))
            for name, array in _arrays(image, features, layers, dtype).items():
                write_bytes(folder / name / f"{image.index}.npy", partial(np.save, arr=array))
    if len(missing) == len(images):
        for doubt in doubts(label_counts, digests, data.ignore_index):
            warnings.warn(doubt, stacklevel=2)
    return len(missing), len(images) - len(missing)


def _arrays(
    image: LabeledImage, features: Mapping[str, Float[Tensor, "D h w"]], layers: Mapping[str, str], dtype: FileType
) -> dict[str, np.ndarray]:
    """What is written of an image, on the grid of the first of the layers."""
    size = size_of(features[layers["final"]])
    arrays = {"label": nearest(image.labels.unsqueeze(0), size)[0].to(torch.uint8).numpy()}
    for name, layer in layers.items():
        array = bilinear(features[layer].unsqueeze(0).float(), size)[0].cpu().numpy()
        if not (np.abs(array) <= np.finfo(dtype).max).all():
            raise ValueError(f"image {image.index}: {layer} gives features that are not finite in {dtype}")
        arrays[name] = array.astype(dtype)
    return arrays


def _write_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings into the folder, where there must be no features of others."""
    path = folder / MANIFEST
    if path.exists() and any(folder.glob("final/[!.]*.npy")):
        try:
            before = json.loads(path.read_text())
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"{path} cannot be read: {in_a_line(error)}: choose another folder") from error
        others = next(differences(before, settings), None)
        if others is not None:
            raise ValueError(f"{folder} holds features of other settings, where {others}: choose another folder")
    write_json(path, settings)
