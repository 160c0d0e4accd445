"""One global L2 norm over many tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """sqrt(sum over all tensors of ||t||^2), one scalar tensor, without a sync.

    Sums in float32 at least; sharded tensors (FSDP) are summed over the ranks.

    Example:
        >>> float(global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]))
        5.0
    """
    wide = [t if t.dtype in (torch.float32, torch.float64) else t.float() for t in tensors]
    total: Tensor = torch.stack([n.float() for n in torch._foreach_norm(wide)]).norm()
    full = getattr(total, "full_tensor", None)
    return total if full is None else cast(Tensor, full())
