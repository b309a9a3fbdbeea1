"""Every metric against the slow reference of its name."""

from .. import references
from ..helpers import arrays, assert_close, every_metric, score_of_pixels, some_source


@every_metric
def test_has_the_score_of_the_reference_of_its_name(metric, pixels):
    """A metric without a reference fails here."""
    tensor, labels = (part[:60] for part in pixels) if metric.needs_source else pixels  # couplings take their time
    options = {"source": arrays(*some_source(tensor.shape[1], device="cpu"))} if metric.needs_source else {}
    expected = getattr(references, metric.name)(*arrays(tensor, labels), **options)
    # 1e-7, because LogME's reference solves a system of equations; files of single metrics ask for 1e-9.
    assert_close(score_of_pixels(metric, tensor, labels, num_classes=7), expected, rtol=1e-7)
