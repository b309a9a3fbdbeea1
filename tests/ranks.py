"""What each process of tests/test_ranks.py does; a child imports nothing else of the tests."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from torch_trf import FeatureFolder, Scorer
from torch_trf.integrations.torchmetrics import TransferabilityMap, TransferabilityScore
from torch_trf.statistics import Moments, all_reduce

K, D, Z = 3, 5, 4
METRICS = ("leep", "logme", "hscore", "regularized_hscore", "nce", "otce")
FOLDER = {"metrics": METRICS, "num_classes": 8, "num_source_classes": 8, "ignore_index": 250}
SAMPLED = {"num_pixels": 200, "num_repeats": 2}


def pixels():
    """Seven images of features, labels and logits."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (7, 8, 12), generator=generator)
    features = torch.randn(7, D, 8, 12, generator=generator) + labels.unsqueeze(1)
    return features, labels, torch.randn(7, Z, 8, 12, generator=generator)


def make_score(**options):
    return TransferabilityScore(("logme", "hscore", "leep", "nce"), num_classes=K, **options)


def make_map():
    return TransferabilityMap("logme", patch_size=4, num_classes=K)


def scores(target, source, **options):
    found = Scorer(**FOLDER, **options)(target, source)
    return {name: score.score for name, score in found.items()}


def raised(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return "nothing"


def rank_main(rank, size, empty, folder):
    """One rank of `size`, of which `empty` meets no pixel; what it finds is written to a file."""
    folder = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    features, labels, logits = pixels()
    busy = [other for other in range(size) if other != empty]
    mine = [k for k in range(7) if rank in busy and min(k, len(busy) - 1) == busy.index(rank)]  # uneven parts
    found = {}

    metric, score_map = make_score(), make_map()
    for k in mine:
        metric.update(features[k : k + 1], labels[k : k + 1], logits[k : k + 1])
        score_map.update(features[k : k + 1], labels[k : k + 1])
    found["scores"] = {name: value.item() for name, value in metric.compute().items()}
    found["map"] = score_map.compute().values.tolist()
    found["own pixels"] = metric._numbers.get("pixels", 0)
    metric.update(features[:1], labels[:1], logits[:1])  # goes on from its own state
    found["scores after more"] = {name: value.item() for name, value in metric.compute().items()}

    known = {"moments": Moments.from_pixels(features[mine], labels[mine], num_classes=K)} if mine else {}
    merged = all_reduce(known)["moments"]
    whole = Moments.from_pixels(features, labels, num_classes=K)
    found["gram"] = (merged.around(whole.origin).offset_gram - whole.offset_gram).abs().max().item()

    bad = labels.clone()
    bad[0, 0, 0] = 99 if rank == busy[0] else 0
    faults = Moments.from_pixels(features, labels, num_classes=K).faults
    if rank == busy[0]:
        faults = type(faults).from_pixels(bad.flatten(), (bad == 99).flatten(), torch.zeros(1, dtype=torch.bool))
    found["bad label"] = raised(lambda: faults.all_reduce().check(K, 255))
    channels = 2 if rank == 0 else D
    other = Moments.from_pixels(features[:, :channels], labels, num_classes=K)
    found["other channels"] = raised(lambda: all_reduce({"moments": other}))
    found["nothing at all"] = raised(make_score().compute)

    target, source = (FeatureFolder(folder / name).part(rank, size) for name in ("target", "source"))
    found["folder"] = scores(target, source, **SAMPLED, all_ranks=True)
    found["folder, all pixels"] = scores(target, source, all_ranks=True)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
