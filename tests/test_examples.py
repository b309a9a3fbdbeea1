"""The examples run: what they print and what they write."""

import math
import runpy
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

FINETUNE = Path(__file__).parent.parent / "examples" / "finetune.py"
TINY = ["--epochs", "2", "--images", "12", "--size", "32", "48"]
COLUMNS = ["epoch", "loss", "source_miou", "target_miou", "logme", "hscore", "leep"]


@pytest.fixture(scope="module")
def example():
    """The names that the script defines."""
    return runpy.run_path(str(FINETUNE))


@pytest.fixture
def run(example, capsys):
    """Runs the script; gives its rows, epoch by epoch and then checkpoint by checkpoint, and the epoch it chooses."""

    def with_options(*options):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # its tensors are too small for more
        try:
            with torch.random.fork_rng():
                example["main"]([*TINY, *map(str, options)])
        finally:
            torch.set_num_threads(threads)
        words = [line.split() for line in capsys.readouterr().out.splitlines() if line]
        choice = next(row for row, line in enumerate(words) if "chooses" in line)
        assert words[0] == COLUMNS
        assert words[choice + 2][:4] == ["checkpoint", "epoch", "before", "after"]
        epochs = [dict(zip(COLUMNS, map(float, line), strict=True)) for line in words[1:choice]]
        checkpoints = {name: (int(epoch), *map(float, values)) for name, epoch, *values in words[choice + 3 :]}
        return epochs, checkpoints, int(words[choice][-1])

    return with_options


def test_finetune_scores_saves_chooses_compares_and_repeats_itself(run, tmp_path):
    epochs, checkpoints, chosen = run("--output", tmp_path)
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert all(math.isfinite(value) for row in epochs for value in row.values())
    assert all(row["hscore"] >= 0 >= row["leep"] and 0 <= row["target_miou"] <= 1 for row in epochs)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_1.pt", "epoch_2.pt"]
    states = [torch.load(path, weights_only=True) for path in sorted(tmp_path.iterdir())]
    assert all(tensor.isfinite().all() for state in states for tensor in state.values())
    assert not torch.equal(*(state["classifier.low_classifier.weight"] for state in states))

    assert epochs[chosen - 1]["leep"] == max(row["leep"] for row in epochs)
    assert {name: row[0] for name, row in checkpoints.items()} == {"first": 1, "last": 2, "chosen": chosen}
    for _, *values in checkpoints.values():
        assert all(0 <= value <= 1 for value in values)
        assert values[1] == pytest.approx(sum(values[2:]) / 3, abs=1e-4)

    again, _, chosen = run("--output", tmp_path, "--choose_by", "logme")
    assert again == epochs
    assert epochs[chosen - 1]["logme"] == max(row["logme"] for row in epochs)


def test_finetune_has_help(example, capsys):
    with pytest.raises(SystemExit) as leaving:
        example["main"](["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{option}" in shown for option in ("epochs", "images", "size", "seed", "output", "choose_by"))
