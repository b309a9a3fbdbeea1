"""What is asked of options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from torch_trf._checks import require_types
from torch_trf.inference import Inference
from torch_trf.metrics import KNN, HScore, LogME
from torch_trf.ranking import Ranker

FITTING = [
    (int, 3),
    (int, np.int64(3)),
    (float, 3),
    (float, np.float32(0.5)),
    (str | None, None),
    (Any, object()),
    (list[str], ["a", "b"]),
    (Sequence[str], ("a", "b")),
    (Mapping[int | str, int], {7: 0, "#804080": 1}),
    (dict[str, Any], {"a": [1]}),
    (str | os.PathLike[str], Path("a")),
    (Literal["a", "b"], "a"),
    (tuple[int, int], (1, 2)),
]
OTHERS = [
    (int, True, "int, not True"),
    (int, 3.0, "int, not 3.0"),
    (int, "255", "int, not '255'"),
    (float, "0.1", "float, not '0.1'"),
    (str, None, "str, not None"),
    (list[str], "ab", r"list\[str\], not 'ab'"),
    (Sequence[str], "ab", r"Sequence\[str\], not 'ab'"),
    (list[str], ["a", 7], r"list\[str\], not \['a', 7\]"),
    (Mapping[int | str, int], [0, 1], r"Mapping\[int | str, int\], not \[0, 1\]"),
    (Mapping[int | str, int], {"a": "b"}, "Mapping"),
    (dict[str, Any] | None, 5, r"dict\[str, Any\] | None, not 5"),
    (str | os.PathLike[str], 5, r"str | PathLike\[str\], not 5"),
    (Literal["a", "b"], 5, r"Literal\['a', 'b'\], not 5"),
    (Inference, {}, "Inference, not {}"),
    (str, ["x" * 10_000], "str, not .{1,99}$"),
]


@pytest.mark.parametrize(("hint", "value"), FITTING)
def test_what_fits_its_annotation_is_taken(hint, value):
    require_types(make_dataclass("Options", [("option", hint)])(value))


@pytest.mark.parametrize(("hint", "value", "message"), OTHERS)
def test_what_does_not_fit_its_annotation_is_named(hint, value, message):
    with pytest.raises(ValueError, match=f"^option must be {message}"):
        require_types(make_dataclass("Options", [("option", hint)])(value))


def test_annotations_that_are_no_types_are_not_checked():
    require_types(make_dataclass("Options", [("option", "Nowhere")])(5))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogME(softmax="no"), "softmax must be bool, not 'no'"),
        (lambda: KNN(neighbors="5"), "neighbors must be int, not '5'"),
        (lambda: HScore(rcond="small"), "rcond must be float, not 'small'"),
        (lambda: Ranker(target=5, output="x"), "target must be LabeledData, not 5"),
    ],
)
def test_options_of_another_type_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
