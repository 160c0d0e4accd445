"""Which layers a method prunes, where channels are not coupled; the rest is named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, home_of, unwrap
from steppe.core.patterns import patterns_of
from steppe.core.prunable import LeftDense, Selection, selection
from steppe.core.statistic import STATISTICS
from steppe.method import Method


def selected_layers(
    model: nn.Module,
    method: Method,
    include: Sequence[str],
    exclude: Sequence[str],
    known: Collection[str] = (),
) -> tuple[Selection, list[str]]:
    """What `steppe.prunable` says, less what the method's parts cannot prune.

    Args:
        model: any module.
        method: its structure and score decide.
        include, exclude: shell patterns, see `steppe.prunable`. What ``include`` names is pruned or
            refused, never left out.
        known: statistics that need not be gathered.

    Returns:
        The selection, and sentences on the output layer.

    Raises:
        SteppeError: nothing is left, or layers that are included cannot be pruned so.
    """
    bare = unwrap(model)
    chosen = selection(bare, include, exclude)
    notes: list[str] = []
    if method.structure.whole_outputs and method.sparsity > 0:
        if not include:
            chosen = _without(chosen, [x for x in chosen.layers if x.coupled_outputs], _COUPLED)
        chosen, notes = _without_output(bare, chosen, include)
    for need in method.score.needs:
        if need in STATISTICS and need not in known:
            gathers = STATISTICS[need].gathers
            blind = [x for x in chosen.layers if not gathers(x, home_of(bare, x.name))]
            why = f"score {method.score.name} cannot see its {need.replace('_', ' ')}"
            if blind and (include or len(blind) == len(chosen.layers)):
                raise SteppeError(
                    f"score {method.score.name} needs the {need} of every layer",
                    got=f"{_named(blind, chosen.layers)}, where it cannot be gathered",
                    way_out=f"exclude={_patterns(blind, chosen.layers)}, or score magnitude",
                )
            chosen = _without(chosen, blind, why)
    # before anything of the model is changed; what is frozen stays as it is
    trained = [x for x in chosen.layers if chosen.weights[x.name].requires_grad]
    method.structure.check_all(trained)
    return chosen, notes


_COUPLED = "its outputs live and die together; another structure than channel prunes it"


def _without(chosen: Selection, layers: Sequence[Layer], why: str) -> Selection:
    """A selection with some of its layers dense."""
    gone = {x.name for x in layers}
    left = [x for x in chosen.layers if x.name not in gone]
    if not left:
        raise SteppeError(
            "something must be prunable",
            got=f"only {_named(layers, chosen.layers)}: {why}",
            way_out="another structure or score, or include=[...] by name",
        )
    dense = [LeftDense(x.name, x.numel, why) for x in layers]
    return replace(
        chosen,
        layers=left,
        weights={x.name: chosen.weights[x.name] for x in left},
        dense=[*chosen.dense, *dense],
    )


def _without_output(
    model: nn.Module, chosen: Selection, include: Sequence[str]
) -> tuple[Selection, list[str]]:
    """Without the layer whose channels are the model's outputs."""
    last = None if include else output_layer(model)
    if last is None or last not in chosen.weights:
        return chosen, []
    why = "the output layer, whose channels are the model's outputs"
    left = _without(chosen, [x for x in chosen.layers if x.name == last], why)
    note = f"the output layer {last} stays dense: its channels are the model's outputs"
    return replace(left, dense=chosen.dense), [note]


def output_layer(model: nn.Module) -> str | None:
    """The layer whose channels are the model's outputs, by the order in which it has them.

    None where it is the only one, and for language models, whose head is prunable only by name.

    Args:
        model: not wrapped.

    Example:
        >>> output_layer(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
        '1.weight'
    """
    every = selection(model).weights
    if len(every) == 1 or getattr(model, "get_output_embeddings", lambda: None)() is not None:
        return None
    order = {id(p): i for i, p in enumerate(model.parameters())}
    return max(every, key=lambda name: order[id(every[name])])


def _patterns(some: Sequence[Layer], every: Sequence[Layer]) -> list[str]:
    names = {x.name for x in some}
    return patterns_of(names, [x.name for x in every if x.name not in names])


def _named(some: Sequence[Layer], every: Sequence[Layer]) -> str:
    return f"{', '.join(_patterns(some, every))} ({len(some)} of {len(every)} layers)"
