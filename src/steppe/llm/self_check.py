"""Whether a walk over a model's blocks is what the model computes: found before any pruning."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.call_form import positional
from steppe.llm.architecture import OWN_LOOP
from steppe.llm.skeleton import patched
from steppe.llm.stream import Stream, answer, difference, take_hidden
from steppe.llm.weights import Weights

LONGEST = 256
"""Tokens in the windows of the check."""
ROUNDING = 1e-4
"""The largest difference, relative to the largest number, that is no disagreement."""


class UntrueError(Exception):
    """The walk is not what the model computes, for the reason that it carries."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the check found.

    Args:
        error: largest difference between walk and model, relative to the model's largest number.
        reason: why blocks cannot be streamed; None if they can.
    """

    error: float
    reason: str | None = None


def check_stream(model: Weights, stream: Stream, window: int) -> Verdict:
    """Run the model once on two texts, a block in memory at a time, and the walk beside it.

    Every block's inputs and arguments are compared with what the walk gives it, recorded from two
    other texts; then outputs and logits are. No weights are left in memory.

    Args:
        model: its blocks and weights.
        stream: the walk.
        window: tokens in a text.

    Raises:
        SteppeError: the model itself does not run on text.
    """
    if "," in model.prefix:
        return Verdict(0.0, f"its blocks are in several lists: {model.prefix}")
    texts = sample_texts(model, min(window, LONGEST))
    try:
        return Verdict(_Beside(model, stream, texts[0], texts[1]).error())
    except UntrueError as error:
        return Verdict(0.0, str(error))
    finally:
        model.free_rest()  # the head is not needed while blocks are pruned


def sample_texts(model: Weights, window: int) -> Tensor:
    """Two batches of two windows of token ids ``[2, 2, window]``, the same every time."""
    generator = torch.Generator().manual_seed(0)
    special = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids = torch.randint(model.vocabulary, (2, 2, window), generator=generator)
    if special is not None and model.vocabulary > 1:
        ids[ids == special] = (special + 1) % model.vocabulary  # padding is seen by few models
    return ids


def known_weights(model: Weights, index: int) -> None:
    """Raise SteppeError where a block's weights are no numbers: nothing true comes of them."""
    for name, weight in model.blocks[index].named_parameters():
        if not torch.isfinite(weight).all():
            raise SteppeError(
                "a model's weights must be finite",
                got=f"NaN or infinity in {model.names[index]}.{name}",
                way_out="download or copy the model again, or save it before training diverged",
            )


def plain(model: Weights, tokens: Tensor) -> Any:
    """What the model makes of token ids.

    Raises:
        SteppeError: it does not run on them.
    """
    try:
        return model.run(tokens)
    except (UntrueError, SteppeError):
        raise
    except Exception as error:  # of a model's own code: any
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise SteppeError(
            "blockwise pruning runs the model on token ids alone",
            got=f"{type(model.model).__name__}, which ended with {type(error).__name__}: {said}",
            way_out=OWN_LOOP,
        ) from error


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two tensors, relative to the largest number of the second."""
    if found.shape != expected.shape:
        return float("inf")
    a, b = found.float(), expected.float()
    known = torch.isfinite(a) & torch.isfinite(b)
    if not torch.equal(a.masked_fill(known, 0.0), b.masked_fill(known, 0.0)):
        return float("inf")  # equal infinities are no difference
    a, b = a[known], b[known]
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) if len(a) else 0.0


class _Beside:
    """The walk beside one forward pass of the model."""

    def __init__(self, model: Weights, stream: Stream, text: Tensor, other: Tensor) -> None:
        self._model, self._stream, self._text, self._other = model, stream, text, other
        self._walked = torch.empty(0)
        self._last = torch.empty(0)
        self._next, self._error = 0, 0.0

    def error(self) -> float:
        """The largest difference of all.

        Raises:
            UntrueError: the walk is not what the model computes.
        """
        model, stream, (batch, window) = self._model, self._stream, self._text.shape
        try:
            stream.inputs(0, self._other)
            stream.record(batch, window)
            self._walked = stream.inputs(0, self._text)
        except SteppeError as error:
            raise UntrueError(_got(error)) from error
        except Exception as error:  # of the model's own code, that met a stand-in: any
            raise UntrueError(f"stand-ins for its blocks do not do: {_got(error)}") from error
        model.load_rest(head=True)
        stand_ins = {i: self._runner(i) for i in range(len(model.blocks))}
        with patched(stand_ins, model.blocks):
            expected = answer(plain(model, self._text))
        if self._next != len(model.blocks):
            raise UntrueError(f"{model.names[self._next]} does not run on text alone")
        self._compare(stream.logits(self._text, self._walked), expected, "what follows the blocks")
        if expected.ndim == 3 and model.predicts:
            found = stream.head(self._walked.flatten(0, 1)).view_as(expected)
            self._compare(found, expected, "what follows the blocks, token by token,")
        return self._error

    def _runner(self, index: int) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._model.load(index)
            known_weights(self._model, index)
            block = self._model.blocks[index]
            stand_in = block.forward
            del block.forward
            try:
                return self._run(index, args, kwargs)
            finally:
                self._model.free(index)
                block.forward = stand_in

        return run

    def _run(self, index: int, args: Any, kwargs: Any) -> Any:
        name = self._model.names[index]
        if index != self._next:
            raise UntrueError(f"{name} runs out of turn, or more than once")
        self._next += 1
        try:
            hidden, *rest = take_hidden(args, kwargs)
        except SteppeError as error:
            raise UntrueError(_got(error)) from error
        expected = (*self._text.shape, self._model.hidden_size)
        if tuple(hidden.shape) != expected:
            shape = list(hidden.shape)
            raise UntrueError(f"{name} gets hidden states of shape {shape}, not {list(expected)}")
        if index and not torch.equal(hidden, self._last):
            raise UntrueError(f"{name} does not get what the block before it gave")
        names = positional(self._model.blocks[index])[1:]
        where = difference(self._stream.arguments(index, *self._text.shape), tuple(rest), names)
        if where is not None:
            raise UntrueError(f"{name} gets {where}, which depends on the text or earlier blocks")
        try:
            self._stream.call(index, self._walked)  # what it leaves behind must not matter
            self._walked = self._stream.call(index, self._walked)
        except Exception as error:  # of the block's own code, that wants more: any
            raise UntrueError(f"{name} in the walk: {_got(error)}") from error
        returned = self._model.blocks[index](*args, **kwargs)
        try:
            self._last = self._stream.taken(returned).clone()
        except SteppeError as error:
            raise UntrueError(_got(error)) from error
        self._compare(self._walked, self._last, name)
        return returned

    def _compare(self, found: Tensor, expected: Tensor, what: str) -> None:
        error = relative_error(found, expected)
        if not error <= ROUNDING:
            raise UntrueError(f"{what} gives something else in the walk (difference {error:.1e})")
        self._error = max(self._error, error)


def _got(error: Exception) -> str:
    """What was seen, without the rule and the way out."""
    said = error.got if isinstance(error, SteppeError) else f"{type(error).__name__}: {error}"
    return f"{said}".splitlines()[0][:200]
