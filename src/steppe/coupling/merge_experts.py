"""Experts that go are merged into the most similar of those that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import ExpertMerger
from steppe.coupling.reroute import Reroute

SIMILARITIES = ("logits", "router")


@ExpertMerger.registry.register("merge_experts")
@dataclass(frozen=True, kw_only=True)
class MergeExperts(Reroute, ExpertMerger):
    """W_i <- sum_j f_j P_j(W_j) / sum_j f_j over expert i, which stays, and those j that go to it.

    f_j is the share of the tokens that expert j gets. j goes to the i that stays with the largest
    cosine: of the router's logits over the tokens, or of its rows. P_j puts the neurons of j in the
    order in which their weights (what computes a neuron, and what reads it) have the largest sum of
    inner products with those of i: an assignment problem. The router's row of j goes, so that j's
    tokens are sent to what the router then likes best, which need not be i.

    A layer costs an assignment of as many neurons as an expert has, for each expert that goes.

    Args:
        similarity: ``logits`` or ``router``, see above. Biases of the router are left out.

    Source: M-SMoE (Li et al. 2024, arXiv 2310.01334), which takes the logits, and those experts
    as the ones that stay that get most tokens (score routing_frequency). It keeps the rows of the
    router, several for one expert; no config of transformers says that.
    """

    similarity: str = "logits"
    name = "merge_experts"

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise SteppeError(
                "merge_experts compares experts by what their router makes of them",
                got=f"similarity {self.similarity}",
                way_out=" or ".join(SIMILARITIES),
            )

    def merged_into(self, alive: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        products = statistics[f"expert_{self.similarity}"]
        norms = products.diagonal().clamp_min(torch.finfo(products.dtype).tiny).sqrt()
        cosines = (products / norms / norms[:, None]).masked_fill(~alive, -torch.inf)
        return torch.where(alive, torch.arange(len(alive)), cosines.argmax(dim=1))

    def aligned(self, stays: Tensor, goes: Tensor) -> Tensor:
        products = (stays.double() @ goes.double().T).cpu().numpy()
        _, places = linear_sum_assignment(products, maximize=True)
        return torch.from_numpy(places)
