"""Checks every CUDA path against the CPU and times it; needs a GPU with 16 GB or more and the built extension.

Maps are timed at the size of the published data set, 174 images of 19 channels and 512 x 1,024 pixels, or with as many
images as fit into half of the memory. Couplings by Sinkhorn need geomloss, the largest of them pykeops; what is
missing, or does not fit into memory, is left out, and the report says so.

pip install --no-build-isolation -e . && python benchmarks/device.py [--output benchmarks/results/FILE.md]
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
from timing import medians, table

import torch_trf
from torch_trf import Sampling, Scorer, transferability_map
from torch_trf._ops import (
    MOST_CHANNELS,
    eigenbasis,
    logme_evidence,
    patch_joint_mass,
    patch_log_likelihood,
    patch_moments,
)
from torch_trf.metrics._logme import EPSILON, MAX_ITERATIONS, TOLERANCE
from torch_trf.pixels import on_one_grid
from torch_trf.statistics import JointMass, LogLikelihood, Moments, PixelSample, Running
from torch_trf.transport import Coupling, Sinkhorn, couple

NUM_CLASSES = 11
FEATURES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LABELS = (torch.int64, torch.int32, torch.uint8)
MAPS = ("leep", "nce", "logme", "hscore", "regularized_hscore")
PUBLISHED = (174, 19, 512, 1024)  # images, channels, height and width
PUBLISHED_CLASSES = 19
SOURCE_IMAGES = 20  # beside the published target images, in a map of OTCE
REPEATS, SAMPLE = 10, 10_000  # samples and pixels a side; converged in 5 s is the goal
MAP_GOAL, SAMPLE_GOAL = 60, 5  # seconds
LARGE_SAMPLE = 100_000  # whose pairs fit into no memory


def images(batch: int, channels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that tell something of their labels; some pixels ignored, features there NaN."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES, (batch, height, width), generator=generator)
    means = torch.randn(NUM_CLASSES, channels, generator=generator)
    noise = torch.randn(batch, channels, height, width, generator=generator)
    features = means[labels].movedim(-1, 1) + noise
    labels[:, ::7] = 255
    return features.masked_fill((labels == 255).unsqueeze(1), torch.nan), labels


def check(
    expected: tuple[torch.Tensor, ...], run: Callable[[], tuple[torch.Tensor, ...]], what: str, **tolerance
) -> None:
    """The GPU gives what the CPU gives, and the same bits twice."""
    results, again = run(), run()
    for left, right, repeat in zip(expected, results, again, strict=True):
        torch.testing.assert_close(right.cpu(), left, equal_nan=True, msg=lambda text: f"{what}: {text}", **tolerance)
        assert torch.equal(right.nan_to_num(), repeat.nan_to_num()), f"{what}: not the same bits twice"


def check_pixel_kernels() -> int:
    """The kernels that read pixels: dtypes, strides, cells and patches, pooling, faults."""
    checks = 0
    for channels in (1, 5, 19, 33, 130):
        features, labels = images(2, channels, 41, 37)
        labels[0, 1, :3], labels[1, 1, 0] = 99, -4
        features[1, 0, 1, 5] = torch.inf
        for feature_type, label_type in [(f, torch.int64) for f in FEATURES] + [(torch.float32, lab) for lab in LABELS]:
            kept = labels.where(labels >= 0, 98) if label_type == torch.uint8 else labels
            cpu = features.to(feature_type), kept.to(label_type)
            # Half-precision pixels are multiplied, and their logits softened, in float32.
            half = feature_type in (torch.float16, torch.bfloat16)
            tolerance = {"rtol": 1e-5, "atol": 1e-4} if half else {"rtol": 1e-10, "atol": 1e-9}
            for layout in (torch.contiguous_format, torch.channels_last):
                gpu = cpu[0].cuda().contiguous(memory_format=layout), cpu[1].cuda()
                for cell in ((41, 37), (4, 4), (7, 5)):
                    for pool_batch in (True, False):
                        options = (NUM_CLASSES, *cell, pool_batch, 255)
                        what = f"{channels} channels, {feature_type}, {label_type}, {layout}, {options}"
                        check(patch_moments(*cpu, *options), partial(patch_moments, *gpu, *options), what, **tolerance)
                        for hard in (True, False):
                            expected = patch_joint_mass(*cpu, *options, hard)
                            check(expected, partial(patch_joint_mass, *gpu, *options, hard), what, **tolerance)
                        for stride in (cell, (3, 2)):
                            patches = (*cell, *stride, pool_batch, 255)
                            p = conditional(labels, channels, *patches[:5])
                            expected = patch_log_likelihood(*cpu, p, *patches)
                            run = partial(patch_log_likelihood, *gpu, p.cuda(), *patches)
                            check(expected, run, f"{what}, stride {stride}", **tolerance)
                        checks += 5
    rows, labels = torch.randn(100_000, 12), torch.randint(0, NUM_CLASSES, (100_000,))  # several chunks
    for statistic in (Moments, JointMass):

        def built(features: torch.Tensor, labels: torch.Tensor, kind: type = statistic) -> tuple[torch.Tensor, ...]:
            return tuple(kind.from_pixels(features, labels, num_classes=NUM_CLASSES).state().values())

        check(built(rows, labels), partial(built, rows.cuda(), labels.cuda()), "several chunks", rtol=1e-10, atol=1e-7)
    return checks + 2


def conditional(
    labels: torch.Tensor, channels: int, height: int, width: int, step_down: int, step_right: int, pool_batch: bool
) -> torch.Tensor:
    """Some p(y|z) for every patch."""
    rows, columns = (labels.shape[1] - height) // step_down + 1, (labels.shape[2] - width) // step_right + 1
    batch = () if pool_batch else (len(labels),)
    generator = torch.Generator().manual_seed(1)
    mass = torch.rand(*batch, rows, columns, NUM_CLASSES, channels, generator=generator, dtype=torch.float64)
    return mass / mass.sum(-2, keepdim=True)


def check_solvers() -> int:
    """Eigenvalues, squared coordinates and LogME's fixed point, over the sizes that the kernels take."""
    checks = 0
    for channels in (1, 2, 5, 12, 19, 20, 32, 33, 48, MOST_CHANNELS["cuda"], 96):
        generator = torch.Generator().manual_seed(channels)
        pixels = torch.randn(70, 2 * channels, channels, generator=generator, dtype=torch.float64)
        matrix, rows = pixels.mT @ pixels, pixels[:, :NUM_CLASSES].contiguous()
        (values, coordinates), (gpu_values, gpu_coordinates) = (
            eigenbasis(matrix, rows),
            eigenbasis(matrix.cuda(), rows.cuda()),
        )
        torch.testing.assert_close(gpu_values.cpu(), values, rtol=1e-12, atol=1e-12 * values.max().item())
        torch.testing.assert_close(gpu_coordinates.cpu().square(), coordinates.square(), rtol=1e-7, atol=1e-9)
        projected = coordinates.square() / values.unsqueeze(-2)
        count = torch.full((70,), 2.0 * channels, dtype=torch.float64)
        included = torch.rand(projected.shape[:2], generator=generator) < 0.8
        tensors = (values, projected, projected.sum(-1), count, included)
        options = {"epsilon": EPSILON, "tolerance": TOLERANCE, "max_iterations": MAX_ITERATIONS}
        expected = (logme_evidence(*tensors, **options),)
        run = partial(logme_evidence, *(tensor.cuda() for tensor in tensors), **options)
        check(expected, lambda run=run: (run(),), f"evidence, {channels} channels", rtol=1e-9, atol=1e-9)
        checks += 2
    return checks


def check_maps() -> int:
    """Maps on the GPU against the CPU in float64."""
    features, labels = images(3, 19, 61, 47)
    features = features.nan_to_num()
    checks = 0
    for metric in MAPS:
        for dtype, tolerance in ((torch.float32, 1e-7), (torch.bfloat16, 1e-2)):
            rounded = features.to(dtype)
            for patch_size, stride in ((4, 4), (8, 3), ((5, 7), (5, 2)), (3, 5)):
                for pool, first_look in product(("dataset", "image"), ("dataset", "patch")):
                    options = {"patch_size": patch_size, "stride": stride, "pool": pool, "first_look": first_look}
                    options |= {"num_classes": NUM_CLASSES, "features_are_logits": True}
                    expected = transferability_map(metric, rounded.double(), labels, **options)
                    score_map = transferability_map(metric, rounded.cuda(), labels.cuda(), **options)
                    what = f"{metric}, {dtype}, {options}"
                    torch.testing.assert_close(
                        score_map.values.cpu(),
                        expected.values,
                        rtol=tolerance,
                        atol=tolerance,
                        equal_nan=True,
                        msg=lambda text, what=what: f"{what}: {text}",
                    )
                    assert torch.equal(score_map.valid.cpu(), expected.valid)
                    checks += 1
    return checks


def check_scores() -> int:
    """Every metric on the GPU against the CPU, over all pixels, over a stream and over samples."""
    stream = []
    for batch in (2, 3):
        features, labels = images(batch, 8, 40, 50)
        features = features.nan_to_num()
        stream.append((features, labels, 3 * features))
    every = ("leep", "logme", "hscore", "regularized_hscore", "nce", "knn")
    checks = 0
    for options, target in (
        ({"metrics": every}, lambda: stream),
        ({"metrics": every, "stream_pixels": 500}, lambda: iter(stream)),
        (
            {
                "metrics": (*every, "otce"),
                "solver": "exact",
                "sampling": Sampling(num_pixels=300, num_repeats=3),
                "num_source_classes": NUM_CLASSES,
            },
            lambda: stream,
        ),
        ({"metrics": every, "sampling": Sampling(num_pixels=300, strategy="per_class")}, lambda: stream),
        ({"metrics": every, "sampling": Sampling(num_pixels=300, strategy="boundary")}, lambda: stream),
    ):
        cpu, gpu = (
            Scorer(num_classes=NUM_CLASSES, device=device, **options)(target(), source=stream)
            for device in ("cpu", "cuda")
        )
        for name in cpu:
            torch.testing.assert_close(gpu[name].score, cpu[name].score, rtol=1e-8, atol=1e-9, msg=f"{name} {options}")
            checks += 1
    return checks


def labeled_pixels(*shape: int, channels: int, shift: float, device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels around the means of their classes, which move by the shift; made on the device."""
    generator = torch.Generator(device).manual_seed(int(10 * shift))
    means = torch.randn(NUM_CLASSES, channels, generator=torch.Generator().manual_seed(0))
    means += shift * torch.randn(NUM_CLASSES, channels, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, NUM_CLASSES, shape, generator=generator, device=device)
    features = torch.randn(*shape, channels, generator=generator, device=device)
    return features.add_(means.to(device)[labels]), labels


def check_transport(device: str = "cuda") -> int:
    """Sinkhorn on the GPU against Sinkhorn and the exact coupling on the CPU, and maps of OTCE."""
    checks = 0
    classes = {"num_classes": NUM_CLASSES, "num_source_classes": NUM_CLASSES}
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        source = labeled_pixels(3, 300, channels=8, shift=0.0, device="cpu")
        target = labeled_pixels(3, 400, channels=8, shift=0.5, device="cpu")
        source[1][0, ::7] = -1  # no pixels
        target, source = (target[0].to(dtype), target[1]), (source[0].to(dtype), source[1])
        exact = couple(*target, source=source, **classes, solver="exact")
        for epsilon in (0.02, 0.005):
            options = {**classes, "solver": Sinkhorn(epsilon=epsilon, tolerance=1e-4, strict=True)}
            expected = couple(*target, source=source, **options)
            coupling = couple(*on(device, *target), source=on(device, *source), **options)
            what = f"sinkhorn, {dtype}, epsilon {epsilon}"
            for name in ("mass", "cost", "duality_gap", "epsilon"):
                torch.testing.assert_close(
                    getattr(coupling, name).cpu(),
                    getattr(expected, name),
                    rtol=tolerance,
                    atol=tolerance,
                    msg=lambda text, what=what, name=name: f"{what}, {name}: {text}",
                )
            # Rounding may let a problem in single precision converge at the look before or after.
            apart = (coupling.iterations.cpu() - expected.iterations).abs().max()
            assert apart <= (0 if dtype == torch.float64 else 20), f"{what}: {apart} iterations apart"
            assert (coupling.marginal_error <= 1e-4).all(), what
            above = coupling.cost.cpu() - exact.cost
            slack = 1e-6 * exact.cost
            assert (above >= -slack).all(), f"{what}: below the least cost"
            assert (above <= coupling.duality_gap.cpu() + slack).all(), f"{what}: further from it than the gap"
            torch.testing.assert_close(coupling.mass.sum(-1).cpu(), exact.mass.sum(-1), rtol=0, atol=1e-6, msg=what)
            checks += 5
    (features, labels), (source_features, source_labels) = images(3, 8, 24, 20), images(2, 8, 30, 20)
    features, source_features = features.nan_to_num(), 1.1 * source_features.nan_to_num()
    target, source = (features.double(), labels), (source_features.double(), source_labels)
    for metric, pool, patch_size, stride in (
        ("otce", "dataset", 4, 4),
        ("otce", "dataset", 6, 3),
        ("otce", "image", 4, 4),
        ("jc_otce", "dataset", 12, 12),
    ):
        options = {"patch_size": patch_size, "stride": stride, "pool": pool, "solver": "sinkhorn", **classes}
        expected = transferability_map(metric, *target, source=source, **options)
        score_map = transferability_map(metric, *on(device, *target), source=on(device, *source), **options)
        what = f"{metric}, {options}"
        torch.testing.assert_close(
            score_map.values.cpu(),
            expected.values,
            rtol=1e-7,
            atol=1e-7,
            equal_nan=True,
            msg=lambda text, what=what: f"{what}: {text}",
        )
        assert torch.equal(score_map.valid.cpu(), expected.valid)
        checks += 1
    return checks


def on(device: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors on a device."""
    return tuple(tensor.to(device) for tensor in tensors)


def check_no_synchronization() -> None:
    """Updates of every statistic never wait for the GPU."""
    features, labels = (tensor.cuda() for tensor in images(2, 8, 40, 50))
    features = features.nan_to_num()
    joint_mass = JointMass.from_pixels(features, labels, num_classes=NUM_CLASSES)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for statistic, options in (
            (Moments, {"num_classes": NUM_CLASSES}),
            (Moments, {"num_classes": NUM_CLASSES, "cell_size": (4, 5)}),
            (JointMass, {"num_classes": NUM_CLASSES}),
            (JointMass, {"num_classes": NUM_CLASSES, "cell_size": (4, 5)}),
            (LogLikelihood, {"joint_mass": joint_mass}),
            (LogLikelihood, {"joint_mass": joint_mass, "patch_size": (4, 5), "stride": (2, 3)}),
            (PixelSample, {"num_classes": NUM_CLASSES, "size": 100}),
        ):
            first = statistic.from_pixels(features, labels, **options)
            first.add(features, labels, **options)
            if "cell_size" in options:
                first.patches((3, 2), (1, 1))
        scorer = Scorer(metrics=("logme", "leep", "nce"), num_classes=NUM_CLASSES)
        running = {name: Running() for name in scorer.statistic_types()}
        for offset in (0, labels.numel()):  # features and logits on coarser grids than the labels
            pixels = on_one_grid(features[..., ::2, ::2], labels, features[..., ::5, ::5], offset=offset)
            for name, statistic in scorer.statistics(pixels).items():
                running[name] += statistic
    finally:
        torch.cuda.set_sync_debug_mode("default")


def copy_bandwidth() -> float:
    """Bytes a second that a copy on the device moves, read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / medians({"copy": lambda: target.copy_(source)}, rounds=15)["copy"]


def published_images(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """As many images of the published size as fit into half of the memory, made on the device; blocks of one class."""
    count, channels, height, width = PUBLISHED
    free = torch.cuda.mem_get_info()[0] // 2
    count = min(count, free // (channels * height * width * 4))
    generator = torch.Generator("cuda").manual_seed(0)
    blocks = (count, height // 16, width // 16)
    labels = torch.randint(0, PUBLISHED_CLASSES, blocks, generator=generator, device="cuda", dtype=torch.uint8)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, ::9, ::7] = 255
    features = torch.empty(count, channels, height, width, dtype=dtype, device="cuda")
    for image in features:
        image.normal_(generator=generator)
    return features, labels


def kernel_times(bandwidth: float) -> str:
    """The kernels that read pixels: achieved bytes of input a second, as a share of what a copy moves."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        features, labels = published_images(dtype)
        size = features.numel() * features.element_size() + labels.numel() * labels.element_size()
        common = (PUBLISHED_CLASSES, 4, 4, True, 255)
        mass = patch_joint_mass(features, labels, *common, False).mass
        p = (mass / mass.sum(-2, keepdim=True)).nan_to_num()
        cases = {
            "patch_moments, 4 x 4, pooled": partial(patch_moments, features, labels, *common),
            "patch_moments, one cell": partial(
                patch_moments, features, labels, PUBLISHED_CLASSES, *PUBLISHED[2:], True, 255
            ),
            "patch_joint_mass, 4 x 4, pooled": partial(patch_joint_mass, features, labels, *common, False),
            "patch_log_likelihood, 4 x 4, pooled": partial(
                patch_log_likelihood, features, labels, p, 4, 4, 4, 4, True, 255
            ),
        }
        for name, seconds in medians(cases).items():
            share = size / seconds / bandwidth
            rate = labels.numel() / seconds / 1e9
            rows.append((name, str(dtype)[6:], f"{1e3 * seconds:.2f}", f"{rate:.1f}", f"{100 * share:.0f} %"))
    return table(("kernel", "dtype", "ms", "billion pixels/s", "input read, share of a copy"), rows)


def map_times(bandwidth: float) -> str:
    """Maps of the published size: time, bytes of input a second as a share of a copy, and peak memory."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        features, labels = published_images(dtype)
        size = features.numel() * features.element_size() + labels.numel() * labels.element_size()
        for pool in ("dataset", "image"):
            options = {"patch_size": 4, "pool": pool, "num_classes": PUBLISHED_CLASSES, "features_are_logits": True}
            for metric in MAPS:
                run = partial(transferability_map, metric, features, labels, **options)
                torch.cuda.synchronize()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                score_map = run()
                tensors = score_map.values, score_map.valid, score_map.count
                written = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
                extra = torch.cuda.max_memory_allocated() - before - written
                del score_map, tensors
                seconds = medians({metric: run}, rounds=5 if pool == "dataset" else 3)[metric]
                rows.append(
                    (
                        metric,
                        pool,
                        str(dtype)[6:],
                        f"{1e3 * seconds:.2f}",
                        f"{100 * size / seconds / bandwidth:.0f} %",
                        f"{100 * extra / size:.1f} %",
                    )
                )
        del features, labels
    return table(("map", "pool", "dtype", "ms", "input read, share of a copy", "memory above input and map"), rows)


def solver_times() -> str:
    """32,768 eigenproblems and fixed points, and a few by the library."""
    rows = []
    for channels in (12, 19, 32, 64):
        pixels = torch.randn(32_768, 2 * channels, channels, dtype=torch.float64, device="cuda")
        matrix, vectors = pixels.mT @ pixels, pixels[:, :PUBLISHED_CLASSES].contiguous()
        values, coordinates = eigenbasis(matrix, vectors)
        projected = coordinates.square() / values.unsqueeze(-2)
        included = torch.ones(projected.shape[:2], dtype=torch.bool, device="cuda")
        count = torch.full((len(values),), 2.0 * channels, dtype=torch.float64, device="cuda")
        tensors = (values, projected, projected.sum(-1), count, included)
        options = {"epsilon": EPSILON, "tolerance": TOLERANCE, "max_iterations": MAX_ITERATIONS}
        seconds = medians(
            {
                "eigenbasis": partial(eigenbasis, matrix, vectors),
                "evidence": partial(logme_evidence, *tensors, **options),
                "library": partial(torch.linalg.eigh, matrix[:256]),
            },
            rounds=3,
        )
        each = [1e6 * seconds["eigenbasis"] / len(values), 1e6 * seconds["library"] / 256]
        shown = [f"{1e3 * seconds[name]:.2f}" for name in ("eigenbasis", "evidence")]
        rows.append((str(channels), *shown, *(f"{value:.2f}" for value in each)))
    header = ("channels", "eigenbasis, ms", "evidence, ms", "eigenbasis, µs a matrix", "library, µs a matrix")
    return table(header, rows)


def timed(run: Callable[[], Coupling]) -> tuple[Coupling, float, float]:
    """What a run gives, its seconds and its peak memory on the device in GB; once, since it is long."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    start = time.perf_counter()
    coupling = run()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return coupling, seconds, (torch.cuda.max_memory_allocated() - before) / 1e9 if on_gpu else 0.0


def otce_map_coupling(
    count: int, source_count: int, channels: int, height: int, width: int, device: str
) -> Callable[[], Coupling]:
    """A map of OTCE over images made on the device, in patches of 4 x 4 pixels."""
    sides = []
    for images_of, shift in ((count, 0.5), (source_count, 0.0)):
        features, labels = labeled_pixels(images_of, height, width, channels=channels, shift=shift, device=device)
        sides.append((features.movedim(-1, 1), labels))
    target, source = sides
    options = {"num_classes": NUM_CLASSES, "num_source_classes": NUM_CLASSES, "solver": "sinkhorn"}
    return lambda: transferability_map("otce", *target, source=source, patch_size=4, **options).coupling


def transport_times(
    bandwidth: float,
    sample: int = SAMPLE,
    repeats: int = REPEATS,
    published: tuple[int, int, int, int] = PUBLISHED,
    large_sample: int = LARGE_SAMPLE,
    device: str = "cuda",
) -> str:
    """Couplings of samples and of a map, beside the time that reading their matrices would take; one with KeOps.

    An iteration reads the matrix of all pairs twice, in single precision.
    """
    channels = published[1]
    options = {"num_classes": NUM_CLASSES, "num_source_classes": NUM_CLASSES, "solver": "sinkhorn"}

    def coupling_of(*shape: int) -> Callable[[], Coupling]:
        target, source = (labeled_pixels(*shape, channels=channels, shift=shift, device=device) for shift in (0.5, 0.0))
        return partial(couple, *target, source=source, **options)

    coupling_of(repeats, 50)()  # warm up
    runs = {
        (f"{repeats} samples of {sample:,} + {sample:,} pixels", f"{SAMPLE_GOAL}", sample**2): coupling_of(
            repeats, sample
        )
    }
    count, _, height, width = published
    if device == "cuda":
        count = min(count, torch.cuda.mem_get_info()[0] // 4 // (channels * height * width * 4))
    patches = (height // 4) * (width // 4)
    name = f"map of {patches:,} patches of {16 * SOURCE_IMAGES:,} + {16 * count:,} pixels"
    runs[name, f"{MAP_GOAL}", 16 * count * 16 * SOURCE_IMAGES] = otce_map_coupling(
        count, SOURCE_IMAGES, channels, height, width, device
    )
    name = f"1 sample of {large_sample:,} + {large_sample:,} pixels, KeOps"
    runs[name, "", large_sample**2] = coupling_of(large_sample)
    rows = []
    for (what, goal, pairs), run in runs.items():
        if what == name and find_spec("pykeops") is None:
            rows.append((what, "pykeops is not installed: not run", *6 * ("",)))
            continue
        try:
            coupling, seconds, memory = timed(run)
        except (RuntimeError, OSError) as error:  # too little memory, or KeOps without a compiler
            rows.append((what, f"did not run: {str(error).splitlines()[0][:80]}", *6 * ("",)))
            continue
        iterations = coupling.iterations.double()
        floor = 2 * 4 * pairs * iterations.sum().item() / bandwidth
        rows.append(
            (
                what,
                f"{seconds:.2f}",
                f"{memory:.2f}",
                f"{iterations.mean().item():.0f}, {iterations.max().item():.0f}",
                f"{100 * coupling.converged.double().mean().item():.1f} %",
                goal,
                *(("", "") if what == name else (f"{floor:.2f}", f"{seconds / floor:.1f}")),  # it reads no matrix
            )
        )
    header = ("couplings", "seconds", "peak GB", "iterations, mean and most", "converged", "goal, s")
    return table((*header, "floor, s", "times the floor"), rows)


def live_times() -> str:
    """Live scores beside the forward passes of two models in bfloat16, at half the published size."""
    if find_spec("torchmetrics") is None:
        return "torchmetrics is not installed: live scores were not run."
    from live import Setting, overhead

    return overhead(Setting("cuda", "bfloat16", height=512, width=1024, rounds=50))


def main() -> None:
    """Checks, then prints and writes the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write the report to")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/device.py needs a GPU, and this PyTorch sees none")
    if not torch_trf.has_extension("cuda"):
        raise SystemExit("the CUDA kernels are not built: install where nvcc is found")
    checks = {
        "kernels that read pixels": check_pixel_kernels(),
        "solvers": check_solvers(),
        "scores": check_scores(),
        "maps": check_maps(),
    }
    has_transport = find_spec("geomloss") is not None
    if has_transport:
        checks["couplings"] = check_transport()
    check_no_synchronization()
    bandwidth = copy_bandwidth()
    report = "\n".join(
        [
            f"{torch.cuda.get_device_name()}, {platform.machine()}, PyTorch {torch.__version__},"
            f" CUDA {torch.version.cuda}, torch_trf {torch_trf.__version__}; medians.",
            "Checks against the CPU that passed: "
            + ", ".join(f"{number} of {name}" for name, number in checks.items()),
            f"No update synchronizes. A copy moves {bandwidth / 1e9:.0f} GB/s, read and written.",
            "",
            kernel_times(bandwidth),
            "",
            map_times(bandwidth),
            "",
            solver_times(),
            "",
            transport_times(bandwidth) if has_transport else "geomloss is not installed: couplings were not run.",
            "",
            live_times(),
        ]
    )
    print(report)
    if arguments.output:
        arguments.output.write_text(report + "\n")


if __name__ == "__main__":
    main()
