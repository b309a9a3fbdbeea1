"""Peak memory of scoring and mapping a folder of 400 images (12 x 180 x 240, float32: 829 MB), above the imports.

python benchmarks/memory.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES, CHANNELS, HEIGHT, WIDTH, NUM_CLASSES = 400, 12, 180, 240, 11

CASES = {
    "scores of LEEP, LogME and H-score": "Scorer(metrics=('leep', 'logme', 'hscore'), num_classes=11)",
    "map of LEEP, patches of 4 x 4": "Mapper(metric='leep', patch_size=4, num_classes=11)",
    "map of LEEP, first look in each patch": "Mapper(metric='leep', patch_size=4, num_classes=11, first_look='patch')",
    "map of LogME, patches of 4 x 4": "Mapper(metric='logme', patch_size=4, num_classes=11)",
    "map of LogME, patches of 16 x 16, stride 2": "Mapper(metric='logme', patch_size=16, stride=2, num_classes=11)",
}
RUN = """
import resource, sys
from torch_trf import FeatureFolder, Mapper, Scorer
from torch_trf.cli import main
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{case}(FeatureFolder(sys.argv[1], logits="final"))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """Prints one line for each case."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("final", "label"):
            (Path(temporary) / name).mkdir()
        for k in range(IMAGES):
            features = generator.standard_normal((CHANNELS, HEIGHT, WIDTH), dtype=np.float32)
            np.save(Path(temporary) / "final" / f"{k}.npy", features)
            np.save(Path(temporary) / "label" / f"{k}.npy", generator.integers(0, NUM_CLASSES, (HEIGHT, WIDTH)))
        for name, case in CASES.items():
            command = [sys.executable, "-c", RUN.format(case=case), temporary]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            before, peak = (int(value) / 1024 for value in done.stdout.split())
            print(f"{name}: peak {peak - before:.0f} MB above the {before:.0f} MB of the imports")


if __name__ == "__main__":
    main()
