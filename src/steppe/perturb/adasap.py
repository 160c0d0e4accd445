"""Perturbation scaled by importance: what matters least is perturbed most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.norm import global_norm, squares_of
from steppe.core.protocols import Ascent, Perturb

SCOPES = ("network", "layer")
NORMS = ("global", "neuron")


@Perturb.registry.register("adasap")
@dataclass(frozen=True, kw_only=True)
class AdaSap(Ascent):
    """eps_i = rho_i T^2 g_i / ||T g||_2, a radius for each neuron (output channel) from its score.

    ``rho_i = rho_max - (s_i - s_min) / (s_max - s_min) (rho_max - rho_min)``, ``s_i = ||w_i||_2``,
    found anew at each step. The paper's Eq. 2 and 3 have a sign and a factor too many and give
    negative radii, its Eq. 6 divides by ||g_i||: this is their evident intent. Neurons that are
    zero are removed ones: they have no say in s_min and are not perturbed. A bias moves with its
    neuron; other vectors (norms) have no score and take rho_min. Where all scores are equal every
    radius is rho_min. With rho_min = rho_max it is ASAM, or SAM if not adaptive, bit for bit.

    Args:
        rho_min, rho_max: radii of the most and of the least important neuron.
        adaptive, eta: T = |w| + eta on weights, as in ASAM; else T = 1.
        scope: where s_min and s_max are found: network or layer.
        norm: ||T g|| over everything (global), or over each neuron alone.

    Source: AdaSAP, Eq. 2 to 6, Algorithm 2; see docs/methods.md for what is read differently.
    """

    rho_min: float = 0.01
    rho_max: float = 2.0
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
        for value, known in ((self.scope, SCOPES), (self.norm, NORMS)):
            if value not in known:
                raise SteppeError(f"adasap knows {' and '.join(known)}", got=repr(value))

    @property
    def active(self) -> bool:
        return self.rho_max > 0.0

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        radii = self.radii(weights, names)
        once = self._times(weights, grads, names)
        twice = self._times(weights, once, names)
        if self.norm == "global":
            # in the order of operations of rho / norm, so that equal radii give ASAM's bits
            over = (global_norm(once) + 1e-12).reciprocal()
            scales = [over.to(r.device) * r.to(over.dtype) for r in radii]
        else:
            scales = self._each(once, radii, weights, names)
        shaped = [
            s.view(-1, *[1] * (t.ndim - 1)) if t.ndim else s[0]
            for s, t in zip(scales, twice, strict=True)
        ]
        torch._foreach_mul_(twice, shaped)
        return twice

    def _each(
        self, once: list[Tensor], radii: list[Tensor], weights: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        """rho / ||T g|| neuron by neuron, its bias counted in."""
        owners = _owners(weights, names)
        squares = [squares_of(_rows(t, i in owners)).sum(1) for i, t in enumerate(once)]
        for i, owner in owners.items():
            squares[owner] = squares[owner] + squares[i]
        for i, owner in owners.items():
            squares[i] = squares[owner]
        return [r / (s.sqrt() + 1e-12) for r, s in zip(radii, squares, strict=True)]

    def radii(self, weights: list[Tensor], names: list[str]) -> list[Tensor]:
        """rho for each neuron of each tensor, ``[out]``; ``[1]`` where there are no neurons.

        Args:
            weights: the parameters.
            names: theirs.
        """
        scored = [i for i, w in enumerate(weights) if w.ndim > 1]
        scores = [torch.linalg.vector_norm(_rows(weights[i]), dim=1) for i in scored]
        groups: list[list[int]] = [list(range(len(scored)))] if scored else []
        if self.scope == "layer":
            groups = [[i] for i in range(len(scored))]
        radii: list[Any] = [None] * len(weights)
        for group in groups:
            every = torch.cat([scores[i].to(scores[group[0]].device) for i in group])
            mapped = self._map(every).split([len(scores[i]) for i in group])
            for i, rho in zip(group, mapped, strict=True):
                radii[scored[i]] = rho
        for i, owner in _owners(weights, names).items():
            radii[i] = radii[owner]
        return [
            torch.full((1,), self.rho_min, dtype=w.real.dtype, device=w.device)
            if rho is None
            else rho.to(w.device, w.real.dtype)
            for w, rho in zip(weights, radii, strict=True)
        ]

    def _map(self, scores: Tensor) -> Tensor:
        """The radius of each score; 0 for a neuron that is gone."""
        alive = scores > 0
        low = scores.masked_fill(~alive, float("inf")).min()
        wide = scores.max() - low
        share = torch.where(wide > 0, (scores - low) / wide, 1.0)
        return (self.rho_max - share * (self.rho_max - self.rho_min)) * alive

    def _times(self, weights: list[Tensor], grads: list[Tensor], names: list[str]) -> list[Tensor]:
        """T g."""
        return [
            g * (w.abs() + self.eta) if self.adaptive and "weight" in n else g.clone()
            for w, g, n in zip(weights, grads, names, strict=True)
        ]


def _rows(t: Tensor, apart: bool = False) -> Tensor:
    """``[neurons, rest]``; a vector is one of them, or apart one for each entry."""
    return t.flatten(1) if t.ndim > 1 else t.reshape(*((-1, 1) if apart else (1, -1)))


def _owners(weights: list[Tensor], names: list[str]) -> dict[int, int]:
    """Bias -> the weight of the same layer, by position, where both are there and fit."""
    at = {name: i for i, name in enumerate(names)}
    owners = {}
    for i, (w, name) in enumerate(zip(weights, names, strict=True)):
        owner = at.get(name.removesuffix("bias") + "weight") if name.endswith("bias") else None
        if owner is not None and weights[owner].ndim > 1 and len(weights[owner]) == len(w):
            owners[i] = owner
    return owners
