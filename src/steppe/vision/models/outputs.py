"""The class scores of any classifier, whatever it returns."""

from __future__ import annotations

from torch import Tensor, nn

from steppe.core.errors import SteppeError


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """The class scores, whether the model returns them bare or as a transformers output.

    Args:
        model: the classifier.
        x: images, [n, c, h, w], float, normalised.

    Returns:
        [n, num_classes], before the softmax.

    Raises:
        SteppeError: the model returns neither a tensor nor an object with ``.logits``.

    Example:
        >>> import torch
        >>> logits(nn.Flatten(), torch.ones(2, 3, 1, 1)).shape
        torch.Size([2, 3])
    """
    output = model(x)
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor):
        raise SteppeError(
            "a classifier must return a tensor or an object with .logits",
            got=type(output).__name__,
            way_out="wrap the model so that forward returns the class scores",
        )
    return scores
