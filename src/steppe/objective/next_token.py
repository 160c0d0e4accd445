"""Each next token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.next_token import next_token_loss
from steppe.core.protocols import Objective


@Objective.registry.register("next_token")
@dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Mean of -log p(t_i | t_1 ... t_i-1) over the tokens of a batch but each window's first.

    The outputs are logits ``[batch, tokens, vocabulary]``, the targets the ids that the network was
    given, ``[batch, tokens]``: they are shifted here.

    Example:
        >>> import torch
        >>> batch = Batch(outputs=torch.zeros(1, 3, 4), targets=torch.tensor([[0, 1, 2]]))
        >>> round(float(NextToken().loss(batch)), 4)
        1.3863
    """

    name = "next_token"
    reads = ("outputs", "targets")

    def loss(self, batch: Batch) -> Tensor:
        assert batch.outputs is not None
        assert batch.targets is not None
        return next_token_loss(batch.outputs, batch.targets)
