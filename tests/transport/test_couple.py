"""Couplings: those that are known, what must not change it, what it proves of itself, what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf.metrics import METRICS
from torch_trf.transport import ConvergenceError, ConvergenceWarning, Sinkhorn, _auto, couple

from ..helpers import assert_close, random_pixels
from .cases import (
    CLASSES,
    CLOSE,
    NUM_CLASSES,
    SIZES,
    SOURCE_CLASSES,
    cast,
    every_kind,
    every_solver,
    every_solver_with,
    expected,
    random_label_cost,
    random_problem,
    shares,
    sides,
    sinkhorn,
    solve,
    stack,
)

some_examples = settings(max_examples=12)
every_batch = pytest.mark.parametrize("batch", [(), (2,), (1, 2)])


def assert_same(coupling, other):
    assert_close(coupling.mass, other.mass, **CLOSE)
    assert_close(coupling.cost, other.cost, **CLOSE)


def shuffled(count, seed=0):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


# Known couplings


@every_solver_with(epsilon=1e-4)
def test_a_cloud_and_a_permutation_of_it(solver, device):
    source_features, source_labels, _, target_labels = random_problem(25, 25, device=device)
    order = shuffled(25).to(device)
    features = source_features + 100 * torch.arange(25, device=device).unsqueeze(-1)  # nobody near another
    coupling = solve([features, source_labels, features[order], target_labels], solver)
    joint = torch.zeros(CLASSES, SOURCE_CLASSES, dtype=torch.float64, device=device)
    joint.index_put_((target_labels, source_labels[order]), joint.new_tensor(1 / 25), accumulate=True)
    assert_close(coupling.mass, joint)
    assert_close(coupling.cost, 0.0, atol=1e-6)


@pytest.mark.parametrize(("source_count", "target_count"), [(1, 9), (60, 60), (30, 45), (50, 20)])
def test_on_a_line_the_coupling_is_sorted(source_count, target_count, device):
    source, source_labels = random_pixels(source_count, 1, SOURCE_CLASSES, seed=1, device=device)
    target, target_labels = random_pixels(target_count, 1, CLASSES, seed=2, device=device)
    coupling = solve([source, source_labels, 3 * target + 7, target_labels])
    joint = torch.zeros(CLASSES, SOURCE_CLASSES, dtype=torch.float64)
    for piece in range(pieces := math.lcm(source_count, target_count)):
        i = source.flatten().argsort()[piece * source_count // pieces]
        j = target.flatten().argsort()[piece * target_count // pieces]
        joint[target_labels[j], source_labels[i]] += 1 / pieces
    assert_close(coupling.mass, joint)


@every_solver
def test_one_pixel_against_many_couples_all_of_them(solver, device):
    pixels = random_problem(1, 30, device=device)
    coupling = solve(pixels, solver)
    assert_close(coupling.mass[:, pixels[1][0]], shares(pixels[3], CLASSES))
    assert_close(coupling.cost, (pixels[0] - pixels[2]).square().sum(-1).mean())


def test_classes_that_are_not_given_are_those_of_the_labels(device):
    pixels = random_problem(device=device)
    pixels[1].clamp_(max=1)
    coupling = couple(**sides(pixels))
    assert_close(coupling.mass, solve(pixels).mass[:, :2])


# What must not change it


@pytest.mark.slow
@every_solver
@some_examples
@given(sizes=SIZES)
def test_order_of_pixels_does_not_matter(solver, sizes, device):
    pixels = random_problem(device=device, **sizes)
    source, target = (shuffled(sizes[side]).to(device) for side in ("source_count", "target_count"))
    moved = [pixels[0][source], pixels[1][source], pixels[2][target], pixels[3][target]]
    assert_same(solve(moved, solver), solve(pixels, solver))


@pytest.mark.slow
@every_solver
@some_examples
@given(sizes=SIZES, seed=st.integers(0, 100))
def test_numbers_of_classes_do_not_matter(solver, sizes, seed, device):
    source_features, source_labels, target_features, target_labels = random_problem(device=device, **sizes)
    source, target = shuffled(SOURCE_CLASSES, seed).to(device), shuffled(CLASSES, seed).to(device)
    coupling = solve([source_features, source[source_labels], target_features, target[target_labels]], solver)
    plain = solve([source_features, source_labels, target_features, target_labels], solver)
    assert_close(coupling.mass[target][:, source], plain.mass, **CLOSE)


@pytest.mark.slow
@every_solver
@some_examples
@given(sizes=SIZES)
def test_exchanging_sides_transposes(solver, sizes, device):
    pixels = random_problem(device=device, **sizes)
    forth = solve(pixels, solver)
    back = solve(pixels[2:] + pixels[:2], solver, num_classes=SOURCE_CLASSES, num_source_classes=CLASSES)
    assert_close(back.mass.T, forth.mass, **CLOSE)
    assert_close(back.cost, forth.cost, **CLOSE)


@pytest.mark.slow
@every_solver
@some_examples
@given(sizes=SIZES, padding=st.integers(1, 5), label=st.integers(-300, -1), value=st.sampled_from([math.nan, math.inf]))
def test_places_without_pixel_do_not_matter(solver, sizes, padding, label, value, device):
    pixels = random_problem(device=device, **sizes)
    padded = []
    for features, labels in (pixels[:2], pixels[2:]):
        order = shuffled(len(labels) + padding, padding).to(device)
        padded += [
            torch.cat([features, features.new_full((padding, features.shape[1]), value)])[order],
            torch.cat([labels, labels.new_full((padding,), label)])[order],
        ]
    assert_same(solve(padded, solver), solve(pixels, solver))


@every_solver
@every_batch
def test_leading_dimensions_are_independent(solver, batch, device):
    problems = [random_problem(device=device, seed=10 * i) for i in range(math.prod(batch))]
    for i, pixels in enumerate(problems):  # of unequal sizes and scales
        pixels[1][: 4 * i + 1], pixels[3][7 * i + 2 :: 3] = -1, -1
        pixels[0], pixels[2] = 10**i * pixels[0], 10**i * pixels[2]
    stacked = stack(problems)
    label_cost = torch.stack([random_label_cost(device, 10.0**i, seed=i) for i in range(len(problems))])
    coupling = solve(
        [t.reshape((*batch, *t.shape[1:])) for t in stacked],
        solver,
        label_cost=label_cost.reshape((*batch, *label_cost.shape[1:])),
    )
    alone = [solve(pixels, solver, label_cost=cost) for pixels, cost in zip(problems, label_cost, strict=True)]
    for name in ("mass", "cost", "epsilon"):
        parts = torch.stack([getattr(one, name) for one in alone])
        assert_close(getattr(coupling, name), parts.reshape((*batch, *parts.shape[1:])), **CLOSE)
    for name in ("duality_gap", "marginal_error", "iterations", "converged"):
        assert getattr(coupling, name).shape == batch


@every_solver
@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
def test_scale_changes_the_cost_alone(solver, scale, device):
    source_features, source_labels, target_features, target_labels = random_problem(device=device)
    plain = solve([source_features, source_labels, target_features, target_labels], solver)
    coupling = solve([scale * source_features, source_labels, scale * target_features, target_labels], solver)
    assert_close(coupling.mass, plain.mass, **CLOSE)
    for name in ("cost", "epsilon"):
        assert_close(getattr(coupling, name) / scale**2, getattr(plain, name), **CLOSE)
    assert_close(coupling.duality_gap / scale**2, plain.duality_gap, rtol=1e-6, atol=1e-9)


@every_solver
@pytest.mark.parametrize("offset", [-1e3, 1e3, 1e6])
def test_an_offset_changes_nothing(solver, offset, device):
    source_features, source_labels, target_features, target_labels = random_problem(device=device)
    coupling = solve([source_features + offset, source_labels, target_features + offset, target_labels], solver)
    assert_same(coupling, solve([source_features, source_labels, target_features, target_labels], solver))


def test_an_offset_of_one_side_changes_the_cost_alone(device):
    source_features, source_labels, target_features, target_labels = random_problem(device=device)
    plain = solve([source_features, source_labels, target_features, target_labels])
    coupling = solve([source_features, source_labels, target_features + 1e3, target_labels])
    assert_close(coupling.mass, plain.mass)
    apart = [
        (source_features.mean(0) - features.mean(0)).square().sum()
        for features in (target_features, target_features + 1e3)
    ]
    assert_close(coupling.cost - plain.cost, apart[1] - apart[0])


@every_solver
def test_gradients_are_neither_asked_for_nor_kept(solver, device):
    pixels, label_cost = random_problem(device=device), random_label_cost(device)
    before = [t.clone() for t in (*pixels, label_cost)]
    plain = solve(pixels, solver, label_cost=label_cost)
    for t in (pixels[0], pixels[2], label_cost):
        t.requires_grad_()
    coupling = solve(pixels, solver, label_cost=label_cost)
    assert_close(coupling.mass, plain.mass, rtol=0, atol=0)
    assert not any(getattr(coupling, name).requires_grad for name in ("mass", "cost", "duality_gap", "epsilon"))
    for t, other in zip((*pixels, label_cost), before, strict=True):
        assert torch.equal(t, other)


@every_solver_with(tolerance=1e-5)
def test_autocast_changes_nothing(solver, device):
    pixels = random_problem(device=device, dtype=torch.float32)
    plain = solve(pixels, solver)
    with torch.autocast(device.type, torch.bfloat16):
        coupling = solve(pixels, solver)
        assert torch.is_autocast_enabled(device.type)
    assert_close(coupling.mass, plain.mass, rtol=0, atol=0)


@every_solver_with(tolerance=1e-5)
def test_single_precision_is_near_double(solver, device):
    single = random_problem(device=device, dtype=torch.float32)
    double = cast(single, torch.float64)
    coupling, other = (solve(pixels, solver) for pixels in (single, double))
    assert_close(coupling.mass, other.mass, rtol=1e-4, atol=1e-5)
    assert coupling.mass.dtype == coupling.cost.dtype == torch.float64


# What it proves of itself


@every_kind
@pytest.mark.parametrize("epsilon", [1.0, 0.03])
@pytest.mark.parametrize("tolerance", [0.5, 1e-3])
def test_margins_and_bounds_of_an_unfinished_coupling(kind, epsilon, tolerance, device):
    pixels = random_problem(device=device, kind=kind)
    exact = solve(pixels)
    coupling = solve(pixels, sinkhorn(epsilon=epsilon, tolerance=tolerance))
    assert (coupling.mass >= 0).all()
    assert_close(coupling.mass.sum(0), shares(pixels[1], SOURCE_CLASSES), rtol=0, atol=1e-12)
    assert_close(coupling.mass.sum(1), shares(pixels[3], CLASSES), rtol=0, atol=1e-12)
    rounding = 1e-9 * coupling.epsilon / epsilon
    assert -rounding <= coupling.cost - exact.cost <= coupling.duality_gap + rounding
    assert coupling.marginal_error <= tolerance
    assert coupling.converged
    assert coupling.solver == "sinkhorn"


@pytest.mark.parametrize("label_cost_scale", [0.0, 5.0])
def test_relative_epsilon_is_a_share_of_the_mean_cost(label_cost_scale, device):
    pixels, label_cost = random_problem(device=device), random_label_cost(device, label_cost_scale)
    relative = solve(pixels, sinkhorn(epsilon=0.02), label_cost=label_cost)
    costs = torch.cdist(pixels[0], pixels[2]).square() + label_cost[pixels[3]][:, pixels[1]].T
    assert_close(relative.epsilon, 0.02 * costs.mean())
    absolute = solve(pixels, sinkhorn(epsilon=relative.epsilon.item(), relative_epsilon=False), label_cost=label_cost)
    assert_same(absolute, relative)
    assert_close(absolute.epsilon, relative.epsilon)


def test_absolute_epsilon_is_that_of_every_problem(device):
    problems = [random_problem(device=device), random_problem(device=device, kind="grid")]
    coupling = solve(stack(problems), sinkhorn(epsilon=2.0, relative_epsilon=False))
    assert_close(coupling.epsilon, [2.0, 2.0])
    for mass, pixels in zip(coupling.mass, problems, strict=True):
        assert_close(mass, expected(pixels, epsilon=2.0)[0], **CLOSE)


@pytest.mark.parametrize("epsilon", [1e-20, 1e-100, 1e-300])
@pytest.mark.parametrize("relative_epsilon", [True, False])
def test_epsilon_beyond_double_precision_is_an_error(epsilon, relative_epsilon, device):
    with pytest.raises(ValueError, match=f"epsilon.*{epsilon:g}"):
        solve(random_problem(device=device), sinkhorn(epsilon=epsilon, relative_epsilon=relative_epsilon))


def test_on_the_cpu_small_problems_are_solved_exactly(device, monkeypatch):
    pixels = random_problem(20, 25, device=device)
    pixels[3][:5] = -1  # 20 pixels a side
    for most, solver in ((20, "exact" if device.type == "cpu" else "sinkhorn"), (19, "sinkhorn")):
        monkeypatch.setattr(_auto, "EXACT_PIXELS", most)
        assert solve(pixels, "auto").solver == solver


@every_solver
@pytest.mark.parametrize("side", [1, 3])
@every_batch
def test_without_pixels_there_is_no_coupling(solver, side, batch, device):
    problems = [random_problem(device=device, seed=10 * i) for i in range(math.prod(batch))]
    problems[-1][side][:] = -1
    problems[-1][side - 1][:] = torch.nan
    pixels = [t.reshape((*batch, *t.shape[1:])) for t in stack(problems)]
    coupling = solve(pixels, solver)
    empty = (-1,) * len(batch)
    assert not coupling.mass[empty].any()
    assert coupling.converged.all()
    scores = METRICS["otce"].score(coupling)
    for value in (coupling.cost, coupling.duality_gap, coupling.epsilon, scores):
        assert value[empty].isnan()
        assert value.isnan().sum() == 1


@every_solver
@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_where_it_is_asked_for(solver, progress, device, capsys):
    solve(random_problem(device=device), solver, progress=progress)
    shown = capsys.readouterr()
    assert ("coupling" in shown.err) == progress
    assert not shown.out


# What it refuses


@pytest.mark.parametrize("max_iterations", [1, 2, 10, 11, 25])
def test_too_few_iterations_are_a_warning_or_an_error(max_iterations, device):
    pixels = random_problem(device=device)
    options = {"epsilon": 0.001, "tolerance": 1e-6, "max_iterations": max_iterations}
    message = (
        rf"the coupling did not converge: after {max_iterations} Sinkhorn iterations at epsilon = 0.001 of the mean "
        r"cost the marginals are off by [\d.]+ in L1, more than the tolerance 1e-06"
    )
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        coupling = solve(pixels, Sinkhorn(**options))
    assert len(caught) == 1
    assert not coupling.converged
    assert coupling.iterations == max_iterations
    assert coupling.marginal_error > 1e-6
    assert_close(coupling.mass.sum(0), shares(pixels[1], SOURCE_CLASSES), rtol=0, atol=1e-12)
    with pytest.raises(ConvergenceError, match=message):
        solve(pixels, Sinkhorn(strict=True, **options))


def test_one_of_many_that_did_not_converge_is_counted(device):
    problems = [
        random_problem(device=device, kind=kind) for kind in ("one side identical", "random", "one side identical")
    ]
    with pytest.warns(ConvergenceWarning, match=r"1 of 3 couplings did not converge: after 2 .* epsilon = 0.1 the"):
        coupling = solve(
            stack(problems),
            Sinkhorn(epsilon=0.1, relative_epsilon=False, tolerance=0.01, max_iterations=2),
        )
    assert coupling.converged.tolist() == [True, False, True]


def bad(index, place, value):
    """A change of one of the four tensors in one place."""

    def change(pixels):
        pixels[index][place] = value
        return pixels

    return change


@pytest.mark.usefixtures("annotations_unchecked")
@every_solver
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad(0, (3, 1), torch.nan), "source features of 1 labeled pixels are NaN or infinite"),
        (bad(2, slice(2, 6), torch.inf), "target features of 4 labeled pixels are NaN or infinite"),
        (bad(2, slice(5), 1e200), "features are so large that their squared distances exceed double precision"),
        (bad(0, slice(5), -1.7e308), "features are so large that their squared distances exceed double precision"),
        (bad(1, 4, 3), r"source label 3 is outside \[0, 3\)"),
        (bad(3, 4, 255), r"target label 255 is outside \[0, 4\)"),
        (lambda p: [p[0][:, :2], *p[1:]], "source features of 2 channels, target features of 3"),
        (lambda p: [p[0], p[1][:-1], *p[2:]], r"source features \[30, 3\] and labels \[29\]"),
        (lambda p: [*p[:3], p[3][None]], r"target features \[40, 3\] and labels \[1, 40\]"),
        (
            lambda p: [p[0][None], p[1][None], *p[2:]],
            r"leading dimensions \[1\] of the source do not broadcast to those of the target, \[\]",
        ),
        (lambda p: [p[0][0, 0], p[1][0], *p[2:]], r"source features \[\] and labels \[\]"),
        (lambda p: [p[0][:0], p[1][:0], *p[2:]], r"source features \[0, 3\] and labels \[0\] hold no pixel"),
        (lambda p: [t[None][:0] for t in p], r"target features \[0, 40, 3\] and labels \[0, 40\] hold no pixel"),
        (
            lambda p: [p[0][:, :0], p[1], p[2][:, :0], p[3]],
            r"target features \[40, 0\] and labels \[40\] hold no pixel",
        ),
    ],
)
def test_bad_pixels_are_errors(solver, change, message, device):
    with pytest.raises(ValueError, match=message):
        solve(change(random_problem(device=device)), solver)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "simplex"}, "solver: 'simplex' is none of auto, exact, sinkhorn"),
        ({"num_classes": 0}, r"target label 3 is outside \[0, 0\)"),
        ({"label_cost": torch.zeros(3, 4)}, r"label_cost \[3, 4\] must be \[4, 3\]"),
        ({"label_cost": torch.zeros(1, 4, 3)}, r"label_cost \[1, 4, 3\] must be \[4, 3\]"),
    ],
)
def test_bad_options_are_errors(options, message, device):
    with pytest.raises(ValueError, match=message):
        couple(**sides(random_problem(device=device)), **NUM_CLASSES | options)


@every_solver
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_label_costs_that_are_none_are_errors(solver, value, device):
    label_cost = random_label_cost(device)
    label_cost[2, 1] = value
    with pytest.raises(ValueError, match="label_cost"):
        solve(random_problem(device=device), solver, label_cost=label_cost)


@every_solver
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integer_labels_of_any_type(solver, dtype, device):
    features = random_problem(300, 300, device=device)
    labels = [torch.arange(300, device=device) % count for count in (10, 40)]  # 40 * 10 does not fit into eight bits
    options = {"num_classes": 40, "num_source_classes": 10, "solver": solver}
    expected = couple(features[2], labels[1], source=(features[0], labels[0]), **options)
    coupling = couple(features[2], labels[1].to(dtype), source=(features[0], labels[0].to(dtype)), **options)
    assert_close(coupling.mass, expected.mass, rtol=0, atol=0)


@pytest.mark.usefixtures("annotations_unchecked")
@every_solver
def test_labels_that_are_no_integers_are_an_error(solver, device):
    pixels = random_problem(device=device)
    with pytest.raises(ValueError, match=r"target labels must be integers, not torch\.float64"):
        solve([*pixels[:3], pixels[3].double()], solver)
