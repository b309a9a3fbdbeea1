"""Peak memory of scoring a folder of 400 images (12 x 180 x 240, float32: 829 MB), above that of the imports.

python benchmarks/memory.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES, CHANNELS, HEIGHT, WIDTH, NUM_CLASSES = 400, 12, 180, 240, 11

SCORE = """
import resource, sys
from torch_trf import FeatureFolder, Scorer
from torch_trf.cli import main
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scores = Scorer(metrics=("leep", "logme", "hscore"), num_classes=11)(FeatureFolder(sys.argv[1]))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """Prints one line."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("final", "label"):
            (Path(temporary) / name).mkdir()
        for k in range(IMAGES):
            features = generator.standard_normal((CHANNELS, HEIGHT, WIDTH), dtype=np.float32)
            np.save(Path(temporary) / "final" / f"{k}.npy", features)
            np.save(Path(temporary) / "label" / f"{k}.npy", generator.integers(0, NUM_CLASSES, (HEIGHT, WIDTH)))
        done = subprocess.run([sys.executable, "-c", SCORE, temporary], capture_output=True, text=True, check=True)
    before, peak = (int(value) / 1024 for value in done.stdout.split())
    print(
        f"{IMAGES} images: peak {peak - before:.0f} MB above the {before:.0f} MB of the imports (LEEP, LogME, H-score)"
    )


if __name__ == "__main__":
    main()
