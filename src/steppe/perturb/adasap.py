"""Perturbation scaled by importance: what matters least is perturbed most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.neurons import Neurons
from steppe.core.norm import global_norm, squares_of
from steppe.core.protocols import NeuronPerturb, Perturb

SCOPES = ("network", "layer")
NORMS = ("global", "neuron")


@Perturb.registry.register("adasap")
@dataclass(frozen=True, kw_only=True)
class AdaSap(NeuronPerturb):
    """eps_i = rho_i T^2 g_i / ||T g||_2, a radius for each neuron (output channel) from its score.

    ``rho_i = rho_max - (s_i - s_min) / (s_max - s_min) (rho_max - rho_min)``, ``s_i = psi(w_i)``,
    found anew at each step. The paper's Eq. 2 and 3 have a sign and a factor too many and give
    negative radii, its Eq. 6 divides by ||g_i||: this is their evident intent.

    Only neurons that the run can prune have a score: an output layer that stays dense and layers
    that are excluded do not move s_min and s_max. The bias of a neuron and the scale and shift of
    the norm behind it take its radius; coupled channels have one score and one radius. Neurons
    that are zero are removed ones: they have no say and are not perturbed. What belongs to no such
    neuron takes ``rho_rest``. Where all scores are equal every radius is rho_min. With rho_min =
    rho_max it is ASAM, or SAM if not adaptive, bit for bit.

    Args:
        rho_min, rho_max: radii of the most and of the least important neuron.
        rho_rest: radius of what belongs to no neuron that can be pruned; None: that of a neuron of
            mean score.
        psi: the score of neurons; one that needs gradients gets running means of those at x.
        adaptive, eta: T = |w| + eta on weights, as in ASAM; else T = 1.
        on: alive, or all: weights that the coupling holds at zero too, in neurons that are left.
        scope: where s_min and s_max are found: network, or layer (each group of coupled channels).
        norm: ||T g|| over everything (global), or over each neuron alone.

    Source: AdaSAP, Eq. 2 to 6, Algorithm 2; see docs/methods.md for what is read differently.
    """

    rho_min: float = 0.01
    rho_max: float = 2.0
    rho_rest: float | None = None
    adaptive: bool = True
    eta: float = 0.01
    scope: str = "network"
    norm: str = "global"
    name = "adasap"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.rho_min <= self.rho_max < float("inf") or self.eta < 0.0:
            raise SteppeError(
                "adasap needs 0 <= rho_min <= rho_max < infinity and eta >= 0",
                got=f"rho_min {self.rho_min}, rho_max {self.rho_max}, eta {self.eta}",
            )
        if self.rho_rest is not None and not 0.0 <= self.rho_rest < float("inf"):
            raise SteppeError(
                "adasap needs 0 <= rho_rest < infinity",
                got=repr(self.rho_rest),
                way_out="a radius, or None for that of a neuron of mean score",
            )
        for value, known in ((self.scope, SCOPES), (self.norm, NORMS)):
            if value not in known:
                raise SteppeError(f"adasap knows {' and '.join(known)}", got=repr(value))

    @property
    def active(self) -> bool:
        return max(self.rho_max, self.rho_rest or 0.0) > 0.0

    def among(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str], neurons: Neurons
    ) -> list[Tensor]:
        once = self._times(weights, grads, names)
        twice = self._times(weights, once, names)
        numbers = [neurons.members.get(name) for name in names]
        radii = self.radii(neurons)
        if self.norm == "global":
            # in the order of operations of rho / norm, so that equal radii give ASAM's bits
            over = (global_norm(once) + 1e-12).reciprocal()
            scaled = over.to(radii.device) * radii.to(over.dtype)
            # of an entry of no neuron the number is -1, and the last radius is the rest's
            scales = [
                scaled.to(t.device)[-1 if i is None else i]
                for i, t in zip(numbers, once, strict=True)
            ]
        else:
            scales = self._each(once, radii, numbers)
        torch._foreach_mul_(twice, scales)
        return twice

    def _each(
        self, once: list[Tensor], radii: Tensor, numbers: list[Tensor | None]
    ) -> list[Tensor]:
        """rho / ||T g|| neuron by neuron; what is of none in one tensor counts together."""
        last = len(radii) - 1
        owners = [
            torch.tensor(last + i, device=once[i].device)
            if n is None
            else torch.where(n < 0, last + i, n)
            for i, n in enumerate(numbers)
        ]
        squares = radii.new_zeros(last + len(once))
        for t, owner in zip(once, owners, strict=True):
            sums = squares_of(t).sum_to_size(owner.shape).to(squares)
            squares.index_add_(0, owner.flatten().to(squares.device), sums.flatten())
        every = torch.cat([radii[:last], radii[last:].expand(len(once))])
        scales = every / (squares.sqrt() + 1e-12)
        return [scales.to(owner.device)[owner] for owner in owners]

    def radii(self, neurons: Neurons) -> Tensor:
        """``[neurons + 1]``: rho of each, 0 for one that is gone; the last is the rest's.

        Args:
            neurons: with their scores.
        """
        layers = list(neurons.sizes) if self.scope == "layer" else []
        scores, alives = (t.split(layers or [len(t)]) for t in (neurons.scores, neurons.alive))
        shares = torch.cat([_share(s, alive) for s, alive in zip(scores, alives, strict=True)])
        alive = neurons.alive.to(shares.dtype)
        wide = self.rho_max - self.rho_min
        radii = (self.rho_max - shares * wide) * alive
        if self.rho_rest is not None:
            return torch.cat([radii, radii.new_full((1,), self.rho_rest)])
        living = alive.sum()
        mean = torch.where(living > 0, (shares * alive).sum() / living.clamp(min=1.0), 1.0)
        return torch.cat([radii, (self.rho_max - mean * wide)[None]])

    def _times(self, weights: list[Tensor], grads: list[Tensor], names: list[str]) -> list[Tensor]:
        """T g."""
        return [
            g * (w.abs() + self.eta) if self.adaptive and "weight" in n else g.clone()
            for w, g, n in zip(weights, grads, names, strict=True)
        ]


def _share(scores: Tensor, alive: Tensor) -> Tensor:
    """(s - s_min) / (s_max - s_min) among those that are alive; 1 where all are equal."""
    if not len(scores):
        return scores
    low = scores.masked_fill(~alive, float("inf")).min()
    wide = scores.masked_fill(~alive, float("-inf")).max() - low
    return torch.where(wide > 0, (scores - low) / wide, 1.0)
