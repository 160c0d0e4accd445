"""One or several optimisers of a model as one: cleared, stepped, saved together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate.state import GradientState
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.split import is_split, like, parts_in

AVERAGED = ("x", "z")
"""What schedule-free optimisers call the sequences from which they make the weights."""


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimiser inside accelerate's wrapper, which steps only where gradients are shared."""
    while hasattr(optimizer, "gradient_state") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def scheduled(optimizer: Optimizer) -> bool:
    """Whether a learning-rate scheduler of torch is at work, which knows only the groups it saw."""
    return bool(getattr(optimizer.step, "_wrapped_by_lr_sched", False))


class Optimizers:
    """The optimisers that make a sparsifier's steps.

    Args:
        given: one or several, also as accelerate wraps them.
        scaler: of float16 autocast; if None, that of accelerate's wrapper.

    Example:
        >>> p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        >>> both = Optimizers([torch.optim.SGD([p], lr=1.0), torch.optim.AdamW([q])], None)
        >>> len(both.params)
        2
    """

    def __init__(self, given: Sequence[Optimizer], scaler: GradScaler | None) -> None:
        self.given = tuple(given)
        self._own = tuple(unwrapped(o) for o in given)
        wrapped = (getattr(o, "scaler", None) for o in given if o not in self._own)
        self.scaler = scaler or next((s for s in wrapped if s is not None), None)
        if not self.syncs:  # an accumulation of another loop ended before its step
            GradientState()._set_sync_gradients(True)
        self._counters = [_counters(o) for o in self._own]
        self._stepped = [True] * len(self._own)
        self.forgotten: set[int] = set()
        """``id`` of each parameter of which nothing was remembered right after its last step."""

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all."""
        return [group for o in self._own for group in o.param_groups]

    @property
    def params(self) -> list[Tensor]:
        """Every parameter that one of them holds, frozen ones too, in their order."""
        return [p for group in self.groups for p in group["params"]]

    @property
    def _split(self) -> bool:
        return any(map(is_split, self.params))

    @property
    def syncs(self) -> bool:
        """Whether a step is taken now; inside ``accelerator.accumulate`` only the last is."""
        return bool(_accumulation().get("sync_gradients", True))

    @property
    def micro_batches(self) -> int:
        """Of how many micro-batches accelerate makes a step."""
        return int(_accumulation().get("plugin_kwargs", {}).get("num_steps", 1))

    def owners(self) -> dict[int, Optimizer]:
        """``id(parameter)`` -> the one that holds it."""
        return {id(p): o for o in self._own for g in o.param_groups for p in g["params"]}

    def each(self) -> tuple[Optimizer, ...]:
        """Those that make the steps, wrappers taken off."""
        return self._own

    def zero_grad(self) -> None:
        """Clear the gradients of all."""
        for o in self._own:
            o.zero_grad()

    def unscale(self) -> None:
        """Divide the gradients by the scale of the loss, where it was scaled."""
        if self.scaler is None:
            return
        for o in self._own:
            if _with_gradient(o):
                self.scaler.unscale_(o)

    def step(self) -> None:
        """One step of each; one whose gradients overflowed is left out by the scaler."""
        drawn = [_with_gradient(o) for o in self._own]  # some drop their gradients in the step
        if self.scaler is None:
            for o in self._own:
                _step(o)
        else:
            self._scaled_steps()
        for o, ids, stepped in zip(self._own, drawn, self._stepped, strict=True):
            if stepped:  # looked at now: others may clear a state later, to begin anew
                known = {id(p) for p, state in o.state.items() if isinstance(p, Tensor) and state}
                self.forgotten = (self.forgotten - ids) | (ids - known)

    def _scaled_steps(self) -> None:
        assert self.scaler is not None
        scale = self.scaler.get_scale()
        called = [self._scaled_step(o) for o in self._own]
        self.scaler.update()
        overflowed = self.scaler.get_scale() < scale
        # one that looks at the overflow itself is called in any case
        self._stepped = [
            not (overflowed and (not was or getattr(o, "_step_supports_amp_scaling", False)))
            for o, was in zip(self._own, called, strict=True)
        ]
        for wrapper, own, stepped in zip(self.given, self._own, self._stepped, strict=True):
            if wrapper is not own:  # accelerate's schedulers wait for it
                wrapper._is_overflow = not stepped  # type: ignore[attr-defined]

    def _scaled_step(self, optimizer: Optimizer) -> bool:
        """Whether the scaler let it make a step."""
        assert self.scaler is not None
        if not _with_gradient(optimizer):
            return False
        if not hasattr(optimizer, "_optimizer_step_post_hooks"):  # a wrapper that tells nobody
            self.scaler.step(optimizer)
            return False
        called: list[bool] = []
        handle = optimizer.register_step_post_hook(lambda *_: called.append(True))
        try:
            self.scaler.step(optimizer)
        finally:
            handle.remove()
        return bool(called)

    def moved(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Those of parameters with a gradient that the step just made moved.

        It was finite, and the learning rate of their group is not 0.
        """
        able = {
            id(p)
            for o, stepped in zip(self._own, self._stepped, strict=True)
            for group in (o.param_groups if stepped else ())
            if not _stands(group)
            for p in group["params"]
        }
        return {name: p for name, p in parameters.items() if id(p) in able}

    def evaluate(self) -> None:
        """Let the weights be those that evaluation sees, where an optimiser trains others."""
        for o in self._switching():
            o.eval()

    @torch.no_grad()
    def mask(self, pruned: Iterable[Tensor], names: tuple[str, ...] = ()) -> None:
        """Zero other weights that an optimiser holds, where the model's are zero.

        Schedule-free optimisers train other weights than they evaluate: both are averages of
        sequences that lie in their state. Lookahead and SWA wrappers hold slow or averaged ones.

        Args:
            pruned: the parameters that are looked at.
            names: of the state's entries; all that have the parameter's shape if empty.
        """
        holding = [o for o in self._own if holds_weights(o)]
        for p in pruned if holding else ():
            gone = p.detach() == 0
            for key, value in (item for o in holding for item in o.state.get(p, {}).items()):
                if (not names or key in names) and getattr(value, "shape", None) == p.shape:
                    value.masked_fill_(gone.to(value.device), 0)

    def _switching(self) -> list[Any]:
        """Those whose weights differ between training and evaluation; they say how to switch."""
        return [o for o in self._own if _switches(o)]

    def check_training(self) -> None:
        """Raise SteppeError when one stands at the weights of evaluation."""
        for o in self._switching():
            if any(group.get("train_mode") is False for group in o.param_groups):
                raise SteppeError(
                    f"{type(o).__name__} trains other weights than it evaluates",
                    got="a step in eval mode",
                    way_out="optimizer.train() before the step, optimizer.eval() to evaluate",
                )

    def reset(self) -> None:
        """As if none had ever made a step."""
        self.forgotten.clear()
        for o, counters in zip(self._own, self._counters, strict=True):
            o.state.clear()
            for group in o.param_groups:  # also those that were added since
                group.update(counters)

    def state_dict(self) -> Any:
        """That of the one, or a list of those of several."""
        states = [parts_in(o.state_dict()) if self._split else o.state_dict() for o in self._own]
        return states[0] if len(states) == 1 else states

    def load_state_dict(self, state: Any) -> None:
        """What `state_dict` gave.

        Raises:
            SteppeError: it is of another number of optimisers.
        """
        states = state if isinstance(state, list) else [state]
        if len(states) != len(self._own):
            raise SteppeError(
                "a state can only be resumed with as many optimizers",
                got=f"{len(states)} in the state, {len(self._own)} here",
                way_out="sparsify(model, [...], ...) with those of the run that was stopped",
            )
        self.forgotten.clear()
        for o, its in zip(self._own, states, strict=True):
            o.load_state_dict(its)
            for p in (p for group in o.param_groups for p in group["params"] if is_split(p)):
                o.state[p] = {
                    key: like(value, p) if getattr(value, "ndim", 0) else value
                    for key, value in o.state[p].items()
                }


def _accumulation() -> dict[str, Any]:
    """accelerate's state of accumulation, one for the process; also of optimisers not prepared."""
    state: dict[str, Any] = GradientState._shared_state
    return state


def _with_gradient(optimizer: Optimizer) -> set[int]:
    return {id(p) for g in optimizer.param_groups for p in g["params"] if p.grad is not None}


def _switches(optimizer: Optimizer) -> bool:
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def inner(optimizer: Optimizer) -> Optimizer | None:
    """The optimiser that makes the steps of one which is built around it."""
    return next((v for v in vars(optimizer).values() if isinstance(v, Optimizer)), None)


def holds_weights(optimizer: Optimizer) -> bool:
    """Whether it holds other weights beside the model's, or may, by what it can do."""
    if _sharded(optimizer):
        return False
    around = inner(optimizer) is not None
    return around or _switches(optimizer) or hasattr(optimizer, "swap_swa_sgd")


def _sharded(optimizer: Optimizer) -> bool:
    """Whether its inner one steps a part of the weights, which the ranks exchange.

    So does torch's ZeroRedundancyOptimizer. Its own module takes seconds to import.
    """
    if not torch.distributed.is_available():
        return False
    from torch.distributed.algorithms.join import Joinable

    return isinstance(optimizer, Joinable)


def _stands(group: Mapping[str, Any]) -> bool:
    """Whether a learning rate of 0 leaves a group's weights where they are."""
    rate = group.get("lr")
    return rate is not None and float(rate) == 0.0


def _step(optimizer: Optimizer) -> None:
    try:
        optimizer.step()
    except RuntimeError as error:
        if "does not require grad and does not have a grad_fn" not in str(error):
            raise
        raise SteppeError(
            "the optimizer must make a step from gradients alone",
            got=f"{type(optimizer).__name__}, which differentiates them once more",
            way_out="an optimizer without Hessians, such as SGD or AdamW",
        ) from error


def _counters(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimiser counts in its groups (schedule-free: steps, sums), as each begins."""
    if not _switches(optimizer):
        return {}
    counted = ("k", "weight_sum", "lr_max", "scheduled_lr")
    return {k: g[k] for g in optimizer.param_groups for k in counted if k in g}
