"""An optimiser that was made from named parameters keeps their names, whatever is regrouped."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import steppe
from looped import looped
from steppe.engine.step.named_groups import names_of

METHODS = {
    "gmp": steppe.methods.gmp(sparsity=0.5),
    "spred": steppe.methods.spred(sparsity=0.5),
    "pilot": steppe.methods.pilot(sparsity=0.5, decay="constant"),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def run(method: Any, groups: Any, names: bool, decay: float) -> tuple[nn.Module, Any]:
    model = network()
    params: Any = [*model.named_parameters()] if names else [*model.parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=decay)
    options = steppe.StepOptions(optimizer_groups=groups)
    sparsifier = steppe.sparsify(model, optimizer, method, 3, options=options)
    for _ in range(3):
        sparsifier.step(lambda: model(torch.ones(4, 8)).square().mean())
    own = names_of(optimizer.param_groups)
    assert len(set(own.values())) == len(own)
    assert len(own) == (sum(len(g["params"]) for g in optimizer.param_groups) if names else 0)
    for group in optimizer.param_groups:
        assert len(group.get("param_names", group["params"])) == len(group["params"])
    copy.deepcopy(optimizer).load_state_dict(optimizer.state_dict())
    sparsifier.finish()
    if names:
        own = names_of(optimizer.param_groups)
        assert {own[id(p)]: p for p in model.parameters()} == dict(model.named_parameters())
    return model, optimizer


@looped(case=[(m, d) for m in METHODS for d in (0.0, 0.1)])
def test_names_stay_with_their_parameters(case: tuple[str, float]) -> None:
    method, decay = case
    groups = [{"kind": "norm", "weight_decay": 0.0}, {"params": "3.*", "lr": 0.01}]
    (named, optimizer), (plain, other) = (
        run(METHODS[method], groups, names, decay) for names in (True, False)
    )
    assert len(optimizer.param_groups) == len(other.param_groups)
    for one, two in zip(named.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, two)
