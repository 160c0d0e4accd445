"""Random numbers are drawn again."""

import torch

from steppe.engine.step.draws import back_to, generators


def test_the_same_numbers_again():
    before = generators([torch.ones(1), torch.ones(1, device="meta")])
    first = torch.rand(3), torch.randperm(5)
    back_to(before)
    assert torch.equal(torch.rand(3), first[0])
    assert torch.equal(torch.randperm(5), first[1])
