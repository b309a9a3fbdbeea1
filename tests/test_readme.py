"""The README's code runs as it stands, block after block; its example output is what docs/figures.py kept."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_code_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["coupling"].converged
    assert names["metric"].compute().keys() == {"logme", "hscore", "leep"}
    assert names["by_image"].batch_shape == (4,)
    assert names["leep_map"].values.shape == (4, 14, 19)


def test_example_output_is_that_of_the_demo():
    printed = (ROOT / "docs" / "demo.txt").read_text().splitlines()
    shown = [
        line[4:] for line in README.splitlines() if re.match(r"    .*(\[-?\d\.\d+, | nats +\d| directions +\d)", line)
    ]
    assert len(shown) > 10  # of correlate and of score
    assert set(shown) <= set(printed)


def test_links_exist():
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
