"""What a result was computed with."""

import platform
from importlib.metadata import version

PACKAGES = ("torch_trf", "torch", "torchvision", "numpy", "POT", "geomloss", "pykeops")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that scores depend on, by name."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
