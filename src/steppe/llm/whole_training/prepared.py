"""A whole training made ready: model, text and measured texts checked before anything is long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.prunable import prunable
from steppe.llm.load import load_model, tokenizer_of, words_of
from steppe.llm.measured_text import measured_windows
from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import perplexity
from steppe.llm.prepare import fingerprint
from steppe.llm.tokens.packed import PackedText, Packing


class DenseModel:
    """A causal language model on disk: its shapes, its text, its weights when they are asked for.

    Args:
        name: a folder, or a hub id.

    Raises:
        SteppeError: it is none that predicts tokens.
    """

    def __init__(self, name: str) -> None:
        self.source = StreamedModel(name, "cpu")
        if not self.source.predicts:
            raise SteppeError(
                "language models are trained to predict each next token",
                got=f"{type(self.source.model).__name__} in {self.source.folder}",
                way_out="steppe prune, which needs no loss of its own",
            )

    @property
    def fingerprint(self) -> str:
        """A short hash of its files."""
        return fingerprint(self.source)

    def load(self) -> nn.Module:
        """The model in float32, ready to be trained."""
        model: nn.Module = load_model(self.source.folder, "cpu", torch.float32)
        return model.train().requires_grad_(True)

    def outside(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[str, ...]:
        """Weights that the patterns select and that lie in no decoder block, which stay dense.

        Raises:
            SteppeError: a pattern matches none in the blocks.
        """
        inside = {layer.name for layer in self.source.layers(include, exclude)}
        chosen = prunable(self.source.model, include, exclude)[0]
        return tuple(x.name for x in chosen if x.name not in inside)

    def training_text(self, text: str, packing: Packing) -> PackedText:
        """A text, or several, in windows.

        Args:
            text: see `Packing.of`.
            packing: without the vocabulary.

        Raises:
            SteppeError: it cannot be read, is too short, or of another vocabulary.
        """
        own = replace(packing, vocabulary=self.source.vocabulary)
        ids = text.endswith(".safetensors")
        return own.of(text, None if ids else tokenizer_of(self.source.folder))

    def measured(self, texts: tuple[str, ...], window: int) -> dict[str, Tensor]:
        """Text -> the windows on which perplexity is measured."""
        return {name: measured_windows(self.source, name, window) for name in texts}


def keep_less(model: Any) -> None:
    """Keep what goes into each block, and compute what is inside of it again in the backward pass.

    Raises:
        SteppeError: transformers cannot do so for this kind of model.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise SteppeError(
            "transformers must know how to compute blocks twice",
            got=f"--checkpointing for {type(model).__name__}, where it does not",
            way_out="leave it out; a smaller --batch-size with --accumulate needs less too",
        )
    # transformers 5.23 has another name for it, and says so of the former one
    former = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", former)({"use_reentrant": False})


class Teacher:
    """Whose answers a distillation learns from.

    Args:
        name: a folder, or a hub id.
        student: of the same vocabulary.

    Raises:
        SteppeError: it has another vocabulary.
    """

    def __init__(self, name: str, student: DenseModel) -> None:
        self._dense = DenseModel(name)
        own, theirs = student.source.vocabulary, self._dense.source.vocabulary
        words = [words_of(x.source.folder) for x in (student, self._dense)]
        if own != theirs or (all(words) and words[0] != words[1]):
            raise SteppeError(
                "a teacher has the vocabulary of the model that learns from it",
                got=f"{theirs} tokens in {name}, {own} in {student.source.folder}"
                + " (others)" * (own == theirs),
                way_out="a teacher of the same tokenizer, or leave --teacher out: the dense model "
                "itself teaches then",
            )

    def load(self) -> nn.Module:
        """The model in float32, in eval mode, not trained."""
        return self._dense.load().eval().requires_grad_(False)


HELD_OUT = "held out"
"""The name of the windows of the training text that are never trained on, as of a text."""


class Measure:
    """Perplexities of a model on texts; the last ones are kept whole.

    Args:
        texts: name -> ids [windows, window].
        batch: windows in a forward pass.
    """

    def __init__(self, texts: dict[str, Tensor], batch: int) -> None:
        self._texts, self._batch = texts, batch
        self.last: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the texts."""
        return tuple(self._texts)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The first text's perplexity and loss, and the perplexity of what is held out."""
        self.last = {name: self._of(model, name) for name in self._texts}
        first: dict[str, Any] = next(iter(self.last.values()), {})
        found: dict[str, float] = {}
        found |= {key: float(first[key]) for key in ("perplexity", "loss") if key in first}
        if HELD_OUT in self.last:
            found["held_out_perplexity"] = float(self.last[HELD_OUT]["perplexity"])
        return found

    def _of(self, model: nn.Module, name: str) -> dict[str, Any]:
        tokens = self._texts[name]
        found = perplexity(model, tokens, window=tokens.shape[1], batch=self._batch)
        return found | {"source": name, "seconds": round(found["seconds"], 3)}
