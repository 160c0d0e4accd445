"""One block optimised: what is minimised, in which pieces, from where."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from steppe import Method, SteppeError, methods
from steppe.core.protocols import AnyCoupling
from steppe.engine.blockwise import reconstruct
from steppe.engine.blockwise.config import BlockwiseConfig, ReconstructionConfig
from steppe.engine.blockwise.walk import Blockwise
from walked import masks, weights

KINDS = ["plain", "conv1d", "experts"]


def run(
    toy: ModuleType,
    out: Path,
    method: Method,
    kind: str = "plain",
    micro_batch: int = 4,
    **fit: Any,
) -> dict[str, Tensor]:
    """Weights of all blocks after the walk."""
    options = {"epochs": 3, "warmup_epochs": 0, "batch_size": 4, "lr": 1e-3} | fit
    config = BlockwiseConfig(
        micro_batch=micro_batch, reconstruction=ReconstructionConfig(**options)
    )
    Blockwise(toy.Row(kind=kind), method, config, toy.tokens(8), out).run()
    return weights(out)


def language(name: str, **options: Any) -> Method:
    """As the paper has it: from the dense block, ADMM finds the zeros."""
    return methods.for_language(methods.make(name, **({"sparsity": 0.5, "start": None} | options)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["safe", "safe_plus"])
def test_exactly_sparse(kind: str, name: str, toy: ModuleType, tmp_path: Path) -> None:
    new = run(toy, tmp_path, language(name, penalty=0.1, interval=2), kind)
    found = masks(tmp_path)
    assert sum(int((~m).sum()) for m in found.values()) == (
        sum(m.numel() for m in found.values()) // 2
    )
    for name_, mask in found.items():
        index, inside = name_.split(".", 2)[1:]
        assert torch.equal(new[f"block-{index}.{inside}"] == 0, ~mask), name_
    held = toy.Row(kind=kind).held
    moved = [n for n, t in held[0].items() if not torch.equal(new[f"block-0.{n}"], t)]
    assert {"norm.weight", "norm.bias"} <= set(moved), "norms and biases are optimised too"


def test_rho_0_is_admm_bit_for_bit(toy: ModuleType, tmp_path: Path) -> None:
    options = {"penalty": 0.05, "interval": 3}
    # sharing no code path but the coupling: rho 0 perturbs by nothing, none does not perturb
    safe = language("safe", rho=0.0, **options)
    admm = safe.replace(perturb="none", name="admm")
    assert safe.perturb.name == "sam"
    a, b = (run(toy, tmp_path / m.name, m) for m in (safe, admm))
    assert all(torch.equal(a[n], b[n]) for n in a)
    c = run(toy, tmp_path / "c", language("safe", rho=0.5, **options))
    assert not all(torch.equal(a[n], c[n]) for n in a)


@pytest.mark.parametrize("name", ["msam", "functional_sam"])
def test_other_perturbations(name: str, toy: ModuleType, tmp_path: Path) -> None:
    """The outputs of a block are its hidden states; a block's Adam has a momentum."""
    plain = language("safe", penalty=0.1, interval=2).replace(perturb="none")
    flat = plain.replace(perturb={"name": name, "rho": 0.05})
    new = run(toy, tmp_path / "new", flat, micro_batch=3)
    before = run(toy, tmp_path / "none", plain, micro_batch=3)
    assert all(t.isfinite().all() for t in new.values())
    assert not all(torch.equal(new[n], before[n]) for n in new)
    same = run(toy, tmp_path / "same", plain.replace(perturb={"name": name, "rho": 0.0}))
    assert all(torch.equal(same[n], t) for n, t in run(toy, tmp_path / "x", plain).items())


@pytest.mark.parametrize("name", ["safe", "safe_plus"])
def test_micro_batches_add_up_to_the_batch(name: str, toy: ModuleType, tmp_path: Path) -> None:
    # a sparse start: from the dense block the first gradient is nothing but rounding
    method = language(name, penalty=0.1, interval=2, rho=0.05).replace(
        objective={"name": "block_reconstruction", "start": "hard_mask"}
    )
    found = {
        size: run(toy, tmp_path / str(size), method, micro_batch=size, batch_size=6)
        for size in (6, 4, 1)  # batches of 6 and 2 windows; 4 + 2, 1 + 1 + ...
    }
    for size in (4, 1):
        for key, w in found[6].items():
            torch.testing.assert_close(found[size][key], w, atol=2e-5, rtol=0, msg=key)


def test_every_window_counts_once_an_epoch(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[int]] = []
    real = reconstruct._Reconstruction._closures

    def spy(stage: Any, batch: Tensor, *rest: Any) -> Any:
        taken.append(batch.tolist())
        return real(stage, batch, *rest)

    monkeypatch.setattr(reconstruct._Reconstruction, "_closures", spy)
    run(toy, tmp_path, language("safe"), epochs=2, batch_size=3)
    assert [len(t) for t in taken] == [3, 3, 2] * 2 * 3
    for epoch in range(6):
        windows = [w for batch in taken[3 * epoch : 3 * epoch + 3] for w in batch]
        assert sorted(windows) == list(range(8))
    assert taken[:3] != taken[3:6], "each epoch has its own order"


def caught(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor, Tensor]]:
    """(stage, inputs, targets) of every stage, as the fit gets them."""
    found: list[tuple[str, Tensor, Tensor]] = []
    real = reconstruct.dense_targets

    def spy(block: Any, stage: Any, *rest: Any) -> Any:
        made = real(block, stage, *rest)
        found.append((stage.name, stage.inputs.tensor.clone(), made.tensor.clone()))
        return made

    monkeypatch.setattr(reconstruct, "dense_targets", spy)
    return found


@pytest.mark.parametrize("start", [None, "obs_update", "hard_mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_the_dense_block_on_the_pruned_models_inputs(
    kind: str,
    start: str | None,
    toy: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = caught(monkeypatch)
    method = language("safe").replace(objective={"name": "block_reconstruction", "start": start})
    new = run(toy, tmp_path, method, kind)
    row = toy.Row(kind=kind)
    hidden = row.embedding[toy.tokens(8)]
    for index, (_, inputs, targets) in enumerate(found):
        torch.testing.assert_close(inputs, hidden, atol=1e-5, rtol=0)
        torch.testing.assert_close(targets, row.load(index)(hidden), atol=1e-5, rtol=0)
        block = row.blocks[index]
        block.load_state_dict({n: new[f"block-{index}.{n}"] for n in block.state_dict()})
        hidden = block(hidden)


@pytest.mark.parametrize("start", ["obs_update", "layer_admm", "hard_mask"])
def test_a_start_is_improved(start: str, toy: ModuleType, tmp_path: Path) -> None:
    if start not in AnyCoupling.registry:
        pytest.skip(f"no coupling {start}")
    objective = {"name": "block_reconstruction", "start": start}
    method = language("safe", rho=1e-3, penalty=0.01).replace(objective=objective)
    new = run(toy, tmp_path / "fit", method, epochs=60, lr=3e-3)
    alone = language("safe").replace(
        coupling=start, perturb="none", objective="layer_reconstruction"
    )
    started = run(toy, tmp_path / "start", alone)
    row = toy.Row()
    hidden = row.embedding[toy.tokens(8)]
    dense = row.load(0)(hidden)
    errors = []
    for written in (new, started):
        block = row.load(0)
        block.load_state_dict({n: written[f"block-0.{n}"] for n in block.state_dict()})
        errors.append(float((block(hidden) - dense).square().mean()))
    assert errors[0] < 0.9 * errors[1]
    found = masks(tmp_path / "fit")
    assert sum(int((~m).sum()) for m in found.values()) == (
        sum(m.numel() for m in found.values()) // 2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_attention_and_feed_forward_apart(
    kind: str, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = caught(monkeypatch)
    objective = {"name": "block_reconstruction", "apart": True}
    method = language("safe_plus").replace(objective=objective)
    new = run(toy, tmp_path, method, kind)
    assert [name for name, _, _ in found] == ["attention.", "feed_forward."] * 3
    row = toy.Row(kind=kind)
    hidden = row.embedding[toy.tokens(8)]
    dense = {n: t.clone() for n, t in row.held[0].items()}
    block = row.load(0)
    _, inputs, targets = found[0]
    inputs = inputs.view_as(hidden)  # a row of numbers for each window
    torch.testing.assert_close(inputs, block.norm(hidden))
    torch.testing.assert_close(targets, block.attention(inputs)[0])
    # the feed-forward sees what the sparse attention leaves
    done = {n: new[f"block-0.{n}"] for n in dense if n.startswith("attention.")}
    block.load_state_dict(dense | done)
    hidden = hidden + block.attention(block.norm(hidden))[0]
    _, inputs, targets = found[1]
    inputs = inputs.view_as(hidden)
    torch.testing.assert_close(inputs, hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(targets, block.feed_forward(hidden), atol=1e-5, rtol=1e-5)
    left = masks(tmp_path)
    assert sum(int((~m).sum()) for m in left.values()) == (
        sum(m.numel() for m in left.values()) // 2
    )
    assert sum(m.numel() for m in left.values()) == sum(
        x.numel for x in toy.Row(kind=kind).layers()
    )
    assert not (tmp_path / "checkpoints/stage.bin").exists()
    assert not (tmp_path / "checkpoints/targets.bin").exists()


@pytest.mark.parametrize("budget", ["uniform", "erk", "owl", "per_row", "row_mass"])
def test_budgets_hold_inside_a_block(budget: str, toy: ModuleType, tmp_path: Path) -> None:
    spec = {"name": budget} | ({"threshold": 2.0} if budget == "owl" else {})
    method = language("safe_plus", sparsity=0.37, budget=spec)
    run(toy, tmp_path, method, epochs=1)
    found = masks(tmp_path)
    total = sum(m.numel() for m in found.values())
    assert sum(int((~m).sum()) for m in found.values()) == round(0.37 * total)
    if budget == "per_row":
        rows = [(~m).sum(1) for m in found.values()]
        assert all(int(r.max() - r.min()) <= 1 for r in rows)


def test_two_of_four(toy: ModuleType, tmp_path: Path) -> None:
    run(toy, tmp_path, language("safe", sparsity=None, structure="2:4"), "conv1d", epochs=1)
    for name, mask in masks(tmp_path).items():
        inputs_last = mask.t() if "feed_forward" in name else mask
        assert bool((inputs_last.reshape(-1, 4).sum(1) == 2).all()), name


def test_bfloat16_only_rounds_the_way(toy: ModuleType, tmp_path: Path) -> None:
    a = run(toy, tmp_path / "a", language("safe"))
    b = run(toy, tmp_path / "b", language("safe"), precision="bfloat16")
    assert all(t.dtype == torch.float32 for t in b.values())
    assert all(float((a[n] - b[n]).norm()) <= 0.1 * float(a[n].norm()) + 0.1 for n in a)
    assert not all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "at least one epoch"),
        ({"lr": 0.0}, "a learning rate"),
        ({"batch_size": 0}, "with batches"),
        ({"epochs": 2, "warmup_epochs": 2.0}, "warm-up must be shorter"),
        ({"precision": "float16"}, "float32 or bfloat16"),
    ],
)
def test_what_no_fit_can_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SteppeError, match=text):
        ReconstructionConfig(**options)


def test_too_few_windows_for_a_dual_update_are_said_once(toy: ModuleType, tmp_path: Path) -> None:
    method = methods.for_language(methods.safe(sparsity=0.5, start=None, interval=32))
    config = BlockwiseConfig(reconstruction=ReconstructionConfig(epochs=2, warmup_epochs=0))
    job = Blockwise(toy.Row(), method, config, toy.tokens(8), tmp_path)
    job.run()
    (said,) = [note for note in job.notes if "every 32 steps" in note]
    assert "a training of 2 steps never does" in said
    (moved,) = [note for note in job.notes if "the last projection moved" in note]
    assert "(first in blocks.0)" in moved
    dense = toy.Row()
    for name, mask in masks(tmp_path).items():
        weight = dict(dense.model.named_parameters())[name].abs()
        assert weight[mask].min() > 0.99 * weight[~mask].max(), "those of magnitude, as is said"
    enough = methods.for_language(methods.safe(sparsity=0.5, start=None, interval=2))
    job = Blockwise(toy.Row(), enough, config, toy.tokens(8), tmp_path / "enough")
    job.run()
    assert not any("never does" in note for note in job.notes)
