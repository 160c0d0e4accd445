"""The step: a sparse, flat update inside the user's own loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.factored import Factored
from steppe.core.group import Group
from steppe.core.layer import prunable, unwrap
from steppe.core.mask import count_zeros
from steppe.core.norm import global_norm
from steppe.core.protocols import Perturb, Tensors
from steppe.core.search import Trial
from steppe.core.statistic import STATISTICS, Known, Statistic
from steppe.core.step_context import StepContext
from steppe.engine.argument_checks import arguments, closures_of, optimised, outcome, single
from steppe.engine.batchnorm import frozen_statistics
from steppe.engine.channel_selector import ChannelSelector, coupled
from steppe.engine.epochs import Epochs
from steppe.engine.finished import Finished
from steppe.engine.parametrization import ParametrizedWeights
from steppe.engine.rewind import Rewind
from steppe.engine.selector import Selector
from steppe.engine.step_size import step_sizes
from steppe.method import Method

Closure = Callable[[], Tensor | tuple[Tensor, Tensor]]


class Sparsifier:
    """Steps a model towards sparse and flat weights; made by `sparsify`.

    The order of one step, which every method shares: gradient at x (batch-norm statistics
    move); perturb to x + eps; gradient there (statistics frozen); x restored bit for bit;
    gradient clipped; the coupling's gradient at x added; optimiser step; the coupling's
    after-step. The coupling starts at the first step, after the first gradient when its score
    needs one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: Method,
        total_steps: int,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        clip_grad_norm: float | None = None,
        scaler: GradScaler | None = None,
        sync: Literal["global", "local"] = "global",
        steps_per_epoch: int | None = None,
        known: Mapping[str, Tensors] | None = None,
        groups: Sequence[Group] = (),
        cost: Cost | None = None,
        trial: Trial | None = None,
    ) -> None:
        arguments(model, optimizer, method)
        if total_steps < 1:
            raise SteppeError("total_steps must be at least 1", got=total_steps)
        self.model, self.optimizer, self.method = model, optimizer, method
        self.total_steps, self.clip_grad_norm, self.scaler = total_steps, clip_grad_norm, scaler
        self.notes: list[str] = []
        if groups:
            layers, weights = coupled(unwrap(model), groups)
        else:
            layers, weights = prunable(model, include, exclude)
            if method.structure.whole_outputs and method.sparsity > 0:
                layers = self._without_output(layers, include)
        self.layers = layers
        held = [p for group in optimizer.param_groups for p in group["params"]]
        optimised(weights, held)
        self._weights = {layer.name: weights[layer.name] for layer in layers}
        self._factors: ParametrizedWeights | None = None
        self._finished: Finished | None = None
        if isinstance(method.coupling, Factored):
            single(method.coupling.name, groups)
            self._factors = ParametrizedWeights(model, optimizer, method.coupling, self._weights)
            self.notes += self._factors.notes
            held = [p for group in optimizer.param_groups for p in group["params"]]
        names = {id(p): n for n, p in unwrap(model).named_parameters()}
        self._params = [p for p in held if p.requires_grad]
        self._names = [names.get(id(p), "") for p in self._params]
        self._rewind = Rewind(method.schedule, total_steps)
        self._epochs = Epochs(steps_per_epoch, total_steps, method)
        self.notes += self._epochs.notes
        self._waits = any(n not in (known or {}) for n in method.score.needs)
        self._statistics = self._to_gather(known or {})
        self._gathers_until = self._last_use()
        self.selector = Selector(method, layers, self._statistics)
        if groups:
            self.selector = ChannelSelector(
                method, layers, self._statistics, groups, cost, trial=trial
            )
        self._state: dict[str, Tensors] | None = None
        self._step = 0
        self._backup: list[Tensor] = []
        # without a second pass the first one's gradient is the step's, which ranks must share
        self._may_part = sync == "local" and method.perturb.active

    def _to_gather(self, known: Mapping[str, Tensors]) -> dict[str, Statistic]:
        # what is known beforehand (a language model's calibration) is not gathered on the way
        found = {
            n: Known(values=dict(known[n])) if n in known else STATISTICS[n]()
            for n in self.method.score.needs
        }
        modules = dict(unwrap(self.model).named_modules())
        for one in found.values():
            one.prepare({x.name: (x, modules[x.name.rpartition(".")[0]]) for x in self.layers})
        return found

    def _last_use(self) -> int:
        """The last step whose statistics a cut reads; gathering costs passes and memory."""
        if not self._statistics or not self.method.coupling.scores_when_due:
            return self.total_steps
        due = self.method.schedule.due
        steps = reversed(range(self.total_steps))
        return next((s for s in steps if due(s, self.total_steps)), 0)

    @property
    def _gathers(self) -> bool:
        """Whether this step's statistics are wanted; until the coupling has begun they are."""
        wanted = self._state is None or self._step <= self._gathers_until
        return bool(self._statistics) and wanted

    def _without_output(self, layers: list[Any], include: Sequence[str]) -> list[Any]:
        model = unwrap(self.model)
        has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
        if include or has_head or len(layers) == 1:
            return layers
        order = {id(p): i for i, p in enumerate(model.parameters())}
        _, weights = prunable(model)
        last = max(weights, key=lambda name: order[id(weights[name])])
        kept = [layer for layer in layers if layer.name != last]
        if len(kept) < len(layers):
            self.notes.append(
                f"the output layer {last} stays dense: its channels are the model's outputs"
            )
        return kept

    @property
    def weights(self) -> Tensors:
        """Name -> the prunable weights themselves, detached; copies where they are products."""
        if self._factors is not None:
            return self._factors.joined()
        return self._trained

    @property
    def _trained(self) -> Tensors:
        """What the coupling acts on: the weights, or the parts that they are made from."""
        return {name: p.detach() for name, p in self._held.items()}

    @property
    def _held(self) -> dict[str, nn.Parameter]:
        """The parameters that the coupling acts on."""
        return self._weights if self._factors is None else self._factors.parts

    @property
    def steps_done(self) -> int:
        """Optimiser steps taken so far."""
        return self._step

    @property
    def clock(self) -> tuple[int, int]:
        """Where learning rate and data stand: (step, of how many); starts anew when rewound."""
        return self.method.schedule.clock(self._step, self.total_steps)

    @property
    def state(self) -> dict[str, Tensors]:
        """The coupling's state (ADMM: z and u; hard mask: mask); empty before the first step."""
        return self._state or {}

    def step(self, *closures: Closure) -> Tensor:
        """One optimiser step; several closures are micro-batches whose losses are averaged.

        Args:
            closures: each computes and returns a loss (no backward inside), under autocast
                if wanted; with its accuracy for methods that watch it (pilot). It is called twice
                when the method perturbs.

        Returns:
            The loss at x, detached, averaged over the closures.

        Raises:
            SteppeError: the run is over already.

        Example:
            >>> import steppe
            >>> model = nn.Linear(4, 2); opt = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> s = steppe.sparsify(model, opt, steppe.methods.safe(sparsity=0.5), total_steps=2)
            >>> for _ in range(2): _ = s.step(lambda: model(torch.ones(3, 4)).square().mean())
            >>> s.finish().zeros
            4
        """
        if self._step >= self.total_steps:
            raise SteppeError(
                f"the run has {self.total_steps} steps",
                got=f"step {self._step + 1}",
                way_out="pass the true total_steps to sparsify, or call finish()",
            )
        context = StepContext(
            self._step,
            self.total_steps,
            self.method.schedule.after(self._step, self.total_steps, self.method.sparsity),
            self.method.schedule.due(self._step, self.total_steps),
        )
        self._rewind.keep(unwrap(self.model), self._step)
        if self._state is None and not self._waits:
            self._begin()
        loss = self._gradients(closures)
        with torch.no_grad():
            params, grads, names = self._with_gradient()
            if not self._local():
                self._observe()
            eps = self._perturbation(params, grads, names)
        if eps is not None:
            self._second_pass(closures, params, eps)
        if self._local():
            self._observe()
        done, length = self.clock
        context.epoch = self._epochs.end((done + 1, length))
        self._update(params, context)
        self._step += 1
        if context.due and self._rewind.what and self._state is not None:
            with torch.no_grad():
                self._rewind.back(unwrap(self.model), self.optimizer)
                self.method.coupling.restarted(self._trained, self._state)
        return loss

    def _local(self) -> bool:
        """Whether this step's first gradient stays on its rank; the second one is shared."""
        shares = self._may_part and hasattr(self.model, "no_sync")
        return shares and self._perturb.due(self._step)

    @property
    def _perturb(self) -> Perturb:
        """The perturbation of this step."""
        return self.method.perturb.at(self._step / self.total_steps)

    def _begin(self) -> None:
        done = self._step / self.total_steps
        sparsity = self.method.schedule.sparsity(done, self.method.sparsity)
        context = StepContext(-1, self.total_steps, sparsity, due=True)
        with torch.no_grad():
            self._state = self.method.coupling.init(self._trained, self.selector, context)

    def _gradients(self, closures: Sequence[Closure], first: bool = True) -> Tensor:
        closures_of(closures)
        self.optimizer.zero_grad()
        for statistic in self._statistics.values():
            statistic.active(first and self._gathers)
        total: Tensor | None = None
        for i, closure in enumerate(closures):
            # gradients travel between ranks once, with the last micro-batch
            quiet = (first and self._local()) or i < len(closures) - 1
            with self._no_sync() if quiet else contextlib.nullcontext():
                with torch.enable_grad():
                    loss, accuracy = outcome(closure())
                    loss = loss / len(closures)
                try:
                    (self.scaler.scale(loss) if self.scaler else loss).backward()
                except RuntimeError as error:
                    if "second time" not in str(error):
                        raise
                    raise SteppeError(
                        "the closure returns the loss and leaves backward() to the step",
                        got="a loss whose graph is gone",
                        way_out="take backward() out of the closure",
                    ) from error
            total = loss.detach() if total is None else total + loss.detach()
            if first:
                self._epochs.see(accuracy)
        for statistic in self._statistics.values():
            statistic.active(False)
        assert total is not None
        return total

    def _no_sync(self) -> AbstractContextManager[Any]:
        no_sync = getattr(self.model, "no_sync", None)
        return no_sync() if no_sync is not None else contextlib.nullcontext()

    def _with_gradient(self) -> tuple[list[Tensor], list[Tensor], list[str]]:
        have = [(p, p.grad, n) for p, n in zip(self._params, self._names, strict=True)]
        kept = [(p.detach(), g, n) for p, g, n in have if g is not None]
        assert kept, "no parameter has a gradient: does the closure return the model's loss?"
        params, grads, names = zip(*kept, strict=True)
        return list(params), list(grads), list(names)

    def _observe(self) -> None:
        if not self._gathers:
            return
        with torch.no_grad():
            scale = 1.0 / self.scaler.get_scale() if self.scaler else 1.0
            grads = {n: p.grad for n, p in self._weights.items() if p.grad is not None}
            unscaled = {n: g * scale if scale != 1.0 else g for n, g in grads.items()}
            if self.scaler and not bool(global_norm(list(unscaled.values())).isfinite()):
                return
            for statistic in self._statistics.values():
                statistic.observe(self.weights, unscaled)
        if self._state is None:
            self._begin()

    def _perturbation(
        self, params: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor] | None:
        if not self._perturb.active or not self._perturb.due(self._step):
            return None
        if self.scaler:
            grads = list(torch._foreach_mul(grads, 1.0 / self.scaler.get_scale()))
            # the scaler will see the overflow and skip this step; where each rank has its own
            # gradient, all must meet in the second pass to see it
            if not self._local() and not bool(global_norm(grads).isfinite()):
                return None
        return self._perturb.perturbation(params, grads, names)

    def _second_pass(
        self, closures: Sequence[Closure], params: list[Tensor], eps: list[Tensor]
    ) -> None:
        with torch.no_grad():
            if [b.shape for b in self._backup] != [p.shape for p in params]:
                self._backup = [torch.empty_like(p) for p in params]
            # a copy, because x + eps - eps is not x in floating point
            torch._foreach_copy_(self._backup, params)
            torch._foreach_add_(params, eps)
        try:
            with frozen_statistics(self.model):
                self._gradients(closures, first=False)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, self._backup)

    @torch.no_grad()
    def _update(self, params: list[Tensor], context: StepContext) -> None:
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self.clip_grad_norm)
        weights, state = self._trained, self._state
        grads, held = {}, self._held
        for name, p in held.items():
            if p.grad is None:  # took no part in the loss, but the coupling still pulls
                p.grad = torch.zeros_like(p)
            grads[name] = p.grad
        if state is not None:  # it is while the first steps overflow: the score knows nothing
            self.method.coupling.add_gradient(weights, grads, state, context)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if state is not None:
            if self.method.coupling.needs_step_sizes:
                context.step_sizes = step_sizes(self.optimizer, held)
            self.method.coupling.after_step(weights, state, self.selector, context)

    @torch.no_grad()
    def finish(self) -> Finished:
        """The last projection: the weights become exactly sparse, in place.

        Returns:
            The masks and what the projection changed.

        Raises:
            SteppeError: no step was taken, so nothing is known of the weights.
        """
        if self._finished is not None:
            return self._finished
        if self._state is None:
            if self._waits:
                raise SteppeError(
                    f"score {self.method.score.name} needs at least one step before finish()"
                )
            self._begin()
        assert self._state is not None
        folded = self._factors is not None
        before = {name: w.clone() for name, w in self.weights.items()}
        masks = self.method.coupling.finish(
            self._trained, self._state, self.selector, self.method.sparsity
        )
        if self._factors is not None:
            self._weights, self._factors = self._factors.fold(), None
        weights = self.weights
        moved = global_norm([weights[n] - before[n] for n in weights])
        distance = float(moved / global_norm(list(before.values())).clamp_min(1e-30))
        kept = self.selector.kept(masks)
        units = self.selector.num_units
        total = sum(w.numel() for w in weights.values())
        zeros, reached = count_zeros(weights), self.selector.reached(masks)
        own = count_zeros(before)
        finished = Finished(masks, zeros, total, units - kept, units, distance, own, reached)
        if self._step:
            finished.warn(self.method.coupling.advice)
        if folded:  # what the coupling acts on is gone
            self._finished = finished
        return finished

    def _method_in_state(self) -> dict[str, Any]:
        """What trains; what a language model would change of it does not matter here."""
        return self.method.replace(language=()).to_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on but the model: optimiser, coupling, RNG, step."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "step": self._step,
            "total_steps": self.total_steps,
            "method": self._method_in_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "coupling": self._state,
            "rewind": self._rewind.kept,
            "seen": self._epochs.seen,
            "statistics": {n: s.values for n, s in self._statistics.items()},
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit.

        Raises:
            SteppeError: the state is of another method or length.
        """
        for key, mine in (("method", self._method_in_state()), ("total_steps", self.total_steps)):
            if state[key] != mine:
                raise SteppeError(
                    f"a state can only be resumed by a sparsifier of the same {key}",
                    got=f"{state[key]} in the state, {mine} here",
                )
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        device = self._params[0].device
        weights = self._weights

        def home(tensors: Tensors) -> Tensors:
            """Beside the weight of that name; what is a mere number stays where it is."""
            there = {n: weights[n].device if n in weights else device for n in tensors}
            return {n: (t.to(there[n]) if t.ndim else t).clone() for n, t in tensors.items()}

        held = state["coupling"]
        self._state = None if held is None else {k: home(v) for k, v in held.items()}
        for name, statistic in self._statistics.items():
            statistic.values = home(state["statistics"][name])
        kept = state["rewind"]
        self._rewind.kept = None if kept is None else home(kept)
        self._epochs.seen = state["seen"].clone()
        self._step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all([t.cpu() for t in state["cuda_rng"]])
