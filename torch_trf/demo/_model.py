"""A segmentation model small enough to be trained within seconds on a CPU."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

WIDTH = 16  # channels of the first layer


class SmallSegmenter(nn.Module):
    """An encoder of three strides and a decoder that joins them again, 114,000 parameters.

    `decoder` gives features `[B, 32, H/2, W/2]`, `head` their class scores, and the model class scores `[B, K, H, W]`.

    Args:
        num_classes: K.

    Example:
        >>> SmallSegmenter(num_classes=7)(torch.rand(2, 3, 48, 64)).shape
        torch.Size([2, 7, 48, 64])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        fine, middle, coarse = WIDTH, 2 * WIDTH, 4 * WIDTH
        self.fine = _block(3, fine, stride=2)
        self.middle = _block(fine, middle, stride=2)
        self.coarse = nn.Sequential(
            _block(middle, coarse, stride=2), _block(coarse, coarse, dilation=2), _block(coarse, coarse, dilation=4)
        )
        self.to_middle, self.join = nn.Conv2d(coarse, middle, 1), _block(middle, middle)
        self.to_fine, self.decoder = nn.Conv2d(middle, fine, 1), _block(fine, middle)
        self.head = nn.Conv2d(middle, num_classes, 1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Class scores of every pixel."""
        fine = self.fine(images)
        middle = self.middle(fine)
        middle = self.join(middle + _upsampled(self.to_middle(self.coarse(middle)), middle))
        return _upsampled(self.head(self.decoder(fine + _upsampled(self.to_fine(middle), fine))), images)


def _block(channels: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _upsampled(features: Tensor, like: Tensor) -> Tensor:
    return interpolate(features, like.shape[-2:], mode="bilinear")
