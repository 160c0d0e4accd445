"""The loss of a causal language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from steppe.core.positions import sum_over

NONE = -100
"""The id of what is not to be predicted (padding), as transformers and torch have it."""


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross entropy of each token given those before it, in nats.

    -1/n sum over b, i >= 1 of log softmax(z[b, i-1])[tokens[b, i]]

    in float32, some positions at a time (`steppe.core.positions`); n = b (t-1) less those that are
    `NONE`, which are left out.

    Args:
        logits: z, shape [b, t, vocabulary].
        tokens: ids, int64, shape [b, t], t at least 2; not shifted.

    Returns:
        A scalar.

    Example:
        >>> float(next_token_loss(torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.long)))
        0.0
    """
    targets = torch.full_like(tokens, NONE)  # the last position predicts what is not there
    targets[:, :-1] = tokens[:, 1:]

    def rows(z: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(z.float(), target, reduction="none", ignore_index=NONE)

    # all positions in one view: without the last one of each window they would be copied
    total = sum_over(rows, logits.flatten(0, 1), targets.flatten())
    return total / (targets != NONE).sum()
