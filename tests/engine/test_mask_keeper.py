"""Masks stay through any optimiser: weights, gradients and buffers."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.engine.mask_keeper import MaskKeeper, named_weights, read_masks

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1, weight_decay=0.1),
}


def pruned(sparsity: float = 0.5) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= torch.rand_like(layer.weight) >= sparsity
            layer.weight += 0.0
    return model


def masks_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        n: w.detach() != 0 for n, w in model.named_parameters() if n in {"0.weight", "2.weight"}
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_exactly_with_every_optimizer(name: str) -> None:
    model = pruned()
    masks, dense = masks_of(model), model[4].weight.detach().clone()
    keeper = MaskKeeper(model)
    assert set(keeper.masks) == set(masks), "a layer without zeros is not kept"
    optimizer = OPTIMIZERS[name](model.parameters())
    assert keeper.wrap(optimizer) is optimizer
    train(model, optimizer)
    for key, mask in masks.items():
        weight = dict(model.named_parameters())[key]
        assert torch.equal(weight[~mask].view(torch.int32), torch.zeros_like(weight[~mask]).int())
        assert weight[mask].count_nonzero() == mask.sum(), "what was kept is trained on"
        shaped = [v for v in optimizer.state[weight].values() if v.shape == mask.shape]
        assert shaped, f"{name} has buffers"
        assert all(bool((v[~mask] == 0).all()) for v in shaped)
    assert not torch.equal(model[4].weight, dense)
    keeper.check()


def test_without_it_the_zeros_are_lost() -> None:
    model = pruned()
    keeper = MaskKeeper(model)
    train(model, OPTIMIZERS["adamw"](model.parameters()))
    assert keeper.sparsity() < 0.25  # half of it was zero
    with pytest.raises(SteppeError, match="masked weights must be zero"):
        keeper.check()
    keeper.apply()
    keeper.check()


def test_kept_weights_train_as_if_the_masked_ones_did_not_exist() -> None:
    """The same as training w * m, gradient clipping included."""
    model = pruned()
    masks = masks_of(model)
    reference = copy.deepcopy(model)
    optimizer = MaskKeeper(model).wrap(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    other = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        x = torch.randn(16, 8)
        for net, opt in ((model, optimizer), (reference, other)):
            opt.zero_grad()
            net(x).square().sum().backward()
            if net is reference:
                for key, mask in masks.items():
                    dict(net.named_parameters())[key].grad.mul_(mask)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            opt.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_set_by_hand_and_an_old_momentum_are_masked() -> None:
    model = pruned()
    masks = masks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    before = [w.detach().clone() for w in model.parameters()]
    optimizer.step()  # before the keeper: momentum everywhere
    with torch.no_grad():
        for w, b in zip(model.parameters(), before, strict=True):
            w.copy_(b)
    keeper = MaskKeeper(model)
    keeper.wrap(keeper_twice := optimizer)
    keeper.wrap(keeper_twice)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    for key, mask in masks.items():
        buffer = optimizer.state[dict(model.named_parameters())[key]]["momentum_buffer"]
        assert (buffer[~mask] == 0).all()
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    keeper.check()


def test_wrappers_are_looked_through_and_closures_work() -> None:
    model = pruned()
    keeper = MaskKeeper(nn.DataParallel(model))
    assert list(keeper.masks) == ["0.weight", "2.weight"]
    optimizer = keeper.wrap(torch.optim.LBFGS(model.parameters(), max_iter=3))
    x = torch.randn(16, 8)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    keeper.check()


def test_ddp_has_the_names_of_the_model_inside() -> None:
    """One rank, with DDP's own gradient hooks and buckets."""

    def check() -> None:
        model = nn.parallel.DistributedDataParallel(pruned(), gradient_as_bucket_view=True)
        keeper = MaskKeeper(model)
        assert list(keeper.masks) == ["0.weight", "2.weight"]
        optimizer = keeper.wrap(OPTIMIZERS["adamw"](model.parameters()))
        train(model, optimizer)
        for weight in keeper.weights.values():
            assert (weight.grad[weight == 0] == 0).all()
        keeper.check()

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        check()
    finally:
        gc.collect()  # a reducer that outlives its group can wait for the group's thread for ever
        torch.distributed.destroy_process_group()


def test_bfloat16_and_a_scaler() -> None:
    model = pruned().to(torch.bfloat16)
    keeper = MaskKeeper(model)
    optimizer = keeper.wrap(torch.optim.AdamW(model.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        scaler.scale(model(torch.randn(4, 8, dtype=torch.bfloat16)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    keeper.check()
    for name, mask in keeper.masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight.isfinite().all()


def test_masks_come_from_a_dict_a_folder_and_back(tmp_path: Path) -> None:
    model = pruned()
    masks = masks_of(model)
    # two shards, as a large run has
    for i, (name, mask) in enumerate(masks.items(), 1):
        save_file(pack({name: mask}), tmp_path / f"masks-0000{i}-of-00002.safetensors")
    assert set(read_masks(tmp_path)) == set(masks)
    keeper = MaskKeeper(model, tmp_path, exclude=["2"])
    assert list(keeper.masks) == ["0.weight"]
    keeper = MaskKeeper(model, masks)
    again = MaskKeeper(model, {n: torch.ones_like(m) for n, m in masks.items()})
    again.load_state_dict(keeper.state_dict())
    assert all(torch.equal(again.masks[n], m) for n, m in masks.items())
    with pytest.raises(SteppeError, match=r"0\.weight"):
        MaskKeeper(model, masks, include=["2"]).load_state_dict(keeper.state_dict())
    wrong = {n: ~m for n, m in masks.items()}
    with pytest.raises(SteppeError, match="masked weights must be zero"):
        keeper.load_state_dict(pack(wrong))
    assert torch.equal(keeper.masks["0.weight"], masks["0.weight"]), (
        "a refused state changes nothing"
    )


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    model, masks = pruned(), {}
    with pytest.raises(SteppeError, match="there must be zeros"):
        MaskKeeper(nn.Linear(4, 4))
    with pytest.raises(SteppeError, match="must match"):
        MaskKeeper(model, masks_of(model), exclude=["9"])
    with pytest.raises(SteppeError, match="masks to keep"):
        MaskKeeper(model, masks)
    with pytest.raises(SteppeError, match=r"holds no masks"):
        MaskKeeper(model, tmp_path)
    with pytest.raises(SteppeError, match="belongs to a weight"):
        MaskKeeper(model, {"9.weight": torch.ones(2, 2)})
    with pytest.raises(SteppeError, match="belongs to a weight"):
        MaskKeeper(model, {"0.weight": torch.ones(2, 2)})
    other = torch.optim.SGD(pruned().parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"must hold the weights"):
        MaskKeeper(model).wrap(other)


def test_frozen_weights_need_no_place_in_the_optimizer() -> None:
    model = pruned()
    keeper = MaskKeeper(model)
    for layer in (model[0], model[2]):
        layer.weight.requires_grad_(False)
    before = {n: w.detach().clone() for n, w in model.named_parameters()}
    train(model, keeper.wrap(torch.optim.SGD(model[4].parameters(), lr=0.1)))
    keeper.check()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (not name.startswith("4.")), name


def test_names_are_those_of_the_plain_model() -> None:
    assert "0.weight" in named_weights(nn.DataParallel(pruned()))


@pytest.mark.parametrize(
    "state",
    [
        {"0.weight.bits": torch.ones(16, dtype=torch.uint8)},
        {
            "0.weight.bits": torch.ones(3, dtype=torch.uint8),
            "0.weight.shape": torch.tensor([16, 8]),
        },
        {"0.weight.bits": torch.ones(16), "0.weight.shape": torch.tensor([16, 8])},
    ],
)
def test_a_state_that_is_not_whole_is_one_line(state):
    keeper = MaskKeeper(pruned())
    with pytest.raises(SteppeError, match="eight entries in a byte"):
        keeper.load_state_dict(state)
    keeper.check()


def test_a_state_that_is_empty_is_one_line():
    with pytest.raises(SteppeError, match="a keeper of the same weights"):
        MaskKeeper(pruned()).load_state_dict(None)


def test_recurrent_weights_are_kept_and_what_others_make_is_named():
    model = nn.ModuleDict({"r": nn.LSTM(4, 4), "made": nn.Linear(4, 4)})
    nn.utils.parametrizations.weight_norm(model["made"])
    with torch.no_grad():
        model["r"].weight_hh_l0[:8] = 0
    keeper = MaskKeeper(model)
    optimizer = keeper.wrap(torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1))
    for _ in range(3):
        optimizer.zero_grad()
        model["made"](model["r"](torch.randn(5, 2, 4))[0]).square().mean().backward()
        optimizer.step()
    assert list(keeper.masks) == ["r.weight_hh_l0"]
    assert not model["r"].weight_hh_l0[:8].any()
    assert "made.weight is not kept: Linear, made by weight_norm" in keeper.notes[0]


def test_the_keeper_of_an_average_calls_weights_as_the_model_does():
    averaged = torch.optim.swa_utils.AveragedModel(pruned())
    assert sorted(MaskKeeper(averaged).masks) == ["0.weight", "2.weight"]


def test_masks_of_what_is_pruned_by_name_only():
    model = nn.Sequential(nn.Embedding(6, 4))
    mask = torch.arange(24).reshape(6, 4) % 2 == 0
    with torch.no_grad():
        model[0].weight.mul_(mask)
    assert MaskKeeper(model, {"0.weight": mask}).sparsity() == 0.5
