"""The sparse copy z and the multiplier u, kept as one tensor and a bit per weight.

At a dual update v = x + u; z takes the entries of v that a mask m keeps and u the others, so both
are in v and m: z = m v, u = (1 - m) v. That is 4.125 bytes per weight in float32, not 8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.protocols import Tensors
from steppe.core.step_context import StepContext
from steppe.coupling.admm.bits import packed, split, united
from steppe.coupling.admm.rounding import Rounding

State = Mapping[str, Mapping[str, Tensor]]
"""``v``: name -> v; ``kept``: name -> m in bits; ``u``: u of those whose multiplier rested."""


def begin(weights: Tensors, masks: Tensors, rounding: Rounding) -> dict[str, Tensors]:
    """The state with z = m x and u = 0.

    Args:
        weights: name -> x.
        masks: name -> True = kept.
        rounding: how v is kept.
    """
    return {
        "v": {n: rounding(w.detach().masked_fill(~masks[n], 0), n, -1) for n, w in weights.items()},
        "kept": {n: packed(masks[n]) for n in weights},
    }


def _parts(state: State, name: str) -> tuple[Tensor, Tensor]:
    """z and u of a weight; a u that rested is the state's own."""
    z, u = split(state["v"][name], state["kept"][name])
    return z, state.get("u", {}).get(name, u)


def sparse_copy(state: State, name: str) -> Tensor:
    """z of a weight, a new tensor."""
    return _parts(state, name)[0]


def multiplier(state: State, name: str) -> Tensor:
    """u of a weight, a new tensor."""
    u = _parts(state, name)[1]
    return u.clone() if name in state.get("u", {}) else u


def apart(state: State, name: str, x: Tensor) -> Tensor:
    """x - z + u of a weight, in this order of the two sums.

    Args:
        state: the coupling's.
        name: of the weight.
        x: as it is now.
    """
    z, u = _parts(state, name)
    return (x - z).add_(u)


def renew(context: StepContext, resting: Collection[str], rounding: Rounding) -> None:
    """z <- P(x + u), u <- u + x - z, a weight at a time but for the projection.

    Args:
        context: after the optimiser's step.
        resting: names of the weights whose u stays as it is.
        rounding: how v is kept.
    """
    state = context.state
    rested: Tensors = {}
    for name, x in context.weights.items():
        u = multiplier(state, name)
        state["v"][name] = rounding(u + x, name, 2 * context.step)
        if name in resting:
            rested[name] = u
    masks = context.project(state["v"], context.sparsity)
    state["kept"] = {name: packed(masks[name]) for name in state["v"]}
    state.pop("u", None)
    if rested:
        state["u"] = rested


def rescale(context: StepContext, ratio: float, rounding: Rounding) -> None:
    """u <- ratio u, as the unscaled multiplier lam u stays when the penalty changes.

    Args:
        context: after a dual update.
        ratio: the penalty before over that after.
        rounding: how v is kept.
    """
    state = context.state
    for name, x in context.weights.items():
        z, u = split(state["v"][name], state["kept"][name])
        u = u.to(torch.promote_types(u.dtype, x.dtype)) * ratio
        state["v"][name] = united(z, rounding(u, name, 2 * context.step + 1))
    for u in state.get("u", {}).values():
        u.mul_(ratio)


@dataclass(frozen=True)
class Unpacked(Mapping[str, Tensor]):
    """Name -> z or u, made when it is looked at."""

    state: State
    made_by: Callable[[State, str], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.made_by(self.state, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.state["v"])

    def __len__(self) -> int:
        return len(self.state["v"])


def compacted(state: dict[str, Tensors]) -> dict[str, Tensors]:
    """The state that an earlier version saved with z and u apart, as it is kept now."""
    if "z" not in state:
        return state
    rest = {key: value for key, value in state.items() if key not in ("z", "u")}
    z, u = state["z"], state["u"]
    kept = {n: t != 0 for n, t in z.items()}
    # where the multiplier of a weight that did not move rested, it lies under the sparse copy
    both = {n: u[n] for n, m in kept.items() if bool((m & (u[n] != 0)).any())}
    v = {n: t if n in both else torch.where(kept[n], t, u[n]) for n, t in z.items()}
    bits = {n: packed(m) for n, m in kept.items()}
    return rest | {"v": v, "kept": bits} | ({"u": both} if both else {})
