"""What every objective fulfils."""

import pytest

from steppe import Method
from steppe.core.protocols import Objective


@pytest.mark.parametrize("name", list(Objective.registry))
def test_it_is_part_of_a_method(name):
    method = Method(budget={"name": "pooled", "sparsity": 0.5}, objective=name)
    assert Method.from_yaml(method.to_yaml()) == method
    assert method.objective.name == name
