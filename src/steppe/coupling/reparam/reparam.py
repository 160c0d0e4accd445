"""Weights are products m * w, whose L2 shrinks them like an L1 that can be tuned on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext
from steppe.coupling.reparam.parametrized import Parametrized
from steppe.coupling.reparam.strength import Strength

INITS = ("sign_flip", "balanced", "given")


@Coupling.registry.register("reparam")
@dataclass(frozen=True, kw_only=True)
class Reparam(Parametrized):
    """x = m * w elementwise; the loss gets alpha_k (||m||^2 + ||w||^2).

    At a fixed x that penalty is least for |m| = |w|, where it is 2 alpha ||x||_1. Small steps keep
    m^2 - w^2 = beta exp(-4 sum of learning rate * alpha): while it is large the product can change
    its sign and learns like plain weights; as it vanishes the bias turns from L2 to L1.

    What a mask zeroes is zero in both factors and stays so. A training that begins anew after a
    cut splits the product as at first and starts with alpha again. Memory: one more copy of the
    prunable weights and of the optimiser's state for them.

    Args:
        init_as: ``sign_flip``: m0 w0 = x, m0^2 - w0^2 = beta (PILoT); ``balanced``: m0 = |x|^(1/2),
            w0 = sign(x) m0 (spred; an x of 0 never moves); ``given``: m0 = ``m``, w0 = x / m.
        beta: of sign_flip.
        m: of given.
        alpha: a. torch's ``weight_decay`` c on the factors would be a = c / 2; it is off.
        decay: over the epochs: constant, harmonic, quadratic, geometric or controlled; see
            `steppe.coupling.reparam.strength`.
        rate: of geometric.
        delta, l1_threshold: of controlled.

    Source: PILoT (ICLR 2025), eq. 3 and algorithm 1; spred: Ziyin & Wang 2023.
    """

    init_as: str = "sign_flip"
    beta: float = 1.0
    m: float = 1.0
    alpha: float = 1e-4
    decay: str = "constant"
    rate: float = 0.95
    delta: float = 1.01
    l1_threshold: float = 0.0
    name = "reparam"
    parts = ("m", "w")
    decays = False
    strength = ("alpha",)

    def __post_init__(self) -> None:
        if self.init_as not in INITS:
            raise unknown("init_as of reparam", self.init_as, INITS)
        if not 0.0 <= self.beta < float("inf") or not self.m > 0.0:
            raise SteppeError(
                "reparam needs a finite beta >= 0 and m > 0",
                got=f"beta {self.beta}, m {self.m}",
                way_out="beta 1, m 1",
            )
        _ = self._strength

    @property
    def _strength(self) -> Strength:
        return Strength(self.alpha, self.decay, self.rate, self.delta, self.l1_threshold)

    @property
    def watches(self) -> str:
        return self._strength.watches

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        x = weight.detach()
        if self.init_as == "given":
            return torch.full_like(x, self.m), x / self.m
        beta = self.beta if self.init_as == "sign_flip" else 0.0
        if beta == 0.0:
            # alike to the last bit: the least difference grows where the product is nearly zero
            m = x.abs().sqrt_()
            return m, m * x.sign()
        # hypot does not overflow
        m = ((torch.hypot(2 * x, torch.full_like(x, beta)) + beta) / 2).sqrt_()
        return m, x / m

    def join(self, *parts: Tensor) -> Tensor:
        return parts[0] * parts[1]

    def init(self, context: StepContext) -> dict[str, Tensors]:
        return super().init(context) | {"strength": self._beginning()}

    def _beginning(self) -> Tensors:
        return {"alpha": torch.tensor(self.alpha), "accuracy": torch.tensor(0.0)}

    def add_gradient(self, context: StepContext) -> None:
        weights, grads, state = context.weights, context.grads, context.state
        twice = 2.0 * float(state["strength"]["alpha"])
        torch._foreach_add_([grads[n] for n in weights], list(weights.values()), alpha=twice)

    def after_step(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        if context.epoch is not None:
            alpha, before = (float(state["strength"][k]) for k in ("alpha", "accuracy"))
            now = self._strength.after(alpha, before, context.epoch, lambda: self._l1(weights))
            seen = torch.tensor(context.epoch.accuracy or 0.0)
            state["strength"] = {"alpha": torch.tensor(now), "accuracy": seen}
        super().after_step(context)

    def shown(self, state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        names = {"alpha": "alpha"} | (
            {"accuracy": "train_accuracy"} if self.watches == "accuracy" else {}
        )
        return {names[k]: float(v) for k, v in state.get("strength", {}).items() if k in names}

    def _l1(self, weights: Tensors) -> Tensor:
        norms = torch._foreach_norm(list(self.join_all(weights).values()), 1)
        return torch.stack([n.to(norms[0].device) for n in norms]).sum()

    def restarted(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        for name, part in self.split_all(self.join_all(weights)).items():
            weights[name].copy_(part)
        super().restarted(context)
        state["strength"] = self._beginning()
