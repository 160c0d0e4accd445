"""Swaps wherever a method solves layers."""

from __future__ import annotations

import pytest

import steppe
from steppe import SteppeError
from steppe.methods import METHODS, with_swaps


def solves(name: str) -> bool:
    plain = METHODS[name].example()
    if plain.structure.removes:
        return False  # there is nothing to exchange in whole units
    form = plain.for_language() if plain.has_language_form else plain
    if form.structure.removes is not None:
        return False
    return form.objective.scope == "layer" or form.objective.starts_from is not None


SOLVING = [name for name in METHODS if solves(name)]


@pytest.mark.parametrize("name", SOLVING)
def test_every_method_that_solves_layers_and_back_through_yaml(name: str) -> None:
    plain = METHODS[name].example().for_language()
    refined = with_swaps(METHODS[name].example(), 7)
    solver = refined.solver if plain.objective.scope == "layer" else refined.objective.starts_from
    assert solver is not None
    assert (solver.name, solver.swaps) == ("mask_swaps", 7)
    assert solver.solver == (plain.objective.starts_from or plain.coupling)
    assert solver.needs == refined.objective.start_needs or refined.objective.scope == "layer"
    assert steppe.Method.from_yaml(refined.to_yaml()) == refined
    hash(refined)


def test_what_trains_from_dense_weights_has_nothing_to_refine() -> None:
    with pytest.raises(SteppeError, match="--method wanda, sparsegpt, alps"):
        with_swaps(steppe.methods.safe(sparsity=0.5, start=None))
    with pytest.raises(SteppeError, match="language model"):
        with_swaps(steppe.methods.gmp(sparsity=0.5))
