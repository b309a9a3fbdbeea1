"""Runs the demo for the README: its output, its figures, and what the commands over its features print and draw.

python docs/figures.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DEMO = "demo"  # folder of the demo's results, as the README calls it
COMMANDS = (
    f"demo --output {DEMO}",
    f"score --target {DEMO}/features/target --source {DEMO}/features/source --logits logits"
    " --metrics leep logme hscore nce otce --num_pixels 2000 --num_repeats 5",
    f"map --target {DEMO}/features/target --logits logits --metric leep --patch_size 4 --stride 1 --pool image"
    f" --images {DEMO}/pictures --output {DEMO}/map",
)
FIGURES = {"scenes": "scenes", "correlation": "scatter", "map": "map"}  # of the demo, and as they are called here


def run_demo() -> None:
    """Runs the demo, scores and maps what a model gave, and keeps what is printed and drawn: docs/demo.txt, ..."""
    printed = ""
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            run = [sys.executable, "-m", "torch_trf", *command.split()]
            done = subprocess.run(run, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
            printed += f"$ torch-trf {command}\n{done.stdout}\n"
        for figure, name in FIGURES.items():
            shutil.copy(Path(folder, DEMO, f"{figure}.png"), FOLDER / f"{name}.png")
    (FOLDER / "demo.txt").write_text(printed)


if __name__ == "__main__":
    run_demo()
