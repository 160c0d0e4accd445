"""Whether a model that was cut computes what the one does that it was cut from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from steppe.llm.model import StreamedModel
from steppe.llm.self_check import relative_error, sample_texts
from steppe.llm.stream import answer
from steppe.llm.structured.choice import Choice
from steppe.llm.structured.pinned_routes import PinnedRoutes

AGREE = 1e-4
"""The largest difference between masked and cut, relative to the largest number."""
_WINDOW = 16


@dataclass(frozen=True)
class _Passed:
    """What a model made of a text.

    Args:
        states: what the first block got and what each block gave; empty where the model is whole.
        logits: at the end.
    """

    states: list[Tensor]
    logits: Tensor

    def narrowed(self, kept: Tensor) -> _Passed:
        """With the dimensions of the hidden states that stay, ``[hidden size]`` booleans."""
        return replace(self, states=[s[..., kept.to(s.device)] for s in self.states])


@torch.no_grad()
def compared(choice: Choice, slim: Path, device: str) -> float:
    """Largest difference between the models before and after the cut, relative to the largest.

    Each block gets what it got in the model before, and so does the head: roundings do not add up.
    The tokens of a mixture go to the experts that they went to before, as two that are equally good
    but for rounding are no difference; the routers' own outputs are compared beside. All is in
    float32, with a block of one of the models in memory at a time.

    Args:
        choice: what was cut from which model.
        slim: the folder of what is left.
        device: where both compute.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    source = StreamedModel(str(choice.source), device)
    texts = sample_texts(source, _WINDOW)[0]
    source.decide(_WINDOW)
    routes = PinnedRoutes(choice.cut.experts)
    with choice.without(source), routes.recorded(source):
        before = _passed(source, texts)
    source.free_rest()
    cut = StreamedModel(str(slim), device)
    cut.decide(_WINDOW)
    largest = 0.0
    if choice.cut.hidden is not None:
        before = before.narrowed(choice.cut.hidden)
    with routes.repeated(cut, choice.cut.blocks):
        for what, error in _errors(cut, texts, before, source.names, choice.cut.blocks):
            assert error <= AGREE, f"{what} of {slim} differs from what was cut by {error:.1e}"
            assert routes.error <= AGREE, f"a router of {slim} differs by {routes.error:.1e}"
            largest = max(largest, error, routes.error)
    cut.free_rest()
    return largest


def _passed(model: StreamedModel, texts: Tensor) -> _Passed:
    if not model.chained:
        return _Passed([], answer(model.run(texts)).float().cpu())
    states = [model.inputs(0, texts)]
    for index in range(len(model)):
        model.load(index)
        states.append(model.call(index, states[-1]))
        model.free(index)
    return _Passed(states, model.logits(texts, states[-1]).float().cpu())


def _errors(
    cut: StreamedModel, texts: Tensor, before: _Passed, names: list[str], stay: tuple[str, ...]
) -> Iterator[tuple[str, float]]:
    """Part of the cut model, and how far it is from the other one's."""
    if not (cut.chained and before.states):
        yield "the answer", relative_error(_passed(cut, texts).logits, before.logits)
        return
    yield "the embedding", relative_error(cut.inputs(0, texts), before.states[0])
    for place, name in enumerate(names):
        given, made = before.states[place : place + 2]
        if name not in stay:  # so it must have done nothing
            yield f"the place of {name}", _error(given, made, given)
            continue
        index = stay.index(name)
        cut.load(index)
        yield cut.names[index], _error(cut.call(index, given), made, given)
        cut.free(index)
    logits = cut.logits(texts, before.states[-1]).float().cpu()
    yield "the head", relative_error(logits, before.logits)


def _error(found: Tensor, expected: Tensor, given: Tensor) -> float:
    """Largest difference of a token's outputs, relative to the largest of its in- and outputs.

    Single tokens may have outputs a thousand times as large as all others.
    """
    if found.shape != expected.shape:
        return float("inf")
    largest = torch.maximum(*(x.float().abs().amax(-1) for x in (expected, given)))
    off = (found.float() - expected.float()).abs().amax(-1)
    return float((off / largest.clamp_min(1e-30)).nan_to_num(float("inf")).max())
