"""A process that no other one works with tells and waits for nobody; what ranks do is in test_ranks.py."""

import pytest
import torch.distributed as dist

from torch_trf import _meeting


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path}/store", world_size=1, rank=0)
    yield
    dist.destroy_process_group()


def test_nobody_is_told_where_there_is_nobody():
    _meeting.tell_failure("out of memory")


@pytest.mark.distributed
def test_a_rank_meets_itself_as_often_as_it_likes(alone):
    for failure in ("", "out of memory", ""):
        _meeting.tell_failure(failure)
        _meeting.meet()
