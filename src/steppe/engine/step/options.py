"""The rare options of a sparsifier, together."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.protocols import CandidateEvaluator, Tensors
from steppe.engine.step.parameter_groups import ParameterGroup


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What few runs need to say of their steps.

    Args:
        sync: ``global``: the perturbation uses the gradient averaged over the ranks; ``local``:
            each rank its own (m-sharpness), which saves one exchange.
        cost: what sparsity counts where there are coupled channels; their number if none is given.
        evaluate_candidate: how good the network is with some of its channels, for budgets that
            try them out; see `steppe.engine.step.candidate_evaluation`.
        statistics: statistic -> weight name -> value, for what a score needs and is known
            beforehand; it is not gathered then.
        draws: ``same``: the second pass draws the random numbers of the first again (dropout drops
            the same), and what is drawn later is as after one pass; ``fresh``: it draws its own.
            Only torch's generators, see `steppe.engine.step.draws.generators`.
        micro_batches: whether the losses of a step's closures are averaged (``mean``), or are
            parts of the step's loss already and added (``sum``): language models divide each by
            the tokens of the whole step, as micro-batches differ in how many they have.
        optimizer_groups: options of the optimiser for some parameters, of which the first that
            fits wins: ``{"kind": "norm", "weight_decay": 0}``; see
            `steppe.engine.step.parameter_groups.ParameterGroup`.
        reference: the network that the objective compares with, instead of the one that it would
            make of the model as it is (a teacher); it is not saved with the run.

    Raises:
        SteppeError: an option has none of its values.

    Example:
        >>> StepOptions(sync="local").cost is None
        True
    """

    sync: Literal["global", "local"] = "global"
    cost: Cost | None = None
    evaluate_candidate: CandidateEvaluator | None = None
    statistics: Mapping[str, Tensors] | None = None
    micro_batches: Literal["mean", "sum"] = "mean"
    draws: Literal["same", "fresh"] = "same"
    optimizer_groups: Sequence[ParameterGroup | Mapping[str, Any]] = ()
    reference: nn.Module | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("sync", self.sync, ("global", "local")),
            ("micro_batches", self.micro_batches, ("mean", "sum")),
            ("draws", self.draws, ("same", "fresh")),
        ):
            if value not in known:
                raise SteppeError(f"{name} is {' or '.join(known)}", got=repr(value))


_FORMER = {"sync": "sync", "cost": "cost", "trial": "evaluate_candidate"}


def with_former_keywords(options: StepOptions, given: Mapping[str, Any]) -> StepOptions:
    """The options with what was given by a keyword of version 0.0.

    Raises:
        TypeError: a keyword was never one.
    """
    for name in given:
        if name not in _FORMER:
            near = difflib.get_close_matches(name, [*_FORMER, "include", "exclude", "groups"], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"sparsify got an unexpected keyword {name!r}{hint}")
    if given:
        warnings.warn(
            f"sparsify({', '.join(f'{n}=...' for n in given)}) is deprecated: write options="
            f"StepOptions({', '.join(f'{_FORMER[n]}=...' for n in given)})",
            DeprecationWarning,
            stacklevel=3,
        )
    return dataclasses.replace(options, **{_FORMER[n]: value for n, value in given.items()})
