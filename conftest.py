"""Options and fixtures of the whole suite.

`pytest --device cuda` runs it on a GPU; `pytest --fuzz 100 tests/fuzz` tries 100 times as many damaged inputs. Shapes
in signatures are checked at run time (jaxtyping and beartype).
"""

import os

import pytest
from jaxtyping import install_import_hook

install_import_hook("torch_trf", "beartype.beartype")

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

import torch_trf  # noqa: E402

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=bool(os.environ.get("CI")))
settings.register_profile("quick", settings.get_profile("suite"), max_examples=5)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tensors of the tests lie: cpu or cuda")
    parser.addoption("--fuzz", type=int, default=1, help="how many times as many damaged inputs as usual")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def names_for_doctests(doctest_namespace: dict) -> None:
    doctest_namespace["torch"] = torch
    doctest_namespace["torch_trf"] = torch_trf
    doctest_namespace.update({name: getattr(torch_trf.statistics, name) for name in torch_trf.statistics.__all__})
