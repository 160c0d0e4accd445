"""How good a network would be with some of its channels: tried and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, masks_of
from steppe.core.layer import unwrap
from steppe.core.protocols import CandidateEvaluator, Tensors
from steppe.engine.step.batchnorm import reestimate


def candidate_evaluator(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Tensor],
    evaluate: Callable[[nn.Module], float],
    bn_batches: int = 100,
    forward: Callable[[nn.Module, Tensor], object] = lambda model, x: model(x),
) -> CandidateEvaluator:
    """A function that masks the model, adapts batch norm, evaluates, and restores it bit for bit.

    Neither the weights, the statistics nor the random state differ afterwards, so that a training
    with evaluations in it goes on as it would without. On several processes every one makes them
    all, so that random states stay alike; a search goes by what the first one finds.

    Args:
        model: tried in place, at its weights of the moment.
        groups: its coupled channels.
        batches: inputs as in training; iterated anew for each candidate.
        evaluate: a model in eval mode -> how good it is, higher is better: accuracy on data that
            is held out **from training**, never the test data.
        bn_batches: how many of the batches re-estimate the batch-norm statistics.
        forward: how the model is called.

    Returns:
        Group name -> ``[units]`` booleans, to what ``evaluate`` says.

    Example:
        >>> model = nn.Linear(2, 2, bias=False); _ = nn.init.ones_(model.weight)
        >>> from steppe.core.group import Slice
        >>> rows = Slice("weight", 0, torch.arange(2).view(2, 1), "output")
        >>> groups = [Group("a", (rows,))]
        >>> evaluate = candidate_evaluator(model, groups, [], lambda m: float(m.weight.sum()))
        >>> evaluate({"a": torch.tensor([True, False])}), float(model.weight.detach().sum())
        (2.0, 4.0)
    """
    if bn_batches < 1:
        raise SteppeError(
            "a candidate's evaluation needs at least one batch for batch norm", got=bn_batches
        )
    inner = unwrap(model)

    @torch.no_grad()
    def evaluate_candidate(kept: Tensors) -> float:
        tensors = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
        # all of them: batch norm outside the groups adapts too
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        modes = {module: module.training for module in inner.modules()}
        on = sorted({t.device.index or 0 for t in tensors.values() if t.is_cuda})
        with torch.random.fork_rng(devices=on):
            try:
                for name, mask in masks_of(groups, kept, tensors).items():
                    tensors[name].masked_fill_(~mask, 0)
                reestimate(inner, islice(batches, bn_batches), forward)
                inner.eval()
                return float(evaluate(inner))
            finally:
                for name, tensor in tensors.items():
                    tensor.copy_(before[name])
                for module, mode in modes.items():
                    module.training = mode

    return evaluate_candidate
