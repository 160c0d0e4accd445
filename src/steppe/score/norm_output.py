"""What the norms of a residual stream give of a dimension."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Score
from steppe.score.provided import ProvidedScore


@Score.registry.register("norm_output")
@dataclass(frozen=True, kw_only=True)
class NormOutput(ProvidedScore):
    """E|n_j(x)| over tokens x, n the output of a norm of the residual stream; mean over the norms.

    Source: the embedding channels of Minitron (Muralidharan et al. 2024, arXiv 2407.14679).
    """

    name = "norm_output"
    needs = ("norm_output",)
    ranks = "the dimensions of a residual stream"
    parts = "coupling reread and structure hidden, as method hidden has them"
