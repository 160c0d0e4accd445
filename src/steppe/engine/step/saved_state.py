"""What a run must remember besides its model and its coupling, to go on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steppe.core.protocols import Tensors
from steppe.engine.ranks import world
from steppe.engine.step.epochs import Epochs
from steppe.engine.step.gathered_statistics import GatheredStatistics
from steppe.engine.step.gradient_passes import GradientPasses
from steppe.engine.step.objective_loss import ObjectiveLoss
from steppe.engine.step.rewind import Rewind


class SavedState:
    """Optimisers, scaler, statistics, what is rewound, the reference, random numbers.

    Args:
        passes: their optimisers with the scaler, and what they saw of the network.
        statistics: of the score.
        objective: its reference network.
        epochs: what they counted.
        rewind: what it keeps.
    """

    def __init__(
        self,
        passes: GradientPasses,
        statistics: GatheredStatistics,
        objective: ObjectiveLoss,
        epochs: Epochs,
        rewind: Rewind,
    ) -> None:
        self._optimizers, self._neurons = passes.optimizers, passes.neurons
        self._statistics, self._objective = statistics, objective
        self._epochs, self._rewind = epochs, rewind

    def collect(self) -> dict[str, Any]:
        """As plain data and tensors."""
        cuda: list[Tensor] = []
        if torch.cuda.is_available():
            # of several processes each has a GPU of its own, and all draw alike
            alone = world() == 1
            cuda = torch.cuda.get_rng_state_all() if alone else [torch.cuda.get_rng_state()]
        scaler, reference = self._optimizers.scaler, self._objective.made
        return {
            "optimizer": self._optimizers.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "rewind": self._rewind.kept,
            "followers": self._neurons.followers if self._neurons else {},
            "seen": self._epochs.seen,
            "statistics": self._statistics.values,
            # saved, as the model may not begin at the same weights when the run goes on
            "reference": reference.state_dict() if reference is not None else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
        }

    def restore(self, state: dict[str, Any], home: Callable[[Tensors], Tensors]) -> list[str]:
        """What `collect` gave.

        Args:
            state: among other things.
            home: copies beside the weights of their names.

        Returns:
            Sentences on what could not be put back.
        """
        self._optimizers.load_state_dict(state["optimizer"])
        if self._objective.made is not None:
            self._objective.made.load_state_dict(state["reference"])
        if self._optimizers.scaler:
            self._optimizers.scaler.load_state_dict(state["scaler"])
        for name, statistic in self._statistics.statistics.items():
            statistic.values = home(state["statistics"][name])
        self._rewind.kept = None if state["rewind"] is None else home(state["rewind"])
        self._epochs.seen = state["seen"].clone()
        if self._neurons is not None:
            self._neurons.load(state.get("followers", {}))
        torch.set_rng_state(state["rng"].cpu())
        saved, here = state["cuda_rng"], torch.cuda.device_count()
        if saved and here and world() > 1:
            torch.cuda.set_rng_state(saved[0].cpu())
            return []
        if saved and len(saved) != here:
            return [
                f"the state holds the random numbers of {len(saved)} GPUs and {here} are here: "
                "draws on them are others than in the run that was stopped"
            ]
        if saved:
            torch.cuda.set_rng_state_all([t.cpu() for t in saved])
        return []

    def move(self, home: Callable[[Tensors], Tensors]) -> None:
        """Go where the weights went."""
        for statistic in self._statistics.statistics.values():
            statistic.values = home(statistic.values)
        if self._rewind.kept is not None:
            self._rewind.kept = home(self._rewind.kept)
