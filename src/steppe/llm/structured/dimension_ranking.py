"""The dimensions of a residual stream ranked, in one walk over the blocks of the dense model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import unit_budget
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.states import HiddenStates
from steppe.llm.model import StreamedModel
from steppe.llm.structured.norm_outputs import sizes
from steppe.llm.structured.residual import ResidualStream
from steppe.llm.structured.stream_states import begun, inside
from steppe.method import Method


def rank(
    model: StreamedModel,
    method: Method,
    stream: ResidualStream,
    lost: int,
    states: HiddenStates | None,
    journal: Journal,
    done: Callable[[], None],
) -> None:
    """Put into the journal which dimensions stay (``kept``), and all their ``scores``.

    Args:
        model: the dense one.
        method: its score ranks.
        stream: of the model.
        lost: how many dimensions go.
        states: of the calibration windows, if there are any.
        journal: also holds how far the walk is.
        done: called after each block.
    """
    known: dict[str, Tensor] = {}
    if method.score.needs:
        assert states is not None, "a score that needs text, which was checked"
        known["norm_output"] = _mean_sizes(model, stream, states, journal, done).float()
    model.load_rest(head=False)
    weight = model.model.get_input_embeddings().weight.detach().float().norm(dim=0)[None]
    name = stream.group.name
    layer = Layer(name, tuple(weight.shape))
    saliency = method.score.score(weight, known, name)
    units = method.score.reduce(method.structure.groups(saliency, layer)).abs()
    alive = unit_budget(method).within(units, prune=lost)
    journal.put(
        kept=alive.flatten().nonzero().flatten().tolist(),
        scores=[float(f"{u:.6g}") for u in units.flatten().tolist()],
    )


@torch.no_grad()
def _mean_sizes(
    model: StreamedModel,
    stream: ResidualStream,
    states: HiddenStates,
    journal: Journal,
    done: Callable[[], None],
) -> Tensor:
    """The mean of |n_j| over tokens and norms, ``[hidden size]``."""
    ranked = int(journal.get("ranked", 0))
    total = torch.zeros(stream.group.units, dtype=torch.float64, device=model.device)
    if ranked:
        total += torch.tensor(journal.get("sizes"), dtype=torch.float64).to(total)
    begun(model, states, ranked)
    for index in range(ranked, len(model)):
        block, here = model.load(index), torch.zeros_like(total)
        norms = [block.get_submodule(n) for n in inside(model, index, stream.norms)]
        for windows in states.slices():
            hidden = states.of(index).tensor[windows].to(model.device)
            given, seen = sizes(norms, partial(model.call, index, hidden))
            here += seen
            states.of(index + 1).tensor[windows] = given.float().cpu()
        states.of(index + 1).flush()
        ranks.add_up([here])
        total += here
        model.free(index)
        journal.put(ranked=index + 1, sizes=total.tolist())
        done()
    model.load_rest(head=False)
    last, here = model.model.get_submodule(stream.last_norm), torch.zeros_like(total)
    for windows in states.slices():
        hidden = states.of(len(model)).tensor[windows].to(model.device)
        here += last(hidden).flatten(0, -2).abs().double().sum(0)
    ranks.add_up([here])
    return (total + here) / (states.tokens.numel() * len(stream.norms))
