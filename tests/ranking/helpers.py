"""A data set and models that a candidate names by their path, and what the models were given."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

K, Z = 3, 4
HERE = __name__
PASSES: list[int] = []  # how many images each forward pass of a `Model` had
BEFORE_PASSES = []  # functions of a batch, called before each


class Scenes(Dataset):
    """Random images that tell something of their labels; a few pixels are ignored.

    Images are of several sizes, one after the other; "uint8" ones have values that a picture may have.
    """

    def __init__(self, count=5, seed=0, sizes=((12, 16), (8, 24)), classes=K, dtype=torch.float64, shift=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.pairs = []
        for index in range(count):
            height, width = sizes[index % len(sizes)]
            coarse = torch.randint(0, classes, (height // 4, width // 4), generator=generator)
            labels = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)
            image = torch.randn(3, height, width, generator=generator, dtype=torch.float64)
            image += torch.eye(classes, 3, dtype=torch.float64)[labels].movedim(-1, 0) + shift
            labels[::3, ::5] = 255
            image = (40 * image + 100).clamp(0, 255) if dtype == torch.uint8 else image
            self.pairs.append((image.to(dtype), labels))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


class InFolder(Scenes):
    """Scenes that lie in a folder."""

    def __init__(self, folder: Path, **options):
        super().__init__(**options)
        self.folder = folder


class Model(nn.Module):
    """Gives every so-manieth pixel of its image, mixed by random numbers, and class scores of it."""

    def __init__(self, seed=0, stride=1, channels=5, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.stride = stride
        self.mix = nn.Conv2d(3, channels, 1, dtype=dtype)
        self.head = nn.Conv2d(channels, Z, 1, dtype=dtype)

    def forward(self, images):
        for each in BEFORE_PASSES:
            each(images)
        PASSES.append(len(images))
        return self.head(self.mix(images)[..., :: self.stride, :: self.stride])


class Probabilities(Model):
    """Gives probabilities as its own output."""

    def forward(self, images):
        return super().forward(images).softmax(1)


class Image(nn.Module):
    """Gives its image."""

    def __init__(self):
        super().__init__()
        self.same = nn.Identity()

    def forward(self, images):
        return self.same(images)


class ChannelsLast(nn.Module):
    """Gives features `[B, H, W, D]`."""

    def __init__(self):
        super().__init__()
        self.same = nn.Identity()

    def forward(self, images):
        return self.same(images.movedim(1, -1))


def named(name, **arguments):
    """A class of this file with arguments, as a configuration names it."""
    return {"class_path": f"{HERE}.{name}", "init_args": arguments}
