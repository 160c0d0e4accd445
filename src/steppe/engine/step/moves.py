"""Where a step's gradient is taken: how far each parameter is moved before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from steppe.core.protocols import NeuronPerturb, Perturb
from steppe.core.split import like
from steppe.engine.step.neurons import RunNeurons


class Directions(NamedTuple):
    """Parameters, and what a perturbation goes along, in the optimiser's order."""

    params: list[Tensor]
    """The parameters, detached."""
    grads: list[Tensor]
    """Their gradients at x, or the momentum."""
    names: list[str]
    owners: list[Tensor]
    """The parameters themselves."""

    def masked(self, alive: Mapping[int, Tensor]) -> Directions:
        """The same with 0 where nothing may move.

        Args:
            alive: ``id(parameter)`` -> booleans; parameters that are left out move freely.
        """
        at = [i for i, p in enumerate(self.owners) if id(p) in alive]
        if not at:
            return self
        masks = [like(alive[id(self.owners[i])], self.grads[i]) for i in at]
        masked = list(self.grads)
        for i, t in zip(at, torch._foreach_mul([masked[i] for i in at], masks), strict=True):
            masked[i] = t
        return self._replace(grads=masked)


def eps_of(perturb: Perturb, along: Directions, neurons: RunNeurons | None) -> list[Tensor]:
    """eps for each parameter.

    Args:
        perturb: says how.
        along: gradients or momentum; 0 where nothing may move.
        neurons: those of the run, where the perturbation looks at them.
    """
    if isinstance(perturb, NeuronPerturb):
        assert neurons is not None
        now = neurons.now(perturb.psi)
        return perturb.among(along.params, along.grads, along.names, now)
    return perturb.perturbation(along.params, along.grads, along.names)
