"""What each process of tests/test_ranks.py does; a child imports nothing else of the tests.

As a program it is torch-trf, of which rank 1 is killed while it reads.
"""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torchmetrics import MetricCollection

from torch_trf import FeatureFolder, Sampling, Scorer, _meeting, score_folder
from torch_trf.cli import main
from torch_trf.integrations.checkpoint import score_checkpoint
from torch_trf.integrations.torchmetrics import TransferabilityMap, TransferabilityScore
from torch_trf.statistics import Faults, JointMass, Moments, PixelSample, all_reduce

IMAGES, K, D, Z, H, W = 7, 3, 5, 4, 8, 12
ONE_PASS = ("leep", "logme", "hscore", "regularized_hscore", "nce")
FOLDER = {"metrics": (*ONE_PASS, "otce"), "num_classes": 8, "num_source_classes": 8, "ignore_index": 250}
SAMPLED = {"sampling": Sampling(num_pixels=90, num_repeats=2)}
TWO_TYPES = torch.float32, torch.bfloat16  # of the first rank that is not empty the second one


def images(part=slice(None)):
    """Features, labels and logits of seven images, or of some of them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (IMAGES, H, W), generator=generator)
    features = torch.randn(IMAGES, D, H, W, generator=generator) + labels.unsqueeze(1)
    return tuple(tensor[part] for tensor in (features, labels, torch.randn(IMAGES, Z, H, W, generator=generator)))


def part_of(rank, size, empty):
    """The images of a rank: one each, the rest for the last of those that are not empty."""
    busy = [other for other in range(size) if other != empty]
    if rank == empty:
        return slice(0, 0)
    place = busy.index(rank)
    return slice(place, IMAGES if rank == busy[-1] else place + 1)


def make_score(**options):
    return TransferabilityScore(**{"metrics": ONE_PASS, "num_classes": K} | options)


def make_coupled_score():
    return make_score(metrics=("otce", "logme"), num_source_classes=K, source=[images(slice(2))[:2]])


def make_map(metric="logme"):
    return TransferabilityMap(metric, patch_size=4, num_classes=K)


def make_collection():
    return MetricCollection({"score": make_score(metrics=("hscore",)), "map": make_map(), "other": make_score()})


MAKERS = {"score": make_score, "coupled": make_coupled_score, "map": make_map, "collection": make_collection}


def batches(part):
    return list(zip(*(tensor.split(1) for tensor in images(part)), strict=True)) if part.start < part.stop else []


def updated(metric, part):
    for batch in batches(part):
        metric.update(*batch)
    return metric


def numbers(metric):
    """What a metric computes, as tensors by name."""
    result = metric.compute()
    result = result if isinstance(result, dict) else {"map": result}
    return {name: getattr(value, "values", value) if name == "map" else value for name, value in result.items()}


def statistics(part):
    """A statistic of each kind, by name."""
    features, labels, logits = images(part)
    return {
        "moments": Moments.from_pixels(features, labels, num_classes=K),
        "soft mass": JointMass.from_pixels(logits, labels, num_classes=K),
        "sample": PixelSample.from_pixels(
            features, labels, size=50, num_classes=K, num_repeats=2, offset=part.start * H * W
        ),
    }


def values(scores):
    return {name: score.score for name, score in scores.items()}


def folder_of(path):
    """Features that are class scores, too."""
    return FeatureFolder(path, logits="final")


def score_parts(folder, rank=0, size=1, **options):
    """Scores of a folder of which each rank takes a part."""
    target, source = (folder_of(folder / name).part(rank, size) for name in ("target", "source"))
    return values(Scorer(**FOLDER, **options)(target, source=source))


def score_tensors(part, **options):
    """Scores of batches that can be read again, and LEEP of those that can be read once."""
    scores = Scorer(metrics=ONE_PASS, num_classes=K, **options)(batches(part))
    once = Scorer(metrics=("leep",), num_classes=K, **options)(iter(batches(part)))
    return values(scores) | {"once": once["leep"].score}


def score_model(part):
    """Scores of a model that gives the images as they are."""
    loader = [(features, labels) for features, labels, _ in batches(part)]
    options = {"num_classes": K, "metrics": "logme", "all_ranks": True}
    return score_checkpoint(torch.nn.Identity(), loader, "", **options, **SAMPLED)["logme"].score


def outcome(function):
    """What a function returns, or its error."""
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def saved(metric):
    metric.persistent(True)
    return metric.state_dict()


def restored(state, make=make_score):
    metric = make()
    metric.persistent(True)
    metric.load_state_dict(state)
    return metric


def restored_once(make, part):
    """Numbers after every rank has restored what all have met; after each has met the first image, too; after each has
    restored what it had saved then; and after each has restored what it had met at first.
    """
    metric = updated(make(), part)
    with metric.sync_context():
        of_all = saved(metric)
    again = restored(of_all, make)
    results = [numbers(again)]
    again.update(*images(slice(1)))
    results += [numbers(again), numbers(restored(saved(again), make)), numbers(restored(saved(metric), make))]
    return results


def restored_from_the_first(part):
    """Numbers after every rank has restored the state of the first one."""
    states = [saved(updated(make_score(), part))]
    dist.broadcast_object_list(states)
    return numbers(restored(states[0]))


def held(metric):
    """How many pixels a score itself has met."""
    running = metric.metric_state["_running"]
    return int(running["Moments(features)"].total.count) if running else 0


def goes_on(make, part):
    """What all ranks have, and what they have after each has met the first image once more."""
    metric = updated(make(), part)
    first = numbers(metric)
    metric.update(*images(slice(1)))
    return first, numbers(metric)


def sampled(part, dtype):
    metric = make_score(metrics=("logme", "leep"), **SAMPLED)
    if part.start < part.stop:
        features, labels, logits = images(part)
        metric.update(features.to(dtype), labels, logits)
    return numbers(metric)


def forwarded(part):
    """What forward gives, which asks no other rank, and what all have then."""
    metric = make_score()
    return [metric(*batch) for batch in batches(part)], numbers(metric)


def in_a_group(rank):
    """The scores of the first two ranks."""
    metric = make_score(process_group=dist.new_group([0, 1]))
    metric.update(*images(slice(rank, rank + 1)))
    return numbers(metric) if rank < 2 else None


def bad_labels(part, first):
    """Errors of a compute and of another one, and how many pixels are held then; as on a GPU, updates do not raise."""
    metric = make_score()
    with patch.object(Faults, "check_on_cpu"):
        for features, labels, logits in batches(part):
            metric.update(features, labels + 99 if first else labels, logits)
    return outcome(metric.compute), outcome(metric.compute), held(metric)


def nothing_at_first():
    """The error of no pixel at all, and the scores after every rank has met an image."""
    metric = make_score()
    first = outcome(metric.compute)
    metric.update(*images(slice(1)))
    return first, outcome(lambda: numbers(metric))


def unlike(make, features, labels):
    metric = make()
    metric.update(features, labels)
    return outcome(lambda: numbers(metric))


def refused(part, bad):
    """Numbers after a rank was refused a batch of bad labels."""
    metric = updated(make_score(), part)
    features, labels, logits = images(slice(1))
    error = outcome(lambda: metric.update(features, labels + 99, logits)) if bad else ""
    return error, outcome(lambda: numbers(metric))


def bad_stream(part, bad):
    """The error of a stream that is bad on one rank, and the scores of one that is not."""
    scorer = Scorer(metrics=("logme",), num_classes=K, all_ranks=True)
    labels_off = [(features, labels + 99 * bad) for features, labels, _ in batches(slice(0, 1))]
    return outcome(lambda: values(scorer(labels_off))), values(scorer([batch[:2] for batch in batches(part)]))


def told_apart(rank, part):
    """Errors where rank 0 was told to do other things than the others."""
    first = rank == 0
    pairs = [batch[:2] for batch in batches(slice(0, 1))]
    unlike_scorer = Scorer(metrics="logme" if first else "hscore", num_classes=K, all_ranks=True)
    makes = {
        "metrics": lambda: make_score(metrics="logme" if first else "hscore"),
        "num_classes": lambda: make_score(metrics="logme", num_classes=K + first),
        "sampling": lambda: make_score(metrics="logme", sampling=Sampling(num_pixels=50, seed=int(first))),
        "patch_size": lambda: TransferabilityMap("logme", patch_size=4 + 2 * first, num_classes=K),
        "class": lambda: make_map() if first else make_score(metrics="logme"),
        "source": lambda: make_score(
            metrics="otce", num_source_classes=K, source=[images(slice(first, 2 + first))[:2]], solver="exact"
        ),
    }
    results = {name: unlike(make, *pairs[0]) for name, make in makes.items()}
    results["metrics of a scorer"] = outcome(lambda: values(unlike_scorer(pairs)))
    scorer = Scorer(metrics=("leep",), num_classes=K, all_ranks=True)
    thrice = [images(slice(1))]
    results["target as it is read"] = outcome(lambda: values(scorer(iter(thrice) if first else thrice)))
    moments = {"moments": Moments.from_pixels(*pairs[0], num_classes=K + first)}
    results["class_count of moments"] = outcome(lambda: all_reduce(moments))
    return results


def waits_for_failed(part, failed):
    """The error of ranks that wait for one whose update failed and that does not come, and the scores once it does."""
    metric = updated(make_score(), part)
    features, labels, logits = images(slice(1))
    function = (lambda: metric.update(features, labels + 99, logits)) if failed else metric.compute
    error = outcome(function)
    dist.barrier()
    metric.update(features, labels, logits)
    dist.barrier()
    return error, numbers(metric)


def everything(rank, size, empty, folder):
    """All results of a rank, by name."""
    part = part_of(rank, size, empty)
    first = rank == (empty == 0)
    features, labels, _ = images()
    results = {name: goes_on(make, part) for name, make in MAKERS.items()}
    of_part = statistics(part) if rank != empty else {}
    results["statistics"] = {name: merged.state() for name, merged in all_reduce(of_part).items()}
    results |= {str(dtype): sampled(part, dtype) for dtype in (torch.float32, torch.bfloat16)}
    results["two types"] = sampled(part, TWO_TYPES[first])
    results["restored"] = {name: restored_once(make, part) for name, make in MAKERS.items() if name != "collection"}
    results["restored from the first"] = restored_from_the_first(part_of(rank, size, size - 1))
    results["refused"] = refused(part, first)
    results["bad stream"] = bad_stream(part, first)
    results["told apart"] = told_apart(rank, part)
    results["forward"] = forwarded(part)
    results["forward in step"] = make_score(dist_sync_on_step=True)(*images(slice(rank, rank + 1)))
    results["group"] = in_a_group(rank)
    results["bad labels"] = bad_labels(part, first)
    results["nothing at first"] = nothing_at_first()
    channels = 2 if rank == 0 else D
    results["other channels"] = unlike(lambda: make_score(metrics=("logme",)), features[:, :channels], labels)
    width = W + (rank > 0)  # of as many patches
    padded = [torch.nn.functional.pad(tensor, (0, width - W)) for tensor in (features, labels)]
    results["other size"] = unlike(make_map, *padded)
    results["folder"] = score_parts(folder, rank, size, all_ranks=True)
    results["sampled folder"] = score_parts(folder, rank, size, all_ranks=True, **SAMPLED)
    options = {"source": folder_of(folder / "source"), "metrics": FOLDER["metrics"], "ignore_index": 250}
    results["shared folder"] = values(score_folder(folder_of(folder / "target"), **options, **SAMPLED))
    results["tensors"] = score_tensors(part, all_ranks=True)
    results["model"] = score_model(part)
    results["waits"] = waits_for_failed(part, rank == size - 1)
    if rank < size - 1:  # the last one has left
        results["left alone"] = outcome(updated(make_score(), part).compute)
    return results


def rank_main(rank, settings, folder):
    """A process that is a rank of every setting (number of ranks, which of them is empty) that has so many."""
    torch.set_num_threads(1)
    _meeting.PATIENCE = 2.0
    for size, empty in settings:
        if rank < size:
            store = f"file://{folder}/store-{size}"
            dist.init_process_group("gloo", store, timedelta(seconds=60), world_size=size, rank=rank)
            results = everything(rank, size, empty, Path(folder))
            dist.destroy_process_group()
            torch.save(results, f"{folder}/{size}-{rank}.pt")


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        FeatureFolder.rows = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(main())
