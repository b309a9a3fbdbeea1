"""Live metrics: fed in any batches and ways, merged, copied, saved and moved, they score as if nothing had happened."""

import copy
import io
import pickle
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper, MetricTracker, MinMaxMetric, Running

import torch_trf
from torch_trf import Mapper, Sampling, ScoreMap, Scorer
from torch_trf.integrations.torchmetrics import TransferabilityMap, TransferabilityScore
from torch_trf.metrics import KNN, METRICS, HScore, LogME
from torch_trf.pixels import Pixels
from torch_trf.statistics import Faults, PixelSample
from torch_trf.transport import Sinkhorn

from ..helpers import assert_close, random_images, run_python

ONE_PASS = ("leep", "logme", "hscore", "regularized_hscore", "nce")
B, K, Z, D, H, W = 5, 4, 6, 3, 8, 12
WAYS = {  # of scoring that hold different statistics
    "all pixels": {"metrics": ONE_PASS},
    "samples": {"metrics": ("logme", "leep"), "sampling": Sampling(num_pixels=40, num_repeats=2)},
    "a stream's sample": {"metrics": ("leep",), "stream_pixels": 60},
}
every_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS.keys())


@pytest.fixture(scope="module")
def images(device):
    """Features, labels and logits of five images; a fifth of the pixels is ignored and NaN."""
    features, labels = random_images(B, D, H, W, classes=K, device=device)
    return features, labels, random_images(B, Z, H, W, classes=K, device=device)[0]


@pytest.fixture(scope="module")
def source(images):
    """The source data set: the same labels seen elsewhere."""
    return [(images[0][2:4] + 0.5, images[1][2:4])]


def batches(images, *cuts):
    """The images in batches, cut before the given ones."""
    return list(zip(*(torch.tensor_split(tensor, cuts) for tensor in images), strict=True))


def score(**options):
    return TransferabilityScore(**{"metrics": ("logme", "hscore"), "num_classes": K} | options)


def make_map(metric="logme", **options):
    return TransferabilityMap(metric, **{"patch_size": 4, "num_classes": K} | options)


def updated(metric, stream):
    for batch in stream:
        metric.update(*batch)
    return metric


def values(metric):
    """What a score or a map computes, as numbers."""
    result = metric.compute()
    return {name: value.item() for name, value in result.items()} if isinstance(result, dict) else result.values


def assert_equal(actual, expected):
    """Two results of `values`."""
    if isinstance(expected, dict):
        assert actual == pytest.approx(expected, rel=1e-10)
    else:
        assert_close(actual, expected, equal_nan=True)


def parts(metric):
    """The parts of every statistic that a metric holds."""
    return [part for running in metric.metric_state["_running"].values() for part in running.parts]


def tensors(metric):
    return [tensor for part in parts(metric) for tensor in part.state().values()]


MAKERS = {"score": lambda: score(metrics=ONE_PASS), "map": make_map}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@pytest.mark.parametrize("as_sample", [False, True])
def test_scores_are_those_of_all_pixels(images, source, as_sample):
    features, labels, logits = images
    drawn = PixelSample.from_pixels(*source[0], size=1000, num_classes=K) if as_sample else source
    metric = score(metrics=tuple(METRICS), num_source_classes=K, source=drawn)
    scores = values(updated(metric, batches(images, 1, 3)))
    assert list(scores) == list(METRICS)
    for name, each in METRICS.items():
        tensor = logits if each.looks[0].reads == "logits" else features
        sides = {"source": source[0]} if each.needs_source else {}
        assert scores[name] == pytest.approx(each(tensor, labels, **sides, num_classes=K).item(), rel=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": (HScore(softmax=True), "logme")},
        {"metrics": (LogME(absent_classes="include"),)},
        {
            "metrics": ("otce", "leep"),
            "sampling": Sampling(num_pixels=50, num_repeats=3, seed=4),
            "num_source_classes": K,
            "solver": Sinkhorn(epsilon=0.05),
        },
        {"metrics": ("nce", "hscore"), "sampling": Sampling(num_pixels=40, strategy="per_class")},
        {"metrics": ("leep",), "stream_pixels": 70},
        {"metrics": (KNN(neighbors=3, softmax=True), "logme"), "sampling": Sampling(num_repeats=2)},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_are_those_of_a_scorer(images, source, options):
    metric = score(**options, source=source)
    scores = Scorer(**{"num_classes": K} | options)
    assert metric.scorer == scores
    expected = scores(iter([images]), source=source).items()
    assert_equal(values(updated(metric, batches(images, 2))), {name: each.score for name, each in expected})


def test_every_option_reaches_the_scorer():
    options = {"metrics": "nce", "num_classes": 7, "num_source_classes": 5, "ignore_index": 1, "stream_pixels": 9}
    options |= {"sampling": Sampling(num_pixels=40, seed=1), "solver": "exact", "progress": True}
    assert TransferabilityScore(**options).scorer == Scorer(**options)


def test_results_are_numbers_on_the_device(images, device):
    for value in updated(score(), [images]).compute().values():
        assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device.type)


@pytest.fixture(scope="module")
def whole(images):
    """What every way of scoring computes of all images at once."""
    return {name: values(updated(score(**options), [images])) for name, options in WAYS.items()}


@pytest.mark.slow
@settings(max_examples=10)
@given(cuts=st.sets(st.integers(1, B - 1)))
def test_scores_do_not_depend_on_the_batches(images, whole, cuts):
    for name, options in WAYS.items():
        assert_equal(values(updated(score(**options), batches(images, *sorted(cuts)))), whole[name])


def test_features_that_are_logits(images):
    metric = updated(score(metrics=("leep", "logme"), features_are_logits=True), [images[:2]])
    expected = {name: getattr(torch_trf, name)(*images[:2], num_classes=K).item() for name in ("leep", "logme")}
    assert_equal(values(metric), expected)


def test_logits_on_another_grid_are_read_bilinearly(images):
    features, labels, _ = images
    logits = torch.randn(B, Z, H // 2, W // 2, device=labels.device)
    at_features = nn.functional.interpolate(logits, (H, W), mode="bilinear")
    metric = updated(score(metrics=("leep", "nce")), [(features, labels, logits)])
    assert_equal(
        values(metric), {name: getattr(torch_trf, name)(at_features, labels).item() for name in values(metric)}
    )


def test_meets_labels_on_the_grid_that_is_chosen(images):
    features = torch.randn(B, D, H // 2, W // 2, device=images[1].device)
    at_labels = nn.functional.interpolate(features, (H, W), mode="bilinear")
    coarse = updated(score(metrics=("logme",)), [(features, images[1])])
    fine = updated(score(metrics=("logme",), grid="labels"), [(features, images[1])])
    assert_equal(values(coarse), {"logme": torch_trf.logme(features, images[1][:, 1::2, 1::2], num_classes=K).item()})
    assert_equal(values(fine), {"logme": torch_trf.logme(at_labels, images[1], num_classes=K).item()})


def test_of_a_model_that_it_is_attached_to(images):
    model = nn.Sequential(nn.Conv2d(2, D, 1), nn.Conv2d(D, Z, 3, padding=1)).to(images[1].device)
    metric, expected = score(metrics=ONE_PASS), score(metrics=ONE_PASS)
    other = copy.deepcopy(model)
    with metric.attach(model, "0", "1") as live:
        for labels in images[1].split(2):
            pictures = torch.randn(len(labels), 2, H, W, device=labels.device)
            model(pictures)
            live.update(labels)
            expected.update(other[0](pictures), labels, other(pictures))
    assert_equal(values(metric), values(expected))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"metrics": ("leap",)}, "'leap' is none of .*leep"),
        ({"metrics": ("otce",)}, "otce needs num_source_classes"),
        ({"metrics": ("logme", "otce"), "num_source_classes": K}, "otce .* needs a source, and was given none"),
        (
            {"metrics": ("jc_otce",), "num_source_classes": K, "source": iter([])},
            "jc_otce .* needs a source, and was given an iterator",
        ),
        ({"num_pixel": 50}, "TransferabilityScore: Unexpected keyword arguments: `num_pixel`"),
        ({"device": "cpu", "all_ranks": True}, "TransferabilityScore: Unexpected .*: `all_ranks`, `device`"),
    ],
)
def test_refuses_options(options, word):
    with pytest.raises(ValueError, match=word):
        score(**options)


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_refuses_batches_without_class_scores(images, name):
    with pytest.raises(ValueError, match=r"class scores.*features_are_logits=True"):
        score(metrics=("logme", name)).update(*images[:2])


def test_refuses_features_of_other_channels_than_it_was_told(images):
    score(num_features=D).update(*images)
    with pytest.raises(ValueError, match=f"features of {D} channels, not of num_features=7"):
        score(num_features=7).update(*images)


def test_refuses_labels_on_another_device(images):
    with pytest.raises(ValueError, match="labels on meta: put them on one device"):
        score().update(images[0], images[1].to("meta"))


@every_maker
def test_refuses_to_compute_without_a_pixel(make):
    metric = make()
    before = pytest.warns(UserWarning, match="before the ``update`` method")
    with before, pytest.raises(ValueError, match=f"{type(metric).__name__} has seen no pixel"):
        metric.compute()


def wider(tensor):
    return torch.cat([tensor, tensor], 1)


REFUSED = {
    "features": (lambda x, y, z: (wider(x), y, z), f"{2 * D} channels, those before had {D}"),
    "logits": (lambda x, y, z: (x, y, wider(z)), f"{2 * Z} channels, those before had {Z}"),
    "labels": (lambda x, y, z: (x, y.clamp(max=K), z), f"label {K} on .* pixels"),
}


@pytest.mark.parametrize(("batch", "word"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("call", ["update", "forward"])
def test_a_batch_that_is_refused_leaves_no_trace(images, batch, word, call):
    first, second, third = batches(images, 1, 3)
    metric = updated(score(metrics=ONE_PASS), [first])
    with pytest.raises(ValueError, match=word):
        getattr(metric, call)(*batch(*second))
    assert_equal(values(metric), values(updated(score(metrics=ONE_PASS), [first])))
    assert_equal(values(updated(metric, [third])), values(updated(score(metrics=ONE_PASS), [first, third])))


@pytest.mark.slow
@every_way
def test_forward_gives_the_batch_and_adds_it(images, options):
    forward, update, seen = score(**options), score(**options), 0
    for features, labels, logits in batches(images, 1, 3):
        pixels = Pixels(features, labels, logits, offset=seen)  # a pixel is drawn by its place in the whole stream
        alone = Scorer(num_classes=K, **options)(iter([pixels]))
        of_batch = forward(features, labels, logits)
        assert {name: value.item() for name, value in of_batch.items()} == pytest.approx(
            {name: value.score for name, value in alone.items()}, rel=1e-10
        )
        update.update(features, labels, logits)
        seen += labels.numel()
        assert_equal(values(forward), values(update))
    assert forward.update_count == 3


def test_forward_of_a_map_gives_the_batch_and_adds_it(images):
    metric = make_map()
    for batch in batches(images[:2], 2):
        assert_close(metric(*batch).values, values(updated(make_map(), [batch])), equal_nan=True)
    assert_equal(values(metric), values(updated(make_map(), [images[:2]])))


@every_way
def test_reset_makes_it_fresh(images, options):
    metric = updated(score(**options), batches(images, 2))
    metric.compute()
    metric.reset()
    assert not metric.update_called
    assert not tensors(metric)
    first = batches(images, 3)[:1]
    assert_equal(values(updated(metric, first)), values(updated(score(**options), first)))


def test_what_was_computed_is_kept_until_the_next_batch(images):
    metric = updated(score(), batches(images, 2)[:1])
    first = metric.compute()
    assert metric.compute() is first
    metric.update(*images)
    assert metric.compute()["logme"] != first["logme"]


def test_what_was_computed_is_not_kept_over_loading(images):
    metric, other = (updated(score(), [batch]) for batch in batches(images, 2))
    first = values(metric)
    other.persistent(True)
    metric.load_state_dict(other.state_dict())
    assert_equal(values(metric), values(other))
    assert values(metric) != first


def test_metrics_of_parts_merge(images):
    first, second, third = batches(images, 1, 3)
    metric, other = updated(score(metrics=ONE_PASS), [first]), updated(score(metrics=ONE_PASS), [second])
    metric.merge_state(other)
    metric.merge_state(updated(score(metrics=ONE_PASS), [third]).metric_state)
    assert_equal(values(metric), values(updated(score(metrics=ONE_PASS), [images])))
    assert_equal(values(other), values(updated(score(metrics=ONE_PASS), [second])))


def test_maps_of_parts_merge(images):
    metric, other = (updated(make_map(), [batch]) for batch in batches(images[:2], 2))
    metric.merge_state(other)
    assert_equal(values(metric), values(updated(make_map(), [images[:2]])))


def test_what_was_computed_is_not_kept_over_merging(images):
    metric, other = (updated(score(), [batch]) for batch in batches(images, 2))
    metric.compute()
    metric.merge_state(other)
    assert_equal(values(metric), values(updated(score(), [images])))


def test_merges_into_a_fresh_metric(images):
    metric = score()
    metric.merge_state(updated(score(), [images]))
    assert_equal(values(metric), values(updated(score(), [images])))


def reloaded(state):
    """A state dict, by way of a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_maker
def test_a_checkpoint_holds_statistics_where_asked(images, make):
    metric = updated(make(), [images])
    assert not metric.state_dict()
    metric.persistent(True)
    assert metric.state_dict()
    metric.persistent(False)
    assert not metric.state_dict()


@pytest.mark.parametrize("make", [lambda o=o: score(**o) for o in WAYS.values()] + [make_map], ids=[*WAYS, "a map"])
def test_goes_on_from_a_checkpoint_as_if_nothing_had_happened(images, make):
    stream = batches(images, 1, 3)
    metric = updated(make(), stream[:2])
    metric.persistent(True)
    restored = make()
    restored.load_state_dict(reloaded(metric.state_dict()))
    assert_equal(values(restored), values(metric))
    assert_equal(values(updated(restored, stream[2:])), values(updated(make(), stream)))


def test_loading_replaces_what_was_there(images):
    metric, other = (updated(score(), [batch]) for batch in batches(images, 2))
    other.persistent(True)
    state = other.state_dict()
    metric.load_state_dict(state)
    assert_equal(values(metric), values(other))
    assert state.keys() == other.state_dict().keys()


class Model(nn.Module):
    """A model with a metric among its layers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.metric = score(metrics=ONE_PASS)


def test_is_saved_with_the_module_that_holds_it(images):
    model, other = Model(), Model()
    assert model.state_dict().keys() == {"layer.weight", "layer.bias"}
    updated(model.metric, [images]).persistent(True)
    other.load_state_dict(reloaded(model.state_dict()))
    assert_equal(values(other.metric), values(model.metric))
    assert torch.equal(other.layer.weight, model.layer.weight)


@pytest.mark.parametrize("key", ["metric.spare", "spare", "layer.spare"])
def test_a_foreign_key_is_told(images, key):
    model = Model()
    updated(model.metric, [images]).persistent(True)
    with pytest.raises(RuntimeError, match=f'Unexpected key.* "{key}"'):
        Model().load_state_dict(model.state_dict() | {key: torch.zeros(1)})


def test_a_foreign_field_of_a_statistic_is_told(images):
    metric = updated(score(), [images])
    metric.persistent(True)
    with pytest.raises(ValueError, match=r"not the state of Moments: .*unknown \['spare'\]"):
        score().load_state_dict(metric.state_dict() | {"Moments(features).spare": torch.zeros(1)})


@pytest.mark.parametrize(
    ("metrics", "word"),
    [
        (("nce",), r"Unexpected key.*Moments\(features\)"),
        (("logme", "nce"), r"Missing key.*JointMass\(logits, hard=True\)"),
    ],
)
def test_a_checkpoint_of_other_metrics_is_told(images, metrics, word):
    metric = updated(score(metrics=("logme",)), [images])
    metric.persistent(True)
    with pytest.raises(RuntimeError, match=f"(?s){word}"):
        score(metrics=metrics).load_state_dict(metric.state_dict())


COPIES = {
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
    "deepcopy": copy.deepcopy,
    "clone": lambda metric: metric.clone(),
}


@pytest.mark.slow
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("computed", [False, True])
@every_maker
def test_a_copy_goes_on_by_itself(images, make, computed, copied):
    first, second = batches(images, 2)
    metric = updated(make(), [first])
    if computed:
        metric.compute()
    other = copied(metric)
    assert_equal(values(other), values(metric))
    assert_equal(values(updated(other, [second])), values(updated(make(), [images])))
    assert_equal(values(metric), values(updated(make(), [first])))


def test_a_copy_of_a_fresh_metric_is_fresh(images):
    for copied in COPIES.values():
        assert_equal(values(updated(copied(score()), [images])), values(updated(score(), [images])))


def collection(**options):
    metrics = {
        "a": score(),
        "b": score(sampling=Sampling(num_pixels=40)),
        "c": score(metrics=("logme",)),
        "map": make_map(),
    }
    return MetricCollection(metrics, **options)


def result(metrics):
    """What a collection computes, as numbers."""
    return {name: value.values if isinstance(value, ScoreMap) else value for name, value in metrics.items()}


def test_a_collection_computes_each_as_if_alone(images):
    metrics = collection(prefix="val_")
    for batch in batches(images[:2], 1, 3):
        metrics.update(*batch)
    scores = metrics.compute()
    assert len(metrics.compute_groups) == 4
    alone = updated(score(), batches(images[:2], 1, 3)).compute()
    assert_close(scores["val_a_logme"], alone["logme"])
    assert_close(scores["val_a_hscore"], alone["hscore"])
    assert_close(
        scores["val_b_logme"], updated(score(sampling=Sampling(num_pixels=40)), [images[:2]]).compute()["logme"]
    )
    assert_close(scores["val_c_logme"], alone["logme"])
    assert_close(scores["val_map"].values, values(updated(make_map(), [images[:2]])), equal_nan=True)


def test_a_collection_forwards_and_resets(images):
    metrics = collection()
    first, second = batches(images[:2], 2)
    expected = collection()
    expected.update(*first)
    assert_close(metrics(*first)["a_logme"], expected.compute()["a_logme"])
    metrics(*second)
    expected.update(*second)
    for name, value in result(expected.compute()).items():
        assert_close(result(metrics.compute())[name], value, equal_nan=True)
    metrics.reset()
    assert not any(tensors(metric) for metric in metrics.values())


def test_a_collection_hands_each_metric_the_tensors_that_it_takes(images):
    metrics = MetricCollection([score(metrics=ONE_PASS)])
    metrics.update(features=images[0], labels=images[1], logits=images[2], spare=1)
    expected = values(updated(score(metrics=ONE_PASS), [images]))
    assert {name: value.item() for name, value in metrics.compute().items()} == expected


@every_maker
def test_says_what_it_is(make):
    metric = make()
    assert metric.higher_is_better
    assert not metric.is_differentiable
    assert metric.full_state_update is False


@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.bfloat16(),
        lambda module: module.half(),
        lambda module: module["metric"].set_dtype(torch.float16),
    ],
    ids=["to", "bfloat16", "half", "set_dtype"],
)
@every_maker
def test_keeps_its_precision_whatever_becomes_of_the_module_around_it(images, make, convert):
    first, second = batches(images, 2)
    module = nn.ModuleDict({"metric": updated(make(), [first]), "layer": nn.Linear(2, 2)})
    module["metric"].compute()
    before = [tensor.dtype for tensor in tensors(module["metric"])]
    convert(module)
    assert [tensor.dtype for tensor in tensors(module["metric"])] == before
    assert_equal(values(updated(module["metric"], [second])), values(updated(make(), [images])))


@every_way
def test_moves_with_the_module_that_holds_it(images, options):
    metric = updated(score(**options), [images])
    nn.ModuleDict({"metric": metric}).to("meta")
    assert {part.device.type for part in parts(metric)} == {metric.device.type} == {"meta"}


@pytest.mark.parametrize("inside", [0, 1])
@every_maker
def test_updates_inside_and_outside_of_inference_mode(images, make, inside):
    metric = make()
    for number, batch in enumerate(batches(images, 1, 2, 3)):
        with torch.inference_mode(number % 2 == inside):
            metric.update(*batch)
    assert_equal(values(metric), values(updated(make(), [images])))


@every_maker
def test_autocast_changes_nothing(images, device, make):
    metric, expected = make(), updated(make(), batches(images, 2))
    with torch.autocast(device.type, torch.bfloat16):
        actual = values(updated(metric, batches(images, 2)))
    torch.testing.assert_close(actual, values(expected), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("call", ["update", "forward"])
@every_maker
def test_holds_no_graph(images, make, call):
    metric = make()
    for _ in range(2):
        getattr(metric, call)(images[0].clone().requires_grad_() * 2, images[1], images[2].clone().requires_grad_() * 2)
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in tensors(metric))


@pytest.mark.slow
def test_what_it_holds_does_not_grow_with_the_pixels(device):
    metric, held = score(metrics=("logme", "leep"), stream_pixels=50, features_are_logits=True), []
    for seed in range(200):
        metric.update(*random_images(1, Z, 2, 4, classes=K, device=device, seed=seed))
        held.append(sum(part.numel for part in parts(metric)))
    full = sum(running.total.numel for running in metric.metric_state["_running"].values())
    assert max(held) < 2 * full


@pytest.mark.parametrize("metric", ["logme", HScore(softmax=True), "regularized_hscore", "nce"])
@pytest.mark.parametrize("options", [{"patch_size": 4}, {"patch_size": (4, 6), "stride": (2, 3)}])
def test_map_is_that_of_all_images(images, metric, options):
    score_map = updated(make_map(metric, **options), batches(images, 1, 3)).compute()
    expected = torch_trf.transferability_map(metric, *images, num_classes=K, **options)
    assert_close(score_map.values, expected.values, equal_nan=True)
    assert torch.equal(score_map.valid, expected.valid)
    assert torch.equal(score_map.count, expected.count)
    for name in ("metric", "unit", "patch_size", "stride", "image_size"):
        assert getattr(score_map, name) == getattr(expected, name)


def test_options_of_a_map_are_those_of_a_mapper():
    options = {"stride": 2, "ignore_index": 7, "min_pixels": 3, "fill_value": -1.0}
    metric = make_map(LogME(absent_classes="include"), **options)
    assert metric.mapper == Mapper(metric=LogME(absent_classes="include"), patch_size=4, num_classes=K, **options)


def test_map_of_features_that_are_logits(images):
    score_map = updated(make_map("nce", features_are_logits=True), [images[:2]])
    assert_equal(values(score_map), values(updated(make_map("nce"), [(images[0], images[1], images[0])])))


def test_map_on_the_grid_that_is_chosen(images):
    labels = images[1]
    features = torch.randn(B, D, H // 2, W // 2, device=labels.device)
    at_labels = nn.functional.interpolate(features, (H, W), mode="bilinear")
    for options, pixels in (({}, (features, labels[:, 1::2, 1::2])), ({"grid": "labels"}, (at_labels, labels))):
        actual = values(updated(make_map(**options), batches((features, labels), 2)))
        expected = torch_trf.transferability_map("logme", *pixels, patch_size=4, num_classes=K)
        assert_close(actual, expected.values, equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"metric": "leep"}, "leep looks at pixels twice or at two data sets: map it by torch_trf.Mapper"),
        ({"metric": "otce"}, "otce looks at pixels twice or at two data sets: map it by torch_trf.Mapper"),
        ({"metric": "leap"}, "'leap' is none of .*leep"),
        ({"metric": "knn"}, "metric: 'knn' has no map"),
        ({"patch_size": 0}, "patch_size must be at least 1 pixel"),
        ({"pool": "image"}, "TransferabilityMap: Unexpected keyword arguments: `pool`"),
        ({"first_look": "patch"}, "TransferabilityMap: Unexpected keyword arguments: `first_look`"),
    ],
)
def test_map_refuses_options(arguments, word):
    with pytest.raises(ValueError, match=word):
        make_map(**arguments)


@pytest.mark.parametrize("call", ["update", "forward"])
def test_map_refuses_images_of_another_size(images, call):
    metric = updated(make_map(), [images])
    other = random_images(1, D, H + 1, W, classes=K, device=images[0].device)  # of as many patches
    with pytest.raises(ValueError, match=f"images of {H + 1} x {W} pixels, those before had {H} x {W}"):
        getattr(metric, call)(*other)


def test_maps_of_images_of_another_size_do_not_merge(images):
    metric = updated(make_map(), [images])
    other = updated(make_map(), [random_images(1, D, H + 1, W, classes=K, device=images[0].device)])
    with pytest.raises(ValueError, match=f"{H + 1} x {W} pixels"):
        metric.merge_state(other)


COMPILED = """
import torch
from torch_trf import ScoreMap, Scorer
from torch_trf.pixels import Pixels
from torch_trf.statistics import JointMass, Moments, PixelSample

scorer = Scorer(metrics=("logme", "leep", "nce"), num_classes=3)

def look(features, labels, logits, offset):
    moments = Moments.from_pixels(features, labels, num_classes=3)
    mass = JointMass.from_pixels(logits, labels, num_classes=3)
    sample = PixelSample.from_pixels(features, labels, size=9, num_classes=3, num_repeats=2, offset=offset)
    return {"a": moments, "b": mass, "c": sample}

def look_for_scores(features, labels, logits, offset):
    return scorer.statistics(Pixels(features, labels, logits, offset=offset))

for function in (look, look_for_scores):
    def update(totals, *pixels):
        return {name: totals[name] + statistic for name, statistic in function(*pixels).items()}

    batches = [(torch.randn(2, 5, 4, 6), torch.randint(0, 3, (2, 4, 6)), torch.randn(2, 4, 4, 6)) for _ in range(3)]
    actual = expected = function(*batches[0], 0)
    compiled = torch.compile(update, fullgraph=True, backend="eager")
    for offset, batch in ((48, batches[1]), (96, batches[2])):
        actual, expected = compiled(actual, *batch, offset), update(expected, *batch, offset)
    for name, statistic in expected.items():
        torch.testing.assert_close(actual[name].state(), statistic.state(), rtol=0, atol=0)
    batches[2][1][0, 0, :2] = 99
    for statistic in compiled(actual, *batches[2], 144).values():
        try:
            statistic.faults.check(3, 255)
        except ValueError as error:
            print(error)
"""


@pytest.mark.slow
def test_updates_compile_without_a_graph_break(tmp_path):
    """In an interpreter of its own: where signatures are checked nothing compiles whole."""
    done = run_python(COMPILED, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["label 99 on 2 pixels: outside [0, 3) and not ignore_index=255"] * 7


def test_a_source_that_no_metric_reads_is_let_be(images, source):
    assert_equal(values(updated(score(source=source), [images])), values(updated(score(), [images])))


def test_class_scores_beside_features_that_are_class_scores_are_an_error(images):
    with pytest.raises(ValueError, match="the features are the class scores, and others were given"):
        score(features_are_logits=True).update(*images)


def test_the_state_of_a_fresh_metric_makes_another_fresh(images):
    fresh, metric = score(), updated(score(), [images])
    fresh.persistent(True)
    metric.load_state_dict(fresh.state_dict())
    assert not tensors(metric)
    assert_equal(values(updated(metric, [images])), values(updated(score(), [images])))


@pytest.mark.parametrize("key", ["height", "num_classes", "Moments(features).origin"])
def test_a_state_that_lacks_something_is_told(images, key):
    metric = updated(score(), [images])
    metric.persistent(True)
    state = metric.state_dict()
    del state[key]
    with pytest.raises((RuntimeError, ValueError), match=rf"[Mm]issing.*{key.rpartition('.')[2]}"):
        score().load_state_dict(state)


def test_a_state_of_other_classes_is_told(images):
    metric = updated(score(), [images])
    metric.persistent(True)
    with pytest.raises(ValueError, match=f"statistics of {K} classes, not of num_classes={K + 3}"):
        score(num_classes=K + 3).load_state_dict(metric.state_dict())


@pytest.mark.parametrize(("patch_size", "stride"), [(3, 5), (4, 2)])
def test_bad_pixels_are_told_wherever_they_lie_and_once(images, patch_size, stride):
    """As on a GPU, where updates do not raise; between patches, too."""
    features, labels, _ = images
    bad = labels.clone()
    bad[0, 4, 4] = 99
    metric = make_map(patch_size=patch_size, stride=stride)
    with patch.object(Faults, "check_on_cpu"):
        metric.update(features, bad)
    with pytest.raises(ValueError, match="label 99 on 1 pixels"):
        metric.compute()


EMPTY = torch.zeros(0, D, H, W), torch.zeros(0, H, W, dtype=torch.int64)


@every_maker
def test_a_batch_of_no_image_adds_nothing(images, make):
    metric = updated(make(), [EMPTY, *batches(images, 2), EMPTY])
    assert metric.update_count == 4
    assert_equal(values(metric), values(updated(make(), [images])))
    with pytest.raises(ValueError, match="has seen no pixel"):
        updated(make(), [EMPTY]).compute()


def test_labels_without_features_are_told(images):
    with pytest.raises(ValueError, match=r"features \[0, 3, 8, 12\] and labels \[5, 8, 12\]"):
        score().update(EMPTY[0], images[1])


@pytest.mark.parametrize("metric", ["logme", LogME(), {"class_path": "logme"}])
def test_a_single_metric_gives_a_number(images, metric):
    single = updated(score(metrics=metric), batches(images, 2))
    assert_close(single.compute(), updated(score(metrics=[metric]), batches(images, 2)).compute()["logme"])
    assert_close(single(*images), updated(score(metrics="logme"), [images]).compute())


def test_wrappers_of_torchmetrics_take_a_single_metric(images):
    first, second = batches(images[:2], 2)
    of_first, of_all = (updated(score(metrics="logme"), each).compute() for each in ([first], [first, second]))
    extremes = updated(MinMaxMetric(score(metrics="logme")), [first])
    extremes.compute()
    extremes.update(*second)
    assert extremes.compute() == {"raw": of_all, "max": max(of_first, of_all), "min": min(of_first, of_all)}
    tracker = MetricTracker(score(metrics="logme"))
    for stream in ([first], [first, second]):
        tracker.increment()
        updated(tracker, stream)
    assert tracker.best_metric() == max(of_first, of_all).item()
    torch.manual_seed(0)
    drawn = updated(BootStrapper(score(metrics="logme"), num_bootstraps=3, raw=True), [images[:2]]).compute()["raw"]
    assert drawn.isfinite().all()
    assert len(drawn.unique()) == 3


def test_a_wrapper_that_cannot_see_the_statistics_is_told(images):
    window = updated(Running(score(), window=2), batches(images[:2], 2))
    with pytest.raises(TypeError, match=r"TransferabilityScore merges with its like alone; torchmetrics.wrappers.Run"):
        window.compute()


def test_what_was_restored_is_kept_apart_and_merged_once(images):
    """As where every rank restores one checkpoint."""
    first, second, third = batches(images, 1, 3)
    saved = updated(score(metrics=ONE_PASS), [first])
    saved.persistent(True)
    metric, other = score(metrics=ONE_PASS), score(metrics=ONE_PASS)
    for each, batch in ((metric, second), (other, third)):
        each.load_state_dict(saved.state_dict())
        updated(each, [batch])
    metric.merge_state(other)
    assert_equal(values(metric), values(updated(score(metrics=ONE_PASS), [images])))


def test_a_batch_unlike_what_was_restored_is_refused(images):
    metric, restored = updated(score(), [images]), score()
    metric.persistent(True)
    restored.load_state_dict(metric.state_dict())
    with pytest.raises(ValueError, match=f"{2 * D} channels, those before had {D}"):
        restored.update(wider(images[0]), images[1])
    assert_equal(values(restored), values(metric))


def test_what_was_restored_moves_with_the_metric(images):
    metric, restored = updated(score(), [images]), score()
    metric.persistent(True)
    restored.load_state_dict(metric.state_dict())
    restored.to("meta")
    (statistics,) = restored.metric_state["_restored"].values()
    assert {statistic.device.type for statistic in statistics.values()} == {"meta"}


@every_way
def test_another_default_device_changes_nothing(images, options):
    expected = updated(score(**options), batches(images, 2))
    with torch.device("meta"):
        metric = updated(score(**options), batches(images, 2))
        assert_equal(values(metric), values(expected))
        metric.persistent(True)
        state = metric.state_dict()
    restored = score(**options)
    restored.load_state_dict(state)
    assert_equal(values(restored), values(expected))
