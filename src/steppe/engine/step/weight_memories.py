"""What the optimisers of a run remember of the weights that are pruned."""

from __future__ import annotations

from collections.abc import Callable

from steppe.core.errors import SteppeError
from steppe.core.statistic import WeightMemory
from steppe.engine.step.optimizers import Optimizers
from steppe.engine.step.prunable_weights import PrunableWeights


def weight_memories(
    optimizers: Optimizers, prunable: PrunableWeights
) -> Callable[[str], WeightMemory]:
    """From the name of a weight to the memory of its optimiser, as it is when it is asked.

    Args:
        optimizers: of the run.
        prunable: its weights.
    """

    def memory(name: str) -> WeightMemory:
        """Of one weight.

        Raises:
            SteppeError: the optimiser has other tensors in the weight's place.
        """
        p = prunable.parameters[name]
        held = [(o, g) for o in optimizers.each() for g in o.param_groups if _holds(g["params"], p)]
        if not held:
            raise SteppeError(
                "the score reads what the optimizer remembers of each weight",
                got=f"a coupling that trains other tensors in the place of {name}",
                way_out="score magnitude, or coupling admm, hard_mask or project",
            )
        optimizer, group = held[0]
        entries = optimizer.state.get(p, {})
        options = {key: value for key, value in group.items() if key != "params"}
        stepped = bool(entries) or id(p) in optimizers.forgotten
        return WeightMemory(type(optimizer).__name__, options, entries, tuple(p.shape), stepped)

    return memory


def _holds(params: list[object], p: object) -> bool:
    return any(q is p for q in params)
