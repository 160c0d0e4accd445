"""The step: a sparse, flat update inside the user's own loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, unwrap
from steppe.core.protocols import Coupling, Perturb, Tensors
from steppe.core.step_context import Epoch, StepContext
from steppe.engine.step.coupling_at_work import CouplingAtWork
from steppe.engine.step.epochs import Epochs
from steppe.engine.step.finished import Finished
from steppe.engine.step.gathered_statistics import GatheredStatistics
from steppe.engine.step.gradient_passes import Closure, GradientPasses
from steppe.engine.step.last_cut import LastCut
from steppe.engine.step.objective_loss import Forward, ObjectiveLoss
from steppe.engine.step.optimizers import AVERAGED
from steppe.engine.step.prunable_weights import PrunableWeights
from steppe.engine.step.resumable import check_resumable, made_of
from steppe.engine.step.rewind import Rewind
from steppe.engine.step.saved_state import SavedState
from steppe.engine.step.selector import Selector
from steppe.engine.step.step_size import step_sizes_of
from steppe.method import Method


class Sparsifier:
    """Steps a model towards sparse and flat weights; made by `steppe.sparsify`.

    The order of one step, which every method shares: gradient at x; perturb to x + eps; gradient
    there, with the same random draws; x and all buffers (running statistics) put back bit for bit;
    gradient clipped; the coupling's gradient at x added; optimiser step; the coupling's
    after-step. The coupling starts at the first step, after the first gradient when its score
    needs one.

    Args:
        method: what is done.
        coupling: the method's.
        total_steps: of the whole run.
        passes: runs the closures; holds model, optimisers and scaler.
        prunable: the weights that are pruned.
        statistics: what the score needs to know.
        selector: from weights to masks.
        objective: what is optimised.
        epochs: when an epoch ends, for couplings that watch.
        rewind: what returns to its beginning after a cut.
        clip_grad_norm: largest L2 norm of the loss gradient.
    """

    def __init__(
        self,
        method: Method,
        coupling: Coupling,
        total_steps: int,
        *,
        passes: GradientPasses,
        prunable: PrunableWeights,
        statistics: GatheredStatistics,
        selector: Selector,
        objective: ObjectiveLoss,
        epochs: Epochs,
        rewind: Rewind,
        clip_grad_norm: float | None,
    ) -> None:
        self.method, self.coupling, self.total_steps = method, coupling, total_steps
        self.selector, self.clip_grad_norm = selector, clip_grad_norm
        self._passes, self._prunable, self._statistics = passes, prunable, statistics
        self._epochs, self._rewind, self._objective = epochs, rewind, objective
        self._saved = SavedState(passes, statistics, objective, epochs, rewind)
        length = method.schedule.clock(0, total_steps)[1]  # of its first training
        self.notes: list[str] = [*prunable.notes, *epochs.notes, *method.idle(length)]
        self._end = LastCut(prunable, selector)
        waits = statistics.waits
        self._coupled = CouplingAtWork(method, coupling, total_steps, prunable, selector, waits)
        self._step = 0

    @property
    def model(self) -> nn.Module:
        """The model; set it when it is wrapped (DistributedDataParallel, compile) later."""
        return self._passes.model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._passes.model = model

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser that makes the steps; the first one if there are several."""
        return self.optimizers[0]

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimisers that make the steps, as they were given."""
        return self._passes.optimizers.given

    @property
    def layers(self) -> list[Layer]:
        """The prunable layers."""
        return self._prunable.layers

    @property
    def weights(self) -> Tensors:
        """Name -> the prunable weights themselves, detached; copies where they are products."""
        return self._prunable.weights

    @property
    def steps_done(self) -> int:
        """Optimiser steps taken so far."""
        return self._step

    @property
    def clock(self) -> tuple[int, int]:
        """Where learning rate and data stand: (step, of how many); starts anew when rewound."""
        return self.method.schedule.clock(self._step, self.total_steps)

    @property
    def state(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The coupling's state (ADMM: z and u; hard mask: mask); empty before the first step."""
        return self._coupled.readable()

    def step(self, *closures: Closure) -> Tensor:
        """One optimiser step; several closures are micro-batches whose losses are averaged.

        Inside ``accelerator.accumulate`` a call adds its micro-batches to the step that the last
        of them takes; until then it returns after the pass at x.

        Args:
            closures: each computes and returns a loss (no backward inside), under autocast
                if wanted; with its accuracy for methods that watch it (pilot). It is called twice
                when the method perturbs.

        Returns:
            The loss at x, detached, averaged over the closures.

        Raises:
            SteppeError: the run is over already; a pruned weight is no longer the model's.

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
        self._look()
        self._rewind.keep(unwrap(self.model), self._step)
        if not (self._coupled.begun or self._statistics.waits):
            self._coupled.begin(self._step)
        perturb = self.method.perturb.of_step(self._step, self.total_steps)
        loss, complete = self._first_pass(closures, perturb)
        if not complete:
            return loss
        try:
            self._second_pass(perturb)
        finally:
            self._passes.end()
        done, length = self.clock
        context = self._update(self._epochs.end((done + 1, length)))
        self._step += 1
        if context.due and self._rewind.what and self._coupled.begun and not self._end.masks:
            with torch.no_grad():
                self._rewind.back(unwrap(self.model), self._passes.optimizers)
                self.coupling.restarted(context)
        return loss

    def loss(
        self,
        task_loss: Tensor | None = None,
        *,
        outputs: Tensor | None = None,
        inputs: Any = None,
        targets: Tensor | None = None,
        forward: Forward = lambda model, inputs: model(inputs),
    ) -> Tensor:
        """What the method's objective makes of a batch, for a closure to return.

        With the objective ``task`` it is the task's loss itself, so that a loop may always call it.

        Args:
            task_loss: the loss of the task, a scalar.
            outputs: of the model, e.g. logits ``[batch, classes]``.
            inputs: of the model; the objective's reference is run on them.
            targets: e.g. labels.
            forward: (network, inputs) -> outputs, for a reference that takes more than one tensor.

        Returns:
            The loss, a scalar with a gradient.

        Raises:
            SteppeError: the objective reads what is not given.

        Example:
            >>> import steppe
            >>> model = nn.Linear(4, 2); opt = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> m = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
            >>> s = steppe.sparsify(model, opt, m, total_steps=1)
            >>> def closure():
            ...     out = model(torch.ones(3, 4))
            ...     return s.loss(out.square().mean(), outputs=out, inputs=torch.ones(3, 4))
            >>> s.step(closure).shape
            torch.Size([])
        """
        return self._objective.compute(
            forward, task_loss=task_loss, outputs=outputs, inputs=inputs, targets=targets
        )

    def _look(self) -> None:
        """What changed since the last step: who is the model's, and where the weights lie."""
        self._prunable.check(unwrap(self.model))
        if self._prunable.moved():
            self._coupled.load(self._coupled.state, self._prunable.follow)
            self._saved.move(self._prunable.home)

    def _first_pass(self, closures: Sequence[Closure], due: Perturb | None) -> tuple[Tensor, bool]:
        if not self._passes.gathering:
            self._statistics.begin()
        self._statistics.active(self._gathers)
        self._objective.begin()
        try:
            loss, complete = self._passes.first(
                closures, perturb=due, alive=self._alive, see=self._epochs.see
            )
            self._objective.check(len(closures))
        except SteppeError:
            self._passes.end()  # the next step begins anew
            raise
        finally:
            self._statistics.active(False)
        return loss, complete

    def _second_pass(self, perturb: Perturb | None) -> None:
        local = self._passes.local(perturb)
        if not local:
            self._observe()
        first = self._passes.gradients()
        if perturb is not None and perturb.gradients > 1:
            self._passes.second(perturb, first, self._alive)
        if local:
            self._observe()

    def _alive(self, perturb: Perturb) -> Mapping[int, Tensor]:
        return {} if perturb.moves_held else self._end.alive() or self._coupled.alive()

    @property
    def _gathers(self) -> bool:
        return self._statistics.wanted(self._step, begun=self._coupled.begun)

    @torch.no_grad()
    def _observe(self) -> None:
        if not self._gathers:
            return
        finite = self._statistics.observe(
            self.weights,
            self._prunable.parameters,
            self._passes.unscale,
            may_overflow=self._passes.optimizers.scaler is not None,
        )
        if finite and not self._coupled.begun:
            self._coupled.begin(self._step)

    @torch.no_grad()
    def _update(self, epoch: Epoch | None) -> StepContext:
        """Clip, add the coupling's gradient, step, let the coupling act."""
        optimizers = self._passes.optimizers
        schedule, total = self.method.schedule, self.total_steps
        optimizers.unscale()
        if self.clip_grad_norm is not None:
            self._passes.clip(self.clip_grad_norm)
        sparsity = schedule.after(self._step, total, self.method.sparsity)
        context = self._coupled.context(self._step, sparsity, schedule.due(self._step, total))
        context.epoch = epoch
        context.grads, context.quiet = self._prunable.gradients(), self._prunable.quiet
        ended = self._end.holds()
        # it has not begun while the first steps overflow: the score knows nothing
        begun = self._coupled.begun and not ended
        if begun:
            self.coupling.add_gradient(context)
        optimizers.step()
        if begun:
            moved = optimizers.moved(self._prunable.present)
            context.moved = frozenset(moved)
            if self.coupling.needs_step_sizes:  # what was not moved has no step whose size matters
                context.step_sizes = step_sizes_of(optimizers, moved)
            self.coupling.after_step(context)
        if ended:
            self._end.hold()
        if self.coupling.prunes and (begun or ended):
            optimizers.mask(self._prunable.trained.values(), AVERAGED)
        return context

    @torch.no_grad()
    def finish(self) -> Finished:
        """The last projection: the weights become exactly sparse, in place.

        Returns:
            The masks and what the projection changed.

        Raises:
            SteppeError: no step was taken, and the score knows nothing of the weights without one.
        """
        if self._end.finished is not None and self._end.stands():
            return self._end.finished
        optimizers = self._passes.optimizers
        optimizers.evaluate()  # what it averages is what is cut
        before = {name: w.clone() for name, w in self.weights.items()}
        # those of a run that ended, where there are some
        masks = self._end.masks if self._end.stands() else self._coupled.cut(self._step)
        assert masks is not None
        if self.coupling.prunes:
            optimizers.mask(self._prunable.trained.values())
        finished = self._end.make(before, masks)
        if self._step:
            finished.warn(self.method, self._step, self.total_steps)
        return finished

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> Finished:
        """Make a copy of the model sparse, in place; the model and the run stay as they are.

        Before `finish` the masks are those that it would leave now, afterwards those that it left.
        The copy's own weights are kept where the masks keep them.

        Args:
            model: a deep copy of the model (to look at the sparse network on the way), an average
                of its weights (``torch.optim.swa_utils.AveragedModel``), wrapped or not. Made
                after `steppe.sparsify`, so that it has what is trained.

        Returns:
            The masks and what they changed in the copy.

        Raises:
            SteppeError: it is no copy of the model, or the model itself, which `finish` ends.

        Example:
            >>> import copy, steppe
            >>> model = nn.Linear(4, 2); opt = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> s = steppe.sparsify(model, opt, steppe.methods.safe(sparsity=0.5), total_steps=2)
            >>> _ = s.step(lambda: model(torch.ones(3, 4)).square().mean())
            >>> s.apply_to(copy.deepcopy(model)).zeros, int((model.weight == 0).sum())
            (4, 0)
        """
        if self._end.masks is not None:
            return self._end.onto(model, self._end.masks)
        if unwrap(model) is unwrap(self.model):
            raise SteppeError(
                "apply_to makes a copy of the model sparse",
                got="the model itself",
                way_out="sparsifier.apply_to(copy.deepcopy(model)), or finish()",
            )
        return self._end.onto(model, self._coupled.masks_now(self._step))

    def _method_in_state(self) -> dict[str, Any]:
        """What trains; what a language model would change of it does not matter here."""
        return self.method.replace(language=()).to_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on but the model: optimiser, coupling, RNG, step."""
        self._passes.warn_of_half_a_step()
        return {
            "step": self._step,
            "total_steps": self.total_steps,
            "method": self._method_in_state(),
            "coupling": self._coupled.state,
            "quiet": self._prunable.quiet,
            "over_calls": self._passes.over_calls,
            "finished": self._end.masks,
            "made_of": made_of(self._passes.optimizers, self._prunable.trained),
        } | self._saved.collect()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit.

        Raises:
            SteppeError: the state is of another method, length, optimiser or model; nothing is
                changed then.
        """
        check_resumable(state, self.state_dict(), self.method)
        home = self._prunable.home
        self.notes += self._saved.restore(state, home)
        self._coupled.load(state["coupling"], home)
        self._prunable.quiet = dict(state.get("quiet", {}))  # 0.1.0 had none
        self._passes.over_calls = bool(state.get("over_calls", False))
        masks = state.get("finished")
        self._end.resume(None if masks is None else home(masks))
        self._step = state["step"]
