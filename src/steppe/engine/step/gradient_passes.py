"""The gradient passes of one step: at x, and at x + eps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.core.norm import clip_grad_norm, global_norm
from steppe.core.notes import note
from steppe.core.protocols import Perturb
from steppe.core.split import part_of
from steppe.engine.step.argument_checks import closures_of, outcome
from steppe.engine.step.buffers import Buffers
from steppe.engine.step.draws import back_to, generators
from steppe.engine.step.foreign_gradients import ForeignGradients
from steppe.engine.step.micro_batches import Closure as Closure
from steppe.engine.step.micro_batches import MicroBatches, bound, check_same
from steppe.engine.step.momentum import momentum
from steppe.engine.step.moves import Directions, eps_of
from steppe.engine.step.neurons import RunNeurons
from steppe.engine.step.optimizers import Optimizers
from steppe.engine.step.output_gradients import OutputGradients

Alive = Callable[[Perturb], Mapping[int, Tensor]]
"""A perturbation -> ``id(parameter)`` -> True where it may move; parameters left out may."""
Backward = Callable[[Tensor, int], None]
"""Differentiates the loss of one closure, the so-manyth."""


class GradientPasses:
    """Runs the closures of a step: micro-batches, loss scaling, exchange between ranks.

    Which parameters there are is looked at in each step: they may be unfrozen, added, moved.

    Args:
        model: whose gradients are taken.
        optimizers: clear them, and say which parameters they are of.
        rank_local: whether each rank perturbs along its own gradient (m-sharpness).
        draws: whether the second pass sees the same random numbers as the first, or fresh ones.
        micro_batches: ``mean`` or ``sum`` of the closures' losses.
        neurons: those of the run, where the perturbation looks at them.
        outputs: told of what the closures compute, where the perturbation looks at it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        rank_local: bool,
        draws: Literal["same", "fresh"] = "same",
        micro_batches: Literal["mean", "sum"] = "mean",
        neurons: RunNeurons | None = None,
        outputs: OutputGradients | None = None,
    ) -> None:
        self.model, self.optimizers, self.neurons = model, optimizers, neurons
        self._outputs = outputs if outputs is not None else OutputGradients()
        self._rank_local, self._draws = rank_local, draws
        self._averaged = micro_batches == "mean"
        self._buffers = Buffers()
        self._backup: list[Tensor] = []
        self._gathered: list[MicroBatches] = []
        self._checked = False
        self.over_calls = False
        """Whether a step's micro-batches come in several calls (accelerate accumulates)."""
        self._seen: list[Tensor] = []
        self._places: dict[int, tuple[int, str]] = {}

    @property
    def params(self) -> list[Tensor]:
        """The optimisers' parameters that take a gradient now."""
        return [p for p in self.optimizers.params if p.requires_grad]

    @property
    def gathering(self) -> bool:
        """Whether a step has begun whose optimisers wait for more micro-batches."""
        return bool(self._gathered)

    def local(self, perturb: Perturb | None) -> bool:
        """Whether the first pass stays on its rank: a second one follows it, which is shared."""
        twice = perturb is not None and perturb.gradients > 1
        return twice and self._rank_local and hasattr(self.model, "no_sync")

    @property
    def unscale(self) -> float:
        """What a gradient is multiplied with to be that of the loss."""
        scaler = self.optimizers.scaler
        return 1.0 / scaler.get_scale() if scaler else 1.0

    def first(
        self,
        closures: Sequence[Closure],
        *,
        perturb: Perturb | None,
        alive: Alive,
        see: Callable[[Tensor | None], None] = lambda accuracy: None,
    ) -> tuple[Tensor, bool]:
        """Gradients of the mean (or sum) of the closures' losses, in ``p.grad``.

        They are taken at x, or at x + eps where eps is known beforehand: no second pass follows.
        The ranks share them, once, with the last micro-batch, unless each keeps its own.

        Args:
            closures: micro-batches; all of a step, or some of them where accelerate accumulates.
            perturb: of this step; None for none.
            alive: says what may move.
            see: is told each micro-batch's accuracy, None where there is none.

        Returns:
            The loss, detached, and whether the step's micro-batches are complete.
        """
        closures_of(closures)
        complete = self.optimizers.syncs
        twice = perturb is not None and perturb.gradients > 1
        if not self._gathered:
            self.optimizers.check_training()
            if twice:
                self._buffers.watch(self.model)
            self.optimizers.zero_grad()
        self.over_calls = self.over_calls or not complete
        batches = MicroBatches(
            list(closures) if complete or not twice else [bound(c) for c in closures],
            self.optimizers.micro_batches if self.over_calls and self._averaged else 1,
            generators(self.params) if twice else None,
        )
        exchange = complete and not self.local(perturb)
        watching = self.neurons.watching() if self.neurons else contextlib.nullcontext()
        with self._ahead(perturb, alive), watching, self._looking(perturb):
            loss = self._run(batches, exchange, see, self._first_backward(perturb, batches))
        batches.loss = loss
        if not twice:
            batches.closures = []  # nothing keeps the data alive
        self._gathered.append(batches)
        return loss, complete

    @contextlib.contextmanager
    def _ahead(self, perturb: Perturb | None, alive: Alive) -> Iterator[None]:
        """The weights where momentum leads, if the perturbation goes along it."""
        along = None
        if perturb is not None and perturb.along == "momentum":
            along = self._momentum(perturb)
        if perturb is None or along is None:
            yield
            return
        with torch.no_grad():
            eps = eps_of(perturb, along.masked(alive(perturb)), self.neurons)
        with self._moved(along.params, eps):
            yield

    def _momentum(self, perturb: Perturb) -> Directions | None:
        """What has a momentum; None where nothing has one yet."""
        params = self.params
        buffers = momentum(self.optimizers, params, perturb.name)
        pairs = [(p, m) for p, m in zip(params, buffers, strict=True) if m is not None]
        return self._directions(pairs) if pairs else None

    def _looking(self, perturb: Perturb | None) -> AbstractContextManager[None]:
        """Outputs are looked at, if the perturbation is about them."""
        through = perturb is not None and perturb.through == "outputs"
        return self._outputs.watching() if through else contextlib.nullcontext()

    def _first_backward(self, perturb: Perturb | None, batches: MicroBatches) -> Backward:
        if perturb is None or perturb.through != "outputs":
            return lambda loss, i: self._backward(loss)

        def keeping(loss: Tensor, i: int) -> None:
            outputs = self._outputs.keep(loss, self.params, perturb.name)
            self._backward(loss)
            batches.pulls.append(self._outputs.taken(outputs))

        return keeping

    def _second_backward(self, batches: MicroBatches, foreign: ForeignGradients) -> Backward:
        def again(loss: Tensor, i: int) -> None:
            foreign.spare(loss)
            self._backward(loss)

        def pulling(loss: Tensor, i: int) -> None:
            outputs = self._outputs.again(batches.pulls[i])
            for o in outputs:
                foreign.spare(o)
            torch.autograd.backward(outputs, batches.pulls[i])

        return pulling if batches.pulls else again

    def warn_of_half_a_step(self) -> None:
        """Tell whoever saves a state that gradients of a step that has begun are not in it."""
        if self._gathered:
            note(
                f"{len(self._gathered)} micro-batches of the next step are not in the state that "
                "is saved now: save it after the step that the optimizer takes",
                stacklevel=3,
            )

    def end(self) -> None:
        """The step is over; its micro-batches are let go."""
        self._gathered = []

    def _run(
        self,
        batches: MicroBatches,
        exchange: bool,
        see: Callable[[Tensor | None], None],
        backward: Backward,
    ) -> Tensor:
        closures, share = batches.closures, batches.share
        total: Tensor | None = None
        for i, closure in enumerate(closures):
            quiet = not exchange or i < len(closures) - 1
            with self._no_sync() if quiet else contextlib.nullcontext():
                with torch.enable_grad():
                    loss, accuracy = outcome(closure())
                    if self._averaged:
                        loss = loss / len(closures)
                    each = loss / share if share > 1 else loss
                backward(each, i)
            total = loss.detach() if total is None else total + loss.detach()
            see(accuracy)
        assert total is not None
        return total

    def _backward(self, loss: Tensor) -> None:
        scaler = self.optimizers.scaler
        try:
            (scaler.scale(loss) if scaler else loss).backward()
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise SteppeError(
                "the closure returns the loss and leaves backward() to the step",
                got="a loss whose graph is gone",
                way_out="take backward() out of the closure",
            ) from error

    def _no_sync(self) -> AbstractContextManager[Any]:
        no_sync = getattr(self.model, "no_sync", None)
        return no_sync() if no_sync is not None else contextlib.nullcontext()

    def _look(self) -> None:
        """Where the optimisers' parameters lie in the model, found anew when there are others."""
        params = self.optimizers.params
        if len(params) == len(self._seen) and all(map(_is, params, self._seen)):
            return
        named = enumerate(unwrap(self.model).named_parameters())
        self._seen, self._places = params, {id(p): (i, n) for i, (n, p) in named}

    def gradients(self) -> Directions:
        """The parameters that have a gradient, with it.

        Raises:
            SteppeError: none has one.
        """
        pairs = [(p, p.grad) for p in self.params if p.grad is not None]
        if not pairs:
            raise SteppeError(
                "the loss must depend on parameters of the optimizer",
                got="a closure after which none of them has a gradient",
                way_out="return the loss of the model that was given to sparsify",
            )
        return self._directions(pairs)

    def _directions(self, pairs: list[tuple[Tensor, Tensor]]) -> Directions:
        self._look()
        missing = (0, "")
        return Directions(
            [p.detach() for p, _ in pairs],
            [direction for _, direction in pairs],
            [self._places.get(id(p), missing)[1] for p, _ in pairs],
            [p for p, _ in pairs],
        )

    def clip(self, largest: float) -> None:
        """Clip the gradients together, in the model's order, as loops of one's own do."""
        self._look()
        last = (len(self._places), "")
        clip_grad_norm(sorted(self.params, key=lambda p: self._places.get(id(p), last)[0]), largest)

    def second(self, perturb: Perturb, first: Directions, alive: Alive) -> None:
        """Gradients of the same micro-batches at x + eps; x and all buffers are put back.

        Where the first gradient overflowed there is none: the scaler leaves this step out.

        Args:
            perturb: makes eps.
            first: of the pass at x.
            alive: says what may move; elsewhere the gradient counts as 0.
        """
        eps = self._perturbation(perturb, first, alive)
        if eps is None:
            return
        self._check_kept()
        with self._moved(first.params, eps), self._again(fresh=self._draws == "fresh"):
            self.optimizers.zero_grad()
            own = self.optimizers.params
            with ForeignGradients(self.model, own).kept() as foreign, self._looking(perturb):
                for batches in self._gathered:
                    if batches.drawn is not None and self._draws == "same":
                        back_to(batches.drawn)
                    exchange = batches is self._gathered[-1]
                    self._run(batches, exchange, _unseen, self._second_backward(batches, foreign))

    @torch.no_grad()
    def _perturbation(
        self, perturb: Perturb, first: Directions, alive: Alive
    ) -> list[Tensor] | None:
        """eps for each parameter; None where the first gradient overflowed."""
        # of a sparse gradient the other entries are zeros
        grads = [g if g.layout == torch.strided else g.to_dense() for g in first.grads]
        if self.optimizers.scaler:
            grads = list(torch._foreach_mul(grads, self.unscale))
            # the scaler will see the overflow and skip this step; where each rank has its own
            # gradient, all must meet in the second pass to see it
            if not self.local(perturb) and not bool(global_norm(grads).isfinite()):
                return None
        along = first._replace(grads=grads)
        return eps_of(perturb, along.masked(alive(perturb)), self.neurons)

    @contextlib.contextmanager
    def _moved(self, params: list[Tensor], eps: list[Tensor]) -> Iterator[None]:
        params, eps = [part_of(p) for p in params], [part_of(e) for e in eps]
        with torch.no_grad():
            like = [(b.shape, b.dtype, b.device) for b in self._backup]
            if like != [(p.shape, p.dtype, p.device) for p in params]:
                self._backup = [torch.empty_like(p) for p in params]
            # a copy, because x + eps - eps is not x in floating point
            torch._foreach_copy_(self._backup, params)
            torch._foreach_add_(params, eps)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, self._backup)

    @contextlib.contextmanager
    def _again(self, fresh: bool = False) -> Iterator[None]:
        """A pass that leaves no trace in buffers, and none in what is drawn after it."""
        with self._buffers.kept(self.model):
            after = {} if fresh else generators(self.params)
            try:
                yield
            finally:
                back_to(after)

    def _check_kept(self) -> None:
        """Once, that closures kept over several calls compute what they did."""
        if self._checked or len(self._gathered) < 2:
            return
        self._checked = True
        for batches in self._gathered[:-1]:
            with self._again(), self._no_sync(), torch.no_grad():
                assert batches.drawn is not None
                back_to(batches.drawn)
                losses = [outcome(c(), needs_gradient=False)[0] for c in batches.closures]
                assert batches.loss is not None
                again = torch.stack(losses)
                check_same(batches.loss, again.mean() if self._averaged else again.sum())


def _is(a: object, b: object) -> bool:
    return a is b


def _unseen(accuracy: Tensor | None) -> None:
    """The second pass is no answer that counts."""
