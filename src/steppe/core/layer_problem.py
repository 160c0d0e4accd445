"""One layer's own pruning problem, as the blockwise engine hands it to a coupling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from steppe.core.protocols import Score


@dataclasses.dataclass
class LayerProblem:
    """min over W of tr((W - W0) G (W - W0)') with exactly ``prune`` zeros in W.

    Args:
        name: the layer, for messages.
        weight: W0 ``[rows, columns]``, dense, float32, the input dimension last. Not to be
            changed in place.
        statistics: what calibration saw: ``gram`` G ``[columns, columns]``, the mean over
            tokens of x x' (float32, symmetric); ``activation_square`` ``[1, columns]``, its
            diagonal; ``activation_mean`` and ``activation_variance``, ``[1, columns]`` too. Only
            what the score and the coupling need is there. Not to be changed: layers with the
            same inputs share it.
        prune: how many of the weights, or of the structure's units, are zeroed, exactly.
        choose: ``(saliencies [rows, some columns], number to prune) -> mask``, True = kept,
            by the structure and the budget. N:M decides the number itself.
        score: what matters; called through `saliency`.
        multiple: columns that are chosen together: M of N:M, else 1.
        unit: neighbouring columns that live and die together in all rows, of structures of
            ``whole_inputs``.
        note: called with one sentence for each fallback taken; it ends in the record.
        gone: booleans ``[rows, columns]``, True where the weight was zero before and stays so;
            None where there is none.
        shift: what the layer's bias gains ``[rows]``, set by solvers that shift it.
    """

    name: str
    weight: Tensor
    statistics: Mapping[str, Tensor]
    prune: int
    choose: Callable[[Tensor, int], Tensor]
    score: Score
    multiple: int = 1
    unit: int = 1
    note: Callable[[str], None] = lambda text: None
    gone: Tensor | None = None
    shift: Tensor | None = None

    def select(self, saliency: Tensor, prune: int, columns: slice = slice(None)) -> Tensor:
        """A mask as the structure and the budget choose it; what was zero stays zero.

        Zeros that were there count: they are the first of what is pruned.

        Args:
            saliency: ``[rows, as many columns]``.
            prune: how many of these weights go at least.
            columns: which of the layer's columns they are.

        Returns:
            Booleans ``[rows, as many columns]``, True = kept.
        """
        if self.gone is None:
            return self.choose(saliency, prune)
        gone = self.gone[:, columns]
        least = torch.finfo(saliency.dtype).tiny  # an input that is always zero comes after
        mask = self.choose(saliency.abs().clamp_min(least).masked_fill(gone, 0.0), prune)
        return mask & ~gone

    def saliency(
        self,
        weight: Tensor,
        columns: slice = slice(None),
        extra: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Saliencies of some columns of a weight matrix.

        Args:
            weight: ``[rows, as many columns]``.
            columns: which of the layer's columns they are.
            extra: statistics that the coupling provides itself, already cut to the columns.
        """
        stats = dict(extra or {})
        for need in self.score.needs:
            if need not in stats:
                stats[need] = self.statistics[need][..., columns]
        return self.score.score(weight, stats, self.name)
