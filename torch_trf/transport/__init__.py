"""Transport: optimal couplings of source and target pixels, as the label mass that they carry."""

from ._exact import joint_label_mass

__all__ = ["joint_label_mass"]
