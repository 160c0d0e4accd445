"""Weights that shall go are pulled to zero ever harder: growing regularisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steppe.core.errors import SteppeError, unknown
from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext

PICKS = ("now", "grown")


@Coupling.registry.register("growing_reg")
@dataclass(frozen=True, kw_only=True)
class GrowingReg(Coupling):
    """g(w) += r w, where r grows for the weights that shall go; then they are zero.

    Every ``update_every`` steps r <- r + ``delta`` up to ``ceiling``; ``hold`` steps later the
    weights are removed and the rest trains on. With coupled channels r is that of everything that
    belongs to a channel, norms included. Ordinary weight decay comes on top.

    Args:
        pick: ``now`` chooses at once (GReg-1); ``grown`` when r of all weights alike has grown by
            ``pick_delta`` to ``pick_ceiling`` (GReg-2), as what the loss holds less firmly
            shrinks first.
        update_every: steps between two updates of r.
        delta: by how much r grows.
        ceiling: r's largest value.
        hold: steps from there to removal. A shorter run is cut at its end.
        pick_delta, pick_ceiling: the same until the choice, with ``grown``.
        recover: r of the weights that stay, 0 or negative.

    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021.
    """

    pick: str = "now"
    update_every: int = 5
    delta: float = 1e-4
    ceiling: float = 1.0
    hold: int = 40_000
    pick_delta: float = 1e-5
    pick_ceiling: float = 1e-2
    recover: float = 0.0
    name = "growing_reg"

    def __post_init__(self) -> None:
        if self.pick not in PICKS:
            raise unknown("pick of growing_reg", self.pick, PICKS)
        steps = (self.delta, self.pick_delta, self.ceiling, self.pick_ceiling)
        if self.update_every < 1 or self.hold < 0 or not all(x > 0.0 for x in steps):
            raise SteppeError(
                "growing_reg needs update_every >= 1, hold >= 0, and deltas and ceilings above 0",
                got=f"update_every {self.update_every}, hold {self.hold}, delta {self.delta}, "
                f"ceiling {self.ceiling}, pick_delta {self.pick_delta}, "
                f"pick_ceiling {self.pick_ceiling}",
            )
        if not -self.ceiling <= self.recover <= 0.0:
            raise SteppeError(
                "what stays may be pushed away from zero, by no more than the ceiling",
                got=f"recover {self.recover}, ceiling {self.ceiling}",
                way_out="recover 0, or -1e-4 as in the authors' code",
            )

    def init(self, context: StepContext) -> dict[str, Tensors]:
        state = {"reg": {name: torch.zeros_like(w) for name, w in context.weights.items()}}
        if self.pick == "now":
            self._choose(state, context)
        return state

    def _choose(self, state: dict[str, Tensors], context: StepContext) -> None:
        weights, earlier = context.weights, state.get("mask")
        state["mask"] = context.project(weights, context.sparsity, within=earlier)
        when = torch.tensor([context.sparsity, context.step], dtype=torch.float64)
        state["chosen"] = dict.fromkeys(weights, when)
        for name, reg in state["reg"].items():
            reg[state["mask"][name]] = self.recover
        _leave(state["reg"], context.fixed)

    def idle(self, steps: int) -> list[str]:
        if steps >= self.update_every:
            return []
        return [
            f"the penalty grows every {self.update_every} steps, and a "
            f"training of {steps} steps never does: nothing pushes the weights towards zero"
        ]

    def add_gradient(self, context: StepContext) -> None:
        weights, grads, state = context.weights, context.grads, context.state
        names = list(weights)
        torch._foreach_addcmul_(
            [grads[n] for n in names], [weights[n] for n in names], [state["reg"][n] for n in names]
        )

    def after_step(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        if (context.step + 1) % self.update_every == 0:
            if "mask" not in state:
                self._grow_all(state, context)
            else:
                self._grow(state, context)
        if "gone" in state:
            apply_masks(weights, state["gone"])

    def _grow_all(self, state: dict[str, Tensors], context: StepContext) -> None:
        for reg in state["reg"].values():
            reg.add_(self.pick_delta).clamp_(max=self.pick_ceiling)
        _leave(state["reg"], context.fixed)
        updates = (context.step + 1) // self.update_every
        if updates >= _ratio(self.pick_ceiling, self.pick_delta) and context.sparsity > 0:
            self._choose(state, context)

    def _grow(self, state: dict[str, Tensors], context: StepContext) -> None:
        sparsity, since = next(iter(state["chosen"].values())).tolist()
        if context.sparsity > sparsity:
            self._choose(state, context)
            since = context.step
        for name, reg in state["reg"].items():
            grown = (reg + self.delta).clamp_(max=self.ceiling)
            reg.copy_(torch.where(state["mask"][name], reg, grown))
        first = self.pick_ceiling if self.pick == "grown" else 0.0
        grows = _ratio(max(self.ceiling - first, 0.0), self.delta) * self.update_every
        if context.step - since >= grows + self.hold:
            state["gone"] = state["mask"]

    def alive(self, weights: Tensors, state: Mapping[str, Tensors]) -> Tensors:
        return state.get("gone", {})

    def finish(self, context: StepContext) -> Tensors:
        weights, state, project = context.weights, context.state, context.project
        masks = project(weights, context.sparsity, within=state.get("mask"))
        apply_masks(weights, masks)
        return masks


def _leave(reg: Tensors, fixed: Tensors) -> None:
    """What can never go is neither pushed towards zero nor away from it."""
    for name, mask in fixed.items():
        reg[name].masked_fill_(mask, 0.0)


def _ratio(whole: float, step: float) -> int:
    """How many steps it takes; 0.1 / 0.01 are 10 of them, not 11."""
    return math.ceil(whole / step - 1e-6)
