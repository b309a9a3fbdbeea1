"""Slow float64 NumPy versions of what the package computes, written from the papers and sharing no code with it.

A file holds a function of its own name, which is gathered here: that of a metric takes what the metric reads and the
labels, `[N, C]` and `[N]`, and further `source=(features, labels)` where the metric needs one. A file without such a
function is gathered as a module.
"""

from importlib import import_module
from pkgutil import iter_modules

for _name in [module.name for module in iter_modules(__path__)]:
    _module = import_module(f"{__name__}.{_name}")
    globals()[_name] = getattr(_module, _name, _module)
