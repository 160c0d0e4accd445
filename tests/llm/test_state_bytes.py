"""Bytes of a weight, counted on a real state."""

import steppe
from steppe.llm.state_bytes import bytes_of_a_weight


def test_what_optimizer_and_coupling_keep_of_a_weight():
    admm = steppe.methods.admm(sparsity=0.5)
    assert bytes_of_a_weight(admm, "adam", {})[0] == 8.0
    assert bytes_of_a_weight(admm, "sgd", {"momentum": 0.9})[0] == 4.0
    assert bytes_of_a_weight(admm, "sgd", {})[0] == 0.0
    assert bytes_of_a_weight(admm, "adam", {})[1] == 4.125
    low = steppe.methods.elsa(sparsity=0.5, state_dtype="bfloat16")
    assert bytes_of_a_weight(low, "adam", {}) == (8.0, 2.125)
    uneven = steppe.methods.safe(sparsity=0.5, budget="owl")
    assert bytes_of_a_weight(uneven, "adam", {})[1] == 4.125
    assert bytes_of_a_weight(steppe.methods.gmp(sparsity=0.5), "adam", {})[1] == 1.0
    assert bytes_of_a_weight(steppe.methods.dense(), "adam", {})[1] == 0.0
    assert bytes_of_a_weight(steppe.methods.pilot(sparsity=0.5), "adam", {})[0] >= 8.0
