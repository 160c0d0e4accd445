"""SAM through the network's function, not through its loss."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Perturb
from steppe.perturb.sam import Sam


@Perturb.registry.register("functional_sam")
@dataclass(frozen=True, kw_only=True)
class FunctionalSam(Sam):
    """g = J(x + eps)^T dL/df(x), eps = rho g(x) / ||g(x)||_2, J the Jacobian of the outputs f.

    SAM's gradient has two parts: the Jacobian moves, and so does the gradient of the loss by the
    outputs. The second lowers sharpness by what it does to the logits alone, which dominates in
    language models and does not help them. Here it stays that at x.

    The closure gives the outputs to ``sparsifier.loss``, and the loss depends on the weights
    through them alone.

    Args:
        rho: radius of the ball, in the weights' units; 0 costs and does nothing.
        every: perturb only each so-manyth step, the first included.
        on: alive, or all: weights that the coupling holds at zero too.

    Source: Singh, Mobahi, Agarwala & Dauphin, Avoiding spurious sharpness minimization broadens
    applicability of SAM, ICML 2025 (without its preconditioned perturbation).
    """

    name = "functional_sam"
    through = "outputs"
