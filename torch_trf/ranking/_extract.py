"""Features of one model on a data set, as files."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from .._files import write_bytes, write_json
from ..datasets import LabeledData
from ..pixels import bilinear, nearest, size_of
from ._candidate import Candidate
from ._passes import ForwardPasses, Precision
from ._store import differences, plain

FileType = Literal["float32", "float16"]


def extract(
    candidate: Candidate,
    data: LabeledData,
    output: str | Path,
    *,
    dtype: FileType = "float32",
    batch_size: int = 4,
    num_workers: int = 2,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> tuple[int, int]:
    """Writes the features of a model on a data set in the layout that `FeatureFolder` reads.

    `final/<k>.npy` `[D, H, W]` on the grid of the features, `label/<k>.npy` `[H, W]` read nearest to the center of each
    feature (255 is ignored), and, of a candidate with class scores, `logits/<k>.npy` `[Z, H, W]`. Images of which all
    files are there are not computed again.

    Args:
        candidate: the model, and its layers.
        data: the labeled images.
        output: the folder; it is made.
        dtype: of the features' files.
        batch_size: images at once; halved where memory does not suffice.
        num_workers: processes that decode images.
        precision: of the forward passes; other than float32 by autocast.
        device: where the model runs.
        progress: whether to show a progress bar.

    Returns:
        How many images were written, and how many were there.

    Raises:
        ValueError: a folder that holds features of other settings, an unknown type, features that float16 cannot hold,
            or as `Ranker`.
        OSError: files that cannot be written.
    """
    if dtype not in get_args(FileType):
        raise ValueError(f"dtype: {dtype!r} is none of {', '.join(get_args(FileType))}")
    folder = Path(output)
    settings: dict[str, Any] = {
        "candidate": candidate.settings,
        "data": asdict(data),
        "precision": precision,
        "dtype": dtype,
    }
    images = data.make(candidate.make_transform())
    settings["images"] = getattr(images.dataset, "files", len(images))
    layers = {"final": candidate.layer}
    if candidate.logits_layer is not None:
        layers["logits"] = candidate.logits_layer
    names = ("label", *layers)
    model = candidate.make().to(device)
    _claim(folder, plain(settings))
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    missing = [k for k in range(len(images)) if not all((folder / name / f"{k}.npy").exists() for name in names)]
    passes = ForwardPasses(
        model=model,
        layers=candidate.layers,
        device=torch.device(device),
        precision=precision,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    for image, features in passes(images, missing, "images" if progress else ""):
        size = size_of(features[candidate.layer])
        arrays = {"label": nearest(image.labels.unsqueeze(0), size)[0].to(torch.uint8).numpy()}
        for name, layer in layers.items():
            tensor = bilinear(features[layer].unsqueeze(0).float(), size)[0]
            array = tensor.cpu().numpy()
            if not (np.abs(array) <= np.finfo(dtype).max).all():
                raise ValueError(f"image {image.index}: {layer} gives features that are not finite in {dtype}")
            arrays[name] = array.astype(dtype)
        for name, array in arrays.items():
            write_bytes(folder / name / f"{image.index}.npy", partial(np.save, arr=array))
    return len(missing), len(images) - len(missing)


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into the folder, where they must be those that are there."""
    path = folder / "extract.json"
    written = any(folder.glob("final/*.npy"))
    if path.exists() and written and (found := list(differences(json.loads(path.read_text()), settings))):
        raise ValueError(f"{folder} holds features of other settings, where {found[0]}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
