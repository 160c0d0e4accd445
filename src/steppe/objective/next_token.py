"""Each next token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.errors import SteppeError
from steppe.core.next_token import next_token_loss
from steppe.core.protocols import Objective


@Objective.registry.register("next_token")
@dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Mean of -log p(t_i | t_1 ... t_i-1) over the tokens of a batch but each window's first.

    The outputs are logits ``[batch, tokens, vocabulary]``, the targets the ids that the network was
    given, ``[batch, tokens]``: they are shifted here. Where a target is -100 (padding) nothing is
    predicted.

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
        if batch.outputs.ndim != 3 or batch.targets.shape != batch.outputs.shape[:2]:
            raise SteppeError(
                "objective next_token takes logits [batch, tokens, vocabulary] and the ids "
                "[batch, tokens]",
                got=f"logits {list(batch.outputs.shape)} and targets {list(batch.targets.shape)}",
                way_out="objective task, which takes the loss of your own",
            )
        return next_token_loss(batch.outputs, batch.targets)
