"""Whole neurons and heads: which layers have them, how many go, what is refused."""

from __future__ import annotations

import pytest
import torch

from steppe import Method, SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.protocols import Structure
from steppe.structure.units import Units

DOWN = Layer("0.mlp.down_proj.weight", (8, 30), block="0", reads="neurons")
OUT = Layer("0.attention.o_proj.weight", (8, 12), block="0", reads="heads", unit=4)
UP = Layer("0.mlp.up_proj.weight", (30, 8), block="0")
EXPERTS = Layer("0.experts.down_proj", (3, 8, 30), stacked=True, reads="neurons")


@pytest.mark.parametrize("text", ["neurons", "heads", "neurons+heads", "heads+neurons"])
def test_short_forms(text: str) -> None:
    made = Structure.make(text)
    assert isinstance(made, Units)
    assert "+".join(made.of) == text
    assert Structure.make(made.to_dict()) == made


@pytest.mark.parametrize("of", [[], ["neurons", "neurons"], ["neuron"], ["heads", "experts"]])
def test_kinds_that_there_are_not(of: list[str]) -> None:
    with pytest.raises(SteppeError, match=r"kinds of units, each once.*neurons\+heads"):
        Structure.make({"name": "units", "of": of})


def test_round_to_is_one_at_least() -> None:
    with pytest.raises(SteppeError, match="got round_to 0"):
        Structure.make({"name": "units", "round_to": 0})


def test_only_what_reads_units_is_pruned() -> None:
    layers = [UP, DOWN, OUT]
    assert Structure.make("neurons").among(layers) == [DOWN]
    assert Structure.make("heads").among(layers) == [OUT]
    assert Structure.make("neurons+heads").among(layers) == [DOWN, OUT]


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(SteppeError, match=r"got no heads that can be removed.*steppe\.remove"):
        Structure.make("neurons+heads").among([UP, DOWN])


@pytest.mark.parametrize(
    ("sparsity", "round_to", "kept"),
    [
        (0.0, 1, 30),
        (0.25, 1, 22),  # 7.5 go: rounded to even
        (0.5, 1, 15),
        (0.99, 1, 1),  # one stays
        (0.25, 8, 24),
        (0.5, 8, 16),
        (0.5, 10, 20),  # 15 of 10: to even
        (0.99, 8, 8),
        (0.5, 32, 15),  # there are not as many
    ],
)
def test_how_many_stay(sparsity: float, round_to: int, kept: int) -> None:
    structure = Units(round_to=round_to)
    assert structure.count(DOWN, sparsity) == 30 - kept


@pytest.mark.parametrize(
    ("sparsity", "round_to", "kept"),
    [(0.0, 1, 30), (0.25, 1, 24), (0.5, 1, 16), (0.99, 1, 8), (0.5, 6, 24), (0.5, 32, 15)],
)
def test_how_many_stay_of_each_stacked_expert(sparsity: float, round_to: int, kept: int) -> None:
    """torch multiplies by stacks only where rows are multiples of 16 bytes."""
    assert Units(round_to=round_to).count(EXPERTS, sparsity) == 3 * (30 - kept)


def test_units_of_several_columns() -> None:
    structure = Structure.make("heads")
    assert structure.units(OUT) == (1, 3)
    keep = torch.tensor([[True, False, True]])
    mask = structure.expand(keep, OUT)
    assert torch.equal(mask, torch.tensor(4 * [True] + 4 * [False] + 4 * [True]).expand(8, 12))
    broken = Layer("o.weight", (8, 10), reads="heads", unit=4)
    with pytest.raises(SteppeError, match="units of 4 inputs; got 10 inputs in o"):
        structure.check(broken)


@pytest.mark.parametrize(
    "budget", ["erk", "owl", "progression", "alpha_pruning", "evopress", "pooled", "lamp"]
)
def test_one_width_for_all_blocks(budget: str) -> None:
    with pytest.raises(SteppeError, match=rf"one width for all blocks.*{budget}.*uniform"):
        methods.slim(sparsity=0.5, budget=budget)


@pytest.mark.parametrize("coupling", ["hard_mask", "admm", "none"])
def test_no_loop_of_steps(coupling: str) -> None:
    with pytest.raises(SteppeError, match=f"layer by layer.*{coupling}.*method slim"):
        Method(structure="neurons", coupling=coupling, budget={"name": "uniform", "sparsity": 0.0})


@pytest.mark.parametrize("method", ["safe", "admm"])
def test_no_method_that_trains_blocks(method: str) -> None:
    with pytest.raises(SteppeError, match="layer by layer"):
        methods.make(method, sparsity=0.5, structure="neurons")


def test_a_form_for_language_models_is_enough() -> None:
    made = methods.wanda(sparsity=0.5, structure="neurons", budget="uniform")
    assert made.structure.removes == "units"


NEURONS = Layer("down.weight", (16, 20), reads="neurons")
HEADS = Layer("o.weight", (16, 24), reads="heads", unit=4)


def test_keep_says_how_many_units_stay_whatever_the_sparsity() -> None:
    both = Units(of=("neurons", "heads"), keep=(("neurons", 13), ("heads", 6)), round_to=4)
    for sparsity in (0.1, 0.9):
        assert both.count(NEURONS, sparsity) == 7
        assert both.count(HEADS, sparsity) == 0
    one = Units(of=("neurons", "heads"), keep=(("heads", 1),))
    assert one.count(HEADS, 0.5) == 5
    assert one.count(NEURONS, 0.5) == 10


def test_a_structure_that_keeps_is_plain_data() -> None:
    made = Structure.make({"name": "units", "of": ["heads"], "keep": [["heads", 3]]})
    assert made == Units(of=("heads",), keep=(("heads", 3),))
    assert Structure.make(made.to_dict()) == made
    assert hash(made) == hash(Units(of=("heads",), keep=(("heads", 3),)))


@pytest.mark.parametrize(
    "keep",
    [
        [["heads", 3]],
        [["neurons", 0]],
        [["neurons", 1.5]],
        [["neurons", 3], ["neurons", 4]],
        [["neurons"]],
        [["neurons", "3"]],
    ],
)
def test_what_keep_cannot_say_is_refused(keep: list[list[object]]) -> None:
    with pytest.raises(SteppeError, match="how many units stay"):
        Structure.make({"name": "units", "of": ["neurons"], "keep": keep})


def test_no_more_stay_than_there_are() -> None:
    with pytest.raises(SteppeError, match=r"21 neurons, of 20 in down\.weight"):
        Units(keep=(("neurons", 21),)).count(NEURONS, 0.5)
