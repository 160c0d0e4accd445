"""What a pruned block has left, trained: towards the dense stream, zeros kept, judged, resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steppe import Method, SteppeError, methods
from steppe.engine.blockwise.config import BlockwiseConfig, ReconstructionConfig
from steppe.engine.blockwise.retrain import Retraining
from steppe.engine.blockwise.walk import Blockwise
from steppe.engine.mask_keeper import MaskKeeper
from walked import masks, weights

METHOD = Method(
    name="recover",
    budget={"name": "uniform", "sparsity": 0.0},
    coupling="none",
    objective="sublayer_reconstruction",
)
KINDS = ["plain", "conv1d", "experts"]


def zeroed(row: Any, pattern: Callable[[Tensor], Tensor]) -> Any:
    """A row of blocks of which some matrix entries are zero."""
    for block in row.held:
        for name, t in block.items():
            if t.ndim > 1 and "route" not in name:
                block[name] = t.where(pattern(t), 0.0)
    return row


def unmoved(out: Path, start: list[dict[str, Tensor]]) -> bool:
    new = weights(out)
    return all(
        torch.equal(new[f"block-{i}.{n}"], t) for i, b in enumerate(start) for n, t in b.items()
    )


def half(t: Tensor) -> Tensor:
    return t.abs() > t.abs().median()


def two_of_four(t: Tensor) -> Tensor:
    groups = t.abs().reshape(-1, 4)
    return (groups >= groups.topk(2, dim=1).values[:, 1:]).view(t.shape)


def walk(toy: ModuleType, out: Path, row: Any, kind: str = "plain", **options: Any) -> Blockwise:
    fit = ReconstructionConfig(
        **({"epochs": 8, "warmup_epochs": 1, "batch_size": 5, "lr": 1e-2} | options.pop("fit", {}))
    )
    work = Retraining(**({"held_out": 4} | options.pop("work", {})))
    dense = options.pop("dense", None) or toy.Row(kind=kind)
    config = BlockwiseConfig(reconstruction=fit, micro_batch=options.pop("micro_batch", 8))
    return Blockwise(row, METHOD, config, toy.tokens(24), out, dense=dense, work=work, **options)


def error(toy: ModuleType, row: Any, held: list[dict[str, Tensor]], kind: str) -> float:
    """Squared distance of the last hidden states from the dense ones'."""
    tokens = toy.tokens(24)
    ends = []
    for blocks in (held, toy.Row(kind=kind).held):
        x = row.embedding[tokens]
        for block, state in zip(row.blocks, blocks, strict=True):
            block.load_state_dict(state)
            x = block(x)
        ends.append(x)
    return float((ends[0] - ends[1]).square().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", ["weights", "norms", "lora"])
def test_it_is_nearer_to_the_dense_model_with_every_zero(
    train: str, kind: str, toy: ModuleType, tmp_path: Path
) -> None:
    row = zeroed(toy.Row(kind=kind), half)
    start = [dict(b) for b in row.held]
    rows = walk(toy, tmp_path, row, kind, work={"train": train}).run()
    new = weights(tmp_path)
    held = [{n: new[f"block-{i}.{n}"] for n in b} for i, b in enumerate(start)]
    assert error(toy, row, held, kind) < error(toy, row, start, kind)
    for before, after in zip(start, held, strict=True):
        for name, old in before.items():
            if old.ndim > 1 and "route" not in name:
                assert torch.equal(after[name] == 0, old == 0), name
                assert not bool(torch.signbit(after[name][old == 0]).any()), name
    found = masks(tmp_path)
    for name, mask in found.items():
        index, inside = name.split(".", 2)[1:]
        assert torch.equal(mask, start[int(index)][inside] != 0), name
    stages = {stage for r in rows for stage in r["held_out"]}
    assert stages <= {"attention", "feed_forward"}
    assert "attention" in stages


def test_n_of_m_and_the_sign_of_zeros_stay(toy: ModuleType, tmp_path: Path) -> None:
    row = zeroed(toy.Row(), two_of_four)
    signed = row.held[1]["attention.q.weight"]
    signed[signed == 0] = -0.0
    start = [dict(b) for b in row.held]
    walk(toy, tmp_path, row).run()
    new = weights(tmp_path)
    for index, before in enumerate(start):
        for name, old in before.items():
            after = new[f"block-{index}.{name}"]
            if old.ndim > 1:
                kept = (after != 0).reshape(-1, 4).sum(1)
                assert bool((kept == 2).all()), name
                zeros = old == 0
                assert torch.equal(torch.signbit(after[zeros]), torch.signbit(old[zeros])), name


def test_layers_that_share_a_weight(toy: ModuleType, tmp_path: Path) -> None:
    row, dense = zeroed(toy.Row(), half), toy.Row()
    for one in (row, dense):
        for block, held in zip(one.blocks, one.held, strict=True):
            block.attention.k.weight = block.attention.q.weight
            held["attention.k.weight"] = held["attention.q.weight"]
    start = [dict(b) for b in row.held]
    walk(toy, tmp_path, row, dense=dense).run()
    new = weights(tmp_path)
    for i, before in enumerate(start):
        q, k = (new[f"block-{i}.attention.{x}.weight"] for x in "qk")
        assert torch.equal(q, k)
        assert torch.equal(q == 0, before["attention.q.weight"] == 0)
        assert not torch.equal(q, before["attention.q.weight"])


def test_targets_are_the_dense_stream_and_inputs_the_recovered_one(
    toy: ModuleType, tmp_path: Path
) -> None:
    """A transcription: each sub-layer by Adam, from its own inputs, towards the dense model's."""
    row, dense = zeroed(toy.Row(blocks=2), half), toy.Row(blocks=2)
    tokens = toy.tokens(24)
    start, full = [dict(b) for b in row.held], [dict(b) for b in dense.held]
    fit = {"epochs": 2, "warmup_epochs": 0, "batch_size": 24, "lr": 1e-2}
    walk(toy, tmp_path, row, dense=dense, fit=fit, work={"held_out": 0}, micro_batch=24).run()
    new = weights(tmp_path)

    def attention(b: nn.Module, x: Tensor) -> Tensor:
        return x + b.attention(b.norm(x))[0]

    def feed_forward(b: nn.Module, x: Tensor) -> Tensor:
        return x + b.feed_forward(x)

    x = y = row.embedding[tokens]
    blocks = toy.Row(blocks=2).blocks, toy.Row(blocks=2).blocks
    for index in range(2):
        mine, teacher = blocks[0][index], blocks[1][index]
        mine.load_state_dict(start[index])
        teacher.load_state_dict(full[index])
        for part, own in ((attention, ("attention", "norm")), (feed_forward, ("feed_forward",))):
            with torch.no_grad():
                y = part(teacher, y)
            params = [p for n, p in mine.named_parameters() if n.startswith(own)]
            for p in params:
                p.requires_grad_(True)
            kept = {n: p.detach() != 0 for n, p in mine.named_parameters() if p.ndim > 1}
            optim = torch.optim.Adam(params, lr=1e-2, betas=(0.9, 0.95))
            MaskKeeper(mine, kept).wrap(optim)
            for step in (1, 2):
                optim.param_groups[0]["lr"] = 1e-2 * (1 - step / 3)
                optim.zero_grad()
                (part(mine, x) - y).square().mean().backward()
                optim.step()
            mine.requires_grad_(False)
            x = part(mine, x)
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(new[f"block-{index}.{name}"], value, rtol=1e-4, atol=1e-5)


def test_what_windows_held_out_do_not_show_to_be_better_stays(
    toy: ModuleType, tmp_path: Path
) -> None:
    row = zeroed(toy.Row(), half)
    start = [dict(b) for b in row.held]
    rows = walk(toy, tmp_path, row, fit={"lr": 30.0, "warmup_epochs": 0}).run()
    judged = [r for row in rows for r in row["held_out"].values()]
    assert {r["kept"] for r in judged} == {"start"}
    assert all(r["windows"] == 4 for r in judged)
    assert unmoved(tmp_path, start)


@pytest.mark.parametrize("train", ["weights", "norms", "lora"])
def test_weights_that_are_no_numbers_are_not_written(
    train: str, toy: ModuleType, tmp_path: Path
) -> None:
    """With no window held out nothing else would see it, and NaN is no zero."""
    work, fit = {"train": train, "held_out": 0}, {"lr": 1e30, "warmup_epochs": 0}
    walked = walk(toy, tmp_path, zeroed(toy.Row(), half), work=work, fit=fit)
    with pytest.raises(SteppeError, match=r"NaN or infinity in \S+, trained.*--lr 1e\+29"):
        walked.run()
    assert not list(tmp_path.glob("model*"))
    assert not list(tmp_path.glob("masks*"))


def test_stopped_after_a_block_it_goes_on_to_the_same_bits(toy: ModuleType, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        raise Stop

    walk(toy, tmp_path / "a", zeroed(toy.Row(), half)).run()
    with pytest.raises(Stop):
        walk(toy, tmp_path / "b", zeroed(toy.Row(), half), report=stop).run()
    walk(toy, tmp_path / "b", zeroed(toy.Row(), half)).run()
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_a_dense_model_has_nothing_to_regain(toy: ModuleType, tmp_path: Path) -> None:
    """Led back to itself it stays what it is: the error is 0 and no window can be better."""
    rows = walk(toy, tmp_path, toy.Row()).run()
    assert unmoved(tmp_path, toy.Row().held)
    assert all(r["start"] == 0.0 for row in rows for r in row["held_out"].values())


def test_pruning_may_take_sublayers_too(toy: ModuleType, tmp_path: Path) -> None:
    """SAFE as published, attention and feed-forward apart by what the block computes."""
    method = methods.for_language(methods.safe(sparsity=0.5, start=None, penalty=0.1, interval=2))
    fit = ReconstructionConfig(epochs=3, warmup_epochs=0, batch_size=4)
    config = BlockwiseConfig(reconstruction=fit)
    method = method.replace(objective="sublayer_reconstruction")
    Blockwise(toy.Row(), method, config, toy.tokens(8), tmp_path).run()
    found = masks(tmp_path)
    assert sum(int((~m).sum()) for m in found.values()) == (
        sum(m.numel() for m in found.values()) // 2
    )


def test_that_one_window_judges_is_said_once(toy: ModuleType, tmp_path: Path) -> None:
    for held_out, said in ((1, 1), (4, 0)):
        out = tmp_path / str(held_out)
        work = walk(toy, out, zeroed(toy.Row(), half), work={"held_out": held_out})
        work.run()
        notes = [note for note in work.notes if "calibration windows one is held out" in note]
        assert len(notes) == said
