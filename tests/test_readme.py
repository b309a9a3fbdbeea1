"""The README's code runs as it stands, block after block, and its example output is what the demo prints."""

import re
from pathlib import Path

from torch_trf.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_code_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["found"].coupling.converged
    assert names["metric"].compute().keys() == {"logme", "hscore", "leep"}
    assert names["by_image"].batch_shape == (4,)
    assert names["made"].values.shape == (4, 14, 19)


def test_example_output_is_that_of_the_demo(capsys):
    assert main(["demo"]) == 0
    printed = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if " nats " in line}
    for name, *shown in (line.split() for line in README.splitlines() if " nats  " in line and line.startswith("    ")):
        assert abs(float(printed[name][0]) - float(shown[0])) < 2e-6, name


def test_links_exist():
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / link).exists(), link
