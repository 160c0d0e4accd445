"""The windows of a text on which a perplexity is measured before and after."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.llm.calibration_windows import check_vocabulary
from steppe.llm.load import tokenizer_of
from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import pieces
from steppe.llm.text import read, tokenize, too_short


def measured_windows(model: StreamedModel, name: str, window: int) -> Tensor:
    """A text in windows that do not overlap, the remainder dropped.

    Args:
        model: whose tokenizer is used; its weights are not read.
        name: of the text, see `steppe.llm.text.read`.
        window: tokens in each.

    Returns:
        Ids [windows, window].

    Raises:
        SteppeError: the model predicts no tokens; the text is not there, too short, or of another
            vocabulary.
    """
    if not model.predicts:
        raise SteppeError(
            "perplexity is measured of models that predict each next token",
            got=f"--evaluate {name} for {type(model.model).__name__}",
            way_out="leave --evaluate out, and measure the result on the model's own task",
        )
    corpus = read(name, "test")
    tokens = tokenize(tokenizer_of(model.folder), corpus.joined())
    if len(tokens) < window:
        raise too_short(corpus.source, len(tokens), window, 0)
    cut = [piece for piece, _ in pieces(tokens, window)][: corpus.windows]
    check_vocabulary(torch.stack(cut), model.vocabulary)
    return torch.stack(cut)
