"""Features that double precision can hardly carry: right all the same, or a warning that says what is wrong."""

import warnings

import pytest
import torch

import torch_trf
from torch_trf.metrics import METRICS, HScore

from ..helpers import assert_close, metrics_that, random_pixels
from ..references import precise

MASKED = torch.finfo(torch.float32).min


def with_constant(x, value):
    return torch.cat([x, torch.full_like(x[:, :1], value)], 1)


def with_value(x, place, value):
    x[place] = value
    return x


def grown(x, place, factor):
    x[place] *= factor
    return x


CARRIED = {
    "a masked class": lambda x: with_constant(x, -1e9),
    "a masked class in float32": lambda x: with_constant(x, MASKED),
    "two masked classes": lambda x: with_constant(with_constant(x, -1e9), MASKED),
    "channels of other scales": lambda x: grown(x, (slice(None), 1), 1e8),
    "a small channel": lambda x: grown(x, (slice(None), 1), 1e-30),
    "an offset": lambda x: x + 1e8,
    "a diverged value": lambda x: with_value(x, (7, 2), 1e10),
    "a diverged first value": lambda x: with_value(x, (0, 2), 1e10),
    "massive activations": lambda x: with_value(x, (slice(None, None, 10), 1), 15_000),
    "all small": lambda x: 1e-60 * x,
    "all large": lambda x: 1e60 * x,
    "every channel twice": lambda x: torch.cat([x, x], 1),
}
every_carried = pytest.mark.parametrize("change", CARRIED.values(), ids=CARRIED.keys())


def changed(change, device):
    features, labels = random_pixels(40, 3, 3, device="cpu")
    return change(features).to(device), labels.to(device)


@every_carried
@pytest.mark.parametrize("name", ["hscore", "knn", "leep", "logme", "regularized_hscore"])
def test_what_double_precision_carries_is_right(name, change, device):
    features, labels = changed(change, device)
    expected = getattr(precise, name)(features.cpu(), labels.tolist())
    assert_close(METRICS[name](features, labels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["hscore", "logme"])
@pytest.mark.parametrize("factor", [1e8, 1e10])
def test_a_pixel_that_diverges_in_every_channel_is_told(name, factor, device):
    features, labels = changed(lambda x: grown(x, 7, factor), device)
    with pytest.warns(UserWarning, match=rf"^{name}: .*root mean square of channel \d is \d\.\d+e\+0[789].*outliers"):
        METRICS[name](features, labels)


def test_channels_of_too_different_scales_are_told(device):
    features, labels = changed(lambda x: grown(x, (slice(None), 1), 1e20), device)
    with pytest.warns(UserWarning, match=r"^logme: double precision .*of channel 1 is \d\.\d+e\+[12][09]\): the"):
        torch_trf.logme(features, labels)


def test_shrinkage_that_rounding_takes_away_is_told(device):
    features, labels = changed(lambda x: with_value(x, (slice(None, None, 2), 1), MASKED), device)
    with pytest.warns(UserWarning, match=r"^regularized_hscore: double precision .*of channel 1 is 2\.\d+e\+38"):
        torch_trf.regularized_hscore(features, labels)


def test_directions_that_rcond_drops_are_told_where_classes_differ_in_them(device):
    features, labels = random_pixels(400, 4, 3, device=device)
    features[::100] += 15_000
    with pytest.warns(UserWarning, match=r"^hscore: rcond=1e-05 drops 3 of 4 directions.*give a smaller rcond$"):
        assert torch_trf.hscore(features, labels) < 0.1
    exact = precise.hscore(features.cpu(), labels.tolist(), rcond=1e-12)
    assert_close(HScore(rcond=1e-12)(features, labels), exact, rtol=1e-6)


def test_directions_without_classes_are_dropped_without_a_word(device):
    features, _ = random_pixels(400, 6, 1, device=device)
    features = (features * torch.logspace(0, -8, 6, dtype=torch.float64, device=device)) @ torch.linalg.qr(
        torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).Q.to(device)
    torch_trf.hscore(features, torch.arange(400, device=device) % 3)


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("hscore", 1e-160, "channel 0 varies by less than 1e-145, and .*to the power of 2: .*multiply the features"),
        ("regularized_hscore", 1e-90, "every channel varies by less than 3e-73, and .*to the power of 4"),
    ],
)
def test_features_whose_powers_vanish_are_told(name, scale, message, device):
    features, labels = changed(lambda x: scale * x, device)
    with pytest.warns(UserWarning, match=f"^{name}: {message}"):
        METRICS[name](features, labels)


@metrics_that(lambda metric: metric.looks[0].reads == "features" and not metric.draws)
@pytest.mark.parametrize("scale", [1e155, 1e300])
def test_features_whose_squares_overflow_are_an_error(metric, scale, device):
    features, labels = changed(lambda x: with_constant(scale * x, 1.0), device)
    with pytest.raises(ValueError, match=r"NaN or infinite|beyond double precision"):
        metric(features, labels)


def test_a_constant_whose_square_overflows_is_an_error(device):
    features, labels = changed(lambda x: with_constant(x, 1e200), device)
    with pytest.raises(ValueError, match="logme: the score is nan: the features, or powers of them, are beyond"):
        torch_trf.logme(features, labels)


@pytest.mark.parametrize("pool", ["dataset", "image"])
def test_a_map_warns_once(pool, device):
    features, labels = random_pixels(2 * 64 * 64, 3, 3, device=device)
    features[::40] *= 1e9
    images = features.reshape(2, 64, 64, 3).permute(0, 3, 1, 2), labels.reshape(2, 64, 64)
    with pytest.warns(UserWarning, match="^logme: double precision has too few digits") as told:
        torch_trf.transferability_map("logme", *images, patch_size=4, stride=2, pool=pool)
    assert len(told) == 1


def test_a_stream_warns_as_tensors_do(device):
    features, labels = changed(lambda x: grown(x, 7, 1e10), device)
    with pytest.warns(UserWarning, match="outliers") as told:
        torch_trf.Scorer(metrics=("logme", "hscore"), num_classes=3)([(features, labels)])
    assert sorted(str(warning.message).partition(":")[0] for warning in told) == ["hscore", "logme"]


KINDS = {
    "after a ReLU": lambda x: x.relu(),
    "in half precision": lambda x: x.half(),
    "in hundreds": lambda x: 100 * x + 100,
    "of a linear map to more channels": lambda x: x @ x[:8].T.float(),
    "probabilities": lambda x: (3 * x).softmax(1),
    "saturated probabilities": lambda x: (300 * x).softmax(1),
    "of dead channels": lambda x: torch.cat([x, 0 * x], 1),
    "of graded channels": lambda x: x * torch.logspace(2, -2, 8, device=x.device),
    "of one massive channel": lambda x: grown(x, (slice(None), 3), 300),
    "one-hot": lambda x: torch.nn.functional.one_hot(x.argmax(1)).float(),
    "of few pixels": lambda x: x[:6],
}


@pytest.mark.parametrize("change", KINDS.values(), ids=KINDS.keys())
@metrics_that(lambda metric: metric.looks[0].reads == "features" and not metric.needs_source)
def test_ordinary_features_are_scored_without_a_word(metric, change, device):
    features, labels = random_pixels(2000, 8, 4, dtype=torch.float32, device=device)
    features = change(features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metric(features, labels[: len(features)]).isfinite()


def test_wide_features_of_low_rank_are_scored_without_a_word(device):
    features, labels = random_pixels(1000, 20, 4, dtype=torch.float32, device=device)
    to_many = torch.randn(20, 256, generator=torch.Generator().manual_seed(0)).to(device)
    narrow, _ = torch.linalg.qr(to_many.T.double())  # a rotation, which LogME does not see
    wide = 25 * features @ to_many
    assert_close(torch_trf.logme(wide, labels), torch_trf.logme(wide.double() @ narrow, labels), rtol=1e-6)


def test_directions_are_dropped_of_a_single_class_without_a_word(device):
    probabilities = random_pixels(100, 6, 1, device=device)[0].softmax(1)
    assert torch_trf.hscore(probabilities, torch.zeros(100, dtype=torch.int64, device=device)) == pytest.approx(0)


def test_a_dropped_direction_beside_a_constant_channel_is_told(device):
    features, labels = random_pixels(400, 6, 3, device=device)
    features[::100, :2] += 15_000
    with pytest.warns(UserWarning, match="^hscore: rcond=1e-05 drops 2 of 7 directions"):
        torch_trf.hscore(with_constant(features, 1.0), labels)
