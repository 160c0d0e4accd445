"""What a score needs to know, gathered while training as long as a cut may still read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from steppe.core.group import Group
from steppe.core.layer import Layer, home_of, unwrap
from steppe.core.norm import global_norm
from steppe.core.protocols import NeuronPerturb, Perturb, Tensors
from steppe.core.split import part_of
from steppe.core.statistic import STATISTICS, Known, Statistic, WeightMemory
from steppe.method import Method


class Watcher(Protocol):
    """What looks at passes."""

    def active(self, on: bool) -> None:
        """Told before and after each pass at x that is observed."""


class GatheredStatistics:
    """The statistics of a method's score, and of the score of neurons that a perturbation reads.

    Args:
        method: its score and perturbation say what is needed, its schedule, perturbation and
            coupling until when.
        model: whose layers are looked at.
        layers: the prunable ones.
        known: statistic -> name -> value, for those that are known beforehand (a language model's
            calibration); they are not gathered on the way.
        total: steps of the run.
        scores_when_due: whether the coupling scores only when the schedule says so.
        groups: the coupled channels, if any.
        shifts_by: the statistic that the coupling reads beside the score's, if any.
        memory: from a weight's name to what its optimiser remembers of it.
    """

    def __init__(
        self,
        method: Method,
        model: nn.Module,
        layers: Sequence[Layer],
        known: Mapping[str, Tensors],
        total: int,
        scores_when_due: bool,
        groups: Sequence[Group] = (),
        *,
        shifts_by: str = "",
        memory: Callable[[str], WeightMemory],
    ) -> None:
        of_cuts = [*method.score.needs, *filter(None, [shifts_by])]
        needs = list(dict.fromkeys([*of_cuts, *_of_neurons(method.perturb)]))
        self.statistics: dict[str, Statistic] = {
            n: Known(values=dict(known[n])) if n in known else STATISTICS[n]() for n in needs
        }
        self._gathered = any(s.gathered for s in self.statistics.values())
        self.waits = any(self.statistics[n].gathered for n in of_cuts if n not in known)
        """Whether nothing can be pruned before the first gradient."""
        self.watchers: list[Watcher] = []
        """Others that look at the passes that are observed."""
        bare = unwrap(model)
        for statistic in self.statistics.values():
            statistic.prepare({x.name: (x, home_of(bare, x.name)) for x in layers})
            statistic.remember(memory)
            if groups:
                statistic.couple(groups)
        self._until = total
        if self.statistics and scores_when_due:
            perturb, schedule = method.perturb, method.schedule
            read = (
                s
                for s in reversed(range(total))
                if schedule.due(s, total) or _of_neurons(perturb.at(s / total))
            )
            self._until = next(read, 0)

    def wanted(self, step: int, begun: bool) -> bool:
        """Whether this step's are; until the coupling has begun they are."""
        return self._gathered and (not begun or step <= self._until)

    def begin(self) -> None:
        """A step begins, whose micro-batches may come in several calls."""
        for statistic in self.statistics.values():
            statistic.begin()

    def active(self, on: bool) -> None:
        """Whether what passes through the layers now is to be observed."""
        for looks in (*self.statistics.values(), *self.watchers):
            looks.active(on)

    @torch.no_grad()
    def observe(
        self,
        weights: Tensors,
        parameters: Mapping[str, nn.Parameter],
        unscale: float,
        may_overflow: bool,
    ) -> bool:
        """Take in the gradient at x of one step; False where it overflowed and was left out."""
        grads = {
            n: part_of(p.grad) if p.grad.layout == torch.strided else p.grad.to_dense()
            for n, p in parameters.items()
            if p.grad is not None
        }
        unscaled = {n: g * unscale if unscale != 1.0 else g for n, g in grads.items()}
        if may_overflow and unscaled and not bool(global_norm(list(unscaled.values())).isfinite()):
            return False
        for statistic in self.statistics.values():
            statistic.observe(weights, unscaled)
        return True

    @property
    def values(self) -> dict[str, dict[str, Tensor]]:
        """Statistic -> name -> value."""
        return {n: s.values for n, s in self.statistics.items()}


def _of_neurons(perturb: Perturb) -> list[str]:
    """The statistics that a perturbation's scores of neurons read."""
    told = (part for part in perturb.parts if isinstance(part, NeuronPerturb))
    return [need for part in told for need in part.psi.needs]
