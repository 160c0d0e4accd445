"""What needs whole weights is refused in one line where they are split."""

import gc
from typing import Any

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError


@pytest.fixture
def split(tmp_path: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
        yield fully_shard(model)
    finally:
        del model
        gc.collect()  # nothing of it may outlive the group
        torch.distributed.destroy_process_group()


def test_each_part_that_does_not_fit(split: Any) -> None:
    gmp = steppe.methods.gmp(sparsity=0.5)
    optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
    methods = steppe.methods
    cases = [
        (methods.soft_threshold(sparsity=0.5), {}, "coupling soft_threshold"),
        (methods.lasso(sparsity=0.5), {}, "coupling l1"),
        (methods.safe_plus(sparsity=0.5), {}, "score wanda, which reads"),
        (gmp.replace(objective="distillation"), {}, "objective distillation, which copies"),
        (gmp.replace(perturb="sam"), {"sync": "local"}, "sync local"),
    ]
    for method, options, said in cases:
        with pytest.raises(SteppeError, match=rf"split over processes.*{said}") as refused:
            steppe.sparsify(split, optimizer, method, 2, options=steppe.StepOptions(**options))
        assert "\n" not in str(refused.value)
    assert steppe.sparsify(split, optimizer, gmp, 2).layers[0].shape == (6, 4)
