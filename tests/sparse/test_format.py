"""The smallest dtype that holds all numbers of a matrix."""

import pytest
import torch

from looped import looped
from steppe.core.errors import SteppeError
from steppe.sparse.format import check_matrix, exact_dtype, narrowed
from steppe.sparse.reference import integers


@looped(narrow=[torch.bfloat16, torch.float16])
def test_numbers_of_16_bits_are_seen_in_32(narrow):
    weight = torch.randn(30, 40).to(narrow)
    wide = weight.float()
    assert exact_dtype(wide) == narrow
    assert torch.equal(integers(narrowed(wide)), integers(weight))
    assert exact_dtype(weight) == narrow
    wide[3, 3] = 0.1
    assert exact_dtype(wide) == torch.float32


def test_what_two_dtypes_hold_is_bfloat16():
    assert exact_dtype(torch.tensor([[1.0, -0.0, float("inf"), 0.5]])) == torch.bfloat16


@looped(payload=[0x7FC12345, 0x7F800001, -1])
def test_a_nan_that_is_none_of_16_bits_stays_one_of_32(payload):
    weight = torch.tensor([[payload, 0]], dtype=torch.int32).view(torch.float32)
    assert exact_dtype(weight) == torch.float32


def test_a_nan_of_16_bits():
    weight = torch.tensor([[0x7FC50000]], dtype=torch.int32).view(torch.float32)
    assert integers(narrowed(weight)).item() == 0x7FC5


@looped(shape=[(3,), (2, 2, 2)])
def test_only_matrices(shape):
    with pytest.raises(SteppeError, match=r"the format bits takes matrices of float32"):
        check_matrix("bits", torch.zeros(shape))
