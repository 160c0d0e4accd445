"""The public face of the step: a model, an optimiser and a method become a sparsifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.core.protocols import Coupling, Tensors
from steppe.core.split import is_split
from steppe.engine.step.argument_checks import arguments
from steppe.engine.step.channel_selector import ChannelSelector
from steppe.engine.step.epochs import Epochs
from steppe.engine.step.gathered_statistics import GatheredStatistics
from steppe.engine.step.gradient_passes import GradientPasses
from steppe.engine.step.mean_shift import MeanShift
from steppe.engine.step.momentum import check_momentum
from steppe.engine.step.neurons import neurons_of
from steppe.engine.step.objective_loss import ObjectiveLoss
from steppe.engine.step.optimizer_checks import steppable
from steppe.engine.step.optimizers import Optimizers
from steppe.engine.step.options import StepOptions, with_former_keywords
from steppe.engine.step.output_gradients import OutputGradients
from steppe.engine.step.parameter_groups import divide
from steppe.engine.step.prunable_weights import PrunableWeights
from steppe.engine.step.rewind import Rewind
from steppe.engine.step.selector import Selector
from steppe.engine.step.sparsifier import Sparsifier
from steppe.engine.step.split_checks import check_split
from steppe.engine.step.split_selector import SplitSelector
from steppe.engine.step.trained_weights import trained_groups
from steppe.engine.step.weight_memories import weight_memories
from steppe.method import Method


def sparsify(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    method: Method,
    total_steps: int,
    *,
    include: Sequence[str] | None = (),
    exclude: Sequence[str] | None = (),
    clip_grad_norm: float | None = None,
    scaler: GradScaler | None = None,
    steps_per_epoch: int | None = None,
    groups: Sequence[Group] | None = (),
    options: StepOptions | None = None,
    **former: Any,
) -> Sparsifier:
    """Prune while training, in your own loop: two lines change.

    Args:
        model: any module, also inside DistributedDataParallel.
        optimizer: any torch optimiser over its parameters that makes a step from gradients, or a
            list of them (Muon for matrices and AdamW for the rest).
        method: e.g. ``steppe.methods.safe(sparsity=0.95)``.
        total_steps: optimiser steps of the whole run; schedules stretch over it.
        include: shell patterns of weights or modules to prune; all prunable ones if empty.
        exclude: shell patterns of what stays dense.
        clip_grad_norm: largest L2 norm of the loss gradient, clipped before the coupling's
            gradient is added.
        scaler: a GradScaler for float16 autocast; the sparsifier steps and updates it. That of an
            optimizer from ``accelerator.prepare`` need not be given.
        steps_per_epoch: for methods that act when an epoch ends (pilot).
        groups: coupled channels (``steppe.channel_groups``), which go in all layers at once; for
            structure ``channel``.
        options: what few runs need, see `StepOptions`: ranks, costs, candidates.
        former: ``sync``, ``cost`` and ``trial``, which lie in ``options`` now.

    Returns:
        The sparsifier; call ``step(closure)`` in the loop and ``finish()`` after it.

    Raises:
        SteppeError: a pattern matches nothing, a layer cannot have the structure, ...

    Example:
        >>> import steppe, torch
        >>> model = nn.Linear(4, 2); opt = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> s = sparsify(model, opt, steppe.methods.magnitude(sparsity=0.5), total_steps=1)
        >>> _ = s.step(lambda: model(torch.ones(3, 4)).square().mean())
        >>> s.finish().sparsity
        0.5
    """
    options = with_former_keywords(StepOptions() if options is None else options, former)
    include, exclude, groups = include or (), exclude or (), () if groups is None else groups
    coupling = arguments(model, optimizer, method, total_steps, clip_grad_norm)
    several = optimizer if isinstance(optimizer, Sequence) else [optimizer]
    optimizers = Optimizers(several, scaler)
    steppable(optimizers, coupling)
    check_momentum(optimizers, method.perturb)
    check_split(dict(unwrap(model).named_parameters()), method, coupling, options)
    outputs, known = OutputGradients(), options.statistics or {}  # nothing is changed yet
    objective = ObjectiveLoss(method.objective, unwrap(model), outputs, options.reference)
    groups, left = trained_groups(unwrap(model), groups, coupling)
    form, said = _for_network(method, unwrap(model), groups)
    prunable = PrunableWeights(model, optimizers, form, coupling, include, exclude, groups, known)
    parts = prunable.trained if prunable.parametrized else {}
    prunable.notes = left + prunable.notes + said
    prunable.notes += divide(optimizers, model, options.optimizer_groups, parts, coupling)
    statistics = _statistics(form, coupling, model, optimizers, prunable, known, total_steps)
    selector = _selector(form, coupling, model, prunable, statistics, options)
    # without a second pass the first one's gradient is the step's, which ranks must share
    rank_local = options.sync == "local" and method.perturb.active
    neurons = neurons_of(
        method,
        form,
        model,
        prunable,
        selector,
        known,
        rank_local=rank_local,
        keeps_output=method.sparsity == 0 and not include,
    )
    return Sparsifier(
        method,
        coupling,
        total_steps,
        passes=GradientPasses(
            model, optimizers, rank_local, options.draws, options.micro_batches, neurons, outputs
        ),
        prunable=prunable,
        statistics=statistics,
        selector=selector,
        objective=objective,
        epochs=Epochs(steps_per_epoch, total_steps, method),
        rewind=Rewind(method.schedule, total_steps),
        clip_grad_norm=clip_grad_norm,
    )


def _for_network(
    method: Method, model: nn.Module, groups: Sequence[Group]
) -> tuple[Method, list[str]]:
    """The method with the scores that its parts use on this network, and what is said of them."""
    score, said = method.score.for_network(model, method.structure.whole_outputs, groups)
    perturb, more = method.perturb.for_network(model, groups)
    return method.replace(score=score, perturb=perturb), list(dict.fromkeys([*said, *more]))


def _statistics(
    method: Method,
    coupling: Coupling,
    model: nn.Module,
    optimizers: Optimizers,
    prunable: PrunableWeights,
    known: Mapping[str, Tensors],
    total: int,
) -> GatheredStatistics:
    """What the scores need to know of the weights that are pruned."""
    layers, groups = prunable.layers, prunable.groups
    when_due = coupling.scores_when_due
    memory = weight_memories(optimizers, prunable.parameters)
    shifts_by = coupling.shifts_by
    return GatheredStatistics(
        method, model, layers, known, total, when_due, groups, shifts_by=shifts_by, memory=memory
    )


def _mean_shift(
    coupling: Coupling, model: nn.Module, prunable: PrunableWeights, statistics: GatheredStatistics
) -> MeanShift | None:
    """Where the means of channels that go are put, if the coupling shifts them."""
    if not coupling.shifts_by:
        return None
    if not prunable.groups:
        raise SteppeError(
            f"coupling {coupling.name} shifts the means of coupled channels",
            got="no groups",
            way_out="groups=steppe.channel_groups(model, x) (on the command line --target), or "
            "shift false",
        )
    shift = MeanShift(unwrap(model), prunable.groups, statistics.statistics[coupling.shifts_by])
    statistics.watchers.append(shift)
    return shift


def _selector(
    method: Method,
    coupling: Coupling,
    model: nn.Module,
    prunable: PrunableWeights,
    statistics: GatheredStatistics,
    options: StepOptions,
) -> Selector:
    """From weights to masks, of coupled channels or of single layers."""
    mean_shift = _mean_shift(coupling, model, prunable, statistics)
    if any(map(is_split, prunable.parameters.values())):
        known, weights = statistics.statistics, prunable.parameters
        return SplitSelector(method, prunable.layers, known, weights)
    if not prunable.groups:
        return Selector(method, prunable.layers, statistics.statistics)
    return ChannelSelector(
        method,
        prunable.layers,
        statistics.statistics,
        prunable.groups,
        options.cost,
        evaluate_candidate=options.evaluate_candidate,
        mean_shift=mean_shift,
    )
