"""How many damaged inputs a test tries."""

import random
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def chances(request: pytest.FixtureRequest) -> Callable[[int], Iterator[random.Random]]:
    """So many generators of chance as usual, times the option `--fuzz`, each with the number of its try as the seed."""
    return lambda usual: map(random.Random, range(usual * request.config.getoption("--fuzz")))
