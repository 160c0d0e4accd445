"""What an objective may look at to compute the loss of a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One forward pass of what is trained. An objective says in `Objective.reads` what it needs.

    Args:
        task_loss: the loss of the task, a scalar that the training loop has computed.
        outputs: what the network, the block or the layer has computed: logits ``[batch, classes]``
            or ``[batch, tokens, vocabulary]``, hidden states ``[windows, tokens, hidden]``.
        inputs: what it was given, e.g. images, or the ids of tokens.
        targets: what the outputs shall be: labels, or what the dense block or layer makes of the
            same inputs.
        reference_outputs: the outputs of the objective's `Objective.reference` for these inputs.
    """

    task_loss: Tensor | None = None
    outputs: Tensor | None = None
    inputs: Any = None
    targets: Tensor | None = None
    reference_outputs: Tensor | None = None
