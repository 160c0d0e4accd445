"""A pruned model led back to its dense one: zeros, records, refusals, both in one go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import steppe
from language_models import on_disk
from steppe import SteppeError, methods
from steppe.engine.mask_keeper import read_masks
from steppe.llm.load import load
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune_config import PruneConfig
from steppe.llm.recover import PreparedRecovery
from steppe.llm.recover_config import RecoverConfig

FIT = {"epochs": 2, "warmup_epochs": 0, "batch_size": 4}


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(0, 26, (10, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pruned(language_model: Path, tokens: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recover") / "pruned"
    steppe.prune(language_model, methods.wanda(sparsity=0.6), tokens, out, measure=0)
    return out


def recover(folder: Path, tokens: Tensor, out: Path, **options: Any) -> dict[str, Any]:
    return steppe.recover(folder, tokens, out, **({"reconstruction": FIT} | options))


@pytest.mark.parametrize("train", ["weights", "norms", "lora"])
def test_zeros_stay_and_the_folder_is_as_prune_writes_it(
    train: str, pruned: Path, tokens: Tensor, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    record = recover(pruned, tokens, out, train=train)
    before, after = on_disk(pruned), on_disk(out)
    for name, old in before.items():
        if old.ndim > 1:
            assert torch.equal(after[name][old == 0], old[old == 0]), name
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved
    assert all(".layers." in n for n in moved)
    assert (train == "norms") == all(before[n].ndim == 1 for n in moved)
    masks = read_masks(out)
    assert all(torch.equal(masks[n], m) for n, m in read_masks(pruned).items())
    load(str(out))
    assert record == json.loads((out / "record.json").read_text())
    assert record["method_display"] == "Wanda, recovered"
    assert record["sparsity_asked"] == 0.6
    assert record["sparsity_reached"] == record["pruning"]["sparsity_reached"]
    assert record["recipe"]["recover"]["train"] == train
    assert {p.name for p in out.iterdir()} == {p.name for p in pruned.iterdir()}
    judged = record["blocks"][0]["held_out"]
    assert list(judged) == ["self_attn", "mlp"]


def test_zeros_of_another_tool_and_their_signs_stay(
    language_model: Path, pruned: Path, tokens: Tensor, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(language_model, other)
    (file,) = other.glob("model*.safetensors")
    held = load_file(file)
    name = next(n for n in held if "down_proj" in n)
    held[name][::2] = -0.0
    held[name][1, 0] = 0.0
    save_file(held, file, {"format": "pt"})
    with pytest.raises(SteppeError, match=r"no record of its pruning.*--dense"):
        recover(other, tokens, tmp_path / "a")
    record = recover(other, tokens, tmp_path / "b", dense=language_model)
    new = on_disk(tmp_path / "b")[name]
    assert bool((new[::2] == 0).all())
    assert bool(torch.signbit(new[::2]).all())
    assert not bool(torch.signbit(new[1, 0]))
    assert bool((new[1, 1:] != held[name][1, 1:]).any())
    assert record["sparsity_asked"] is None


def test_a_stopped_recovery_goes_on_to_the_same_bits(
    pruned: Path, tokens: Tensor, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        raise Stop

    recover(pruned, tokens, tmp_path / "whole")
    with pytest.raises(Stop):
        recover(pruned, tokens, tmp_path / "cut", report=stop)
    done = json.loads((tmp_path / "cut" / "checkpoints" / "journal.json").read_text())
    assert len(done["blocks"]) == 1
    recover(pruned, tokens, tmp_path / "cut")
    one, other = on_disk(tmp_path / "whole"), on_disk(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_both_in_one_go_is_one_after_the_other(
    language_model: Path, pruned: Path, tokens: Tensor, tmp_path: Path
) -> None:
    method = methods.wanda(sparsity=0.6)
    record = steppe.prune(
        language_model, method, tokens, tmp_path / "both", measure=0, recover=True
    )
    apart = steppe.recover(pruned, tokens, tmp_path / "apart", measure=0)
    one, other = on_disk(tmp_path / "both"), on_disk(tmp_path / "apart")
    assert all(torch.equal(one[n], other[n]) for n in other)
    assert record["pruning"]["method"] == "wanda"
    assert record["blocks"][0]["held_out"] == apart["blocks"][0]["held_out"]
    assert not (tmp_path / "both" / "checkpoints" / "pruned").exists()
    again = steppe.prune(language_model, method, tokens, tmp_path / "both", measure=0, recover=True)
    assert again == record


def test_what_is_not_pruned_has_nothing_to_keep(
    language_model: Path, tokens: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match=r"whose layers have none.*steppe train"):
        recover(language_model, tokens, tmp_path / "out", dense=language_model)
    assert not (tmp_path / "out").exists()


def test_a_stray_zero_makes_no_pruned_model(
    language_model: Path, tokens: Tensor, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(language_model, tmp_path / "other"))
    (file,) = other.glob("model*.safetensors")
    held = load_file(file)
    held[next(n for n in held if "down_proj" in n)][0, 0] = 0.0
    save_file(held, file, {"format": "pt"})
    with pytest.raises(SteppeError, match=r"zeros in 1 of \d+ weights and no record.*steppe train"):
        recover(other, tokens, tmp_path / "out", dense=language_model)
    with pytest.raises(SteppeError, match=r"--dense.*never pruned is trained by steppe train"):
        recover(other, tokens, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zeros_that_came_back_and_damaged_masks_are_refused(
    pruned: Path, tokens: Tensor, tmp_path: Path
) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(pruned, grown)
    path = next(p for p in sorted(grown.glob("model*")) if p.suffix == ".safetensors")
    held = load_file(path)
    name = next(n for n in held if "down_proj" in n)
    held[name].view(-1)[(held[name].view(-1) == 0).nonzero()[0]] = 1.0
    save_file(held, path, {"format": "pt"})
    with pytest.raises(SteppeError, match=rf"masks of \S+ for {name}.*delete its masks"):
        recover(grown, tokens, tmp_path / "out")
    masks = sorted(grown.glob("masks*"))
    masks[0].write_bytes(masks[0].read_bytes()[:-1])
    with pytest.raises(SteppeError, match=r"must be as it was written.*masks-00001"):
        recover(grown, tokens, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for path in masks:  # the way out
        path.unlink()
    recover(grown, tokens, tmp_path / "out", train="norms")


def test_windows_of_itself_are_those_of_the_dense_model(
    language_model: Path, pruned: Path, tmp_path: Path
) -> None:
    options = {"samples": 4, "window": 12}
    both = [
        PreparedRecovery(pruned, RecoverConfig.of(calibration="self", out=tmp_path, **options)),
        PreparedPruning(
            language_model,
            methods.wanda(sparsity=0.5),
            PruneConfig.of(calibration="self", out=tmp_path, **options),
        ),
    ]
    assert torch.equal(*(x.tokens for x in both))


def test_both_in_one_go_needs_text(language_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=r"needs calibration text.*--calibration"):
        steppe.prune(
            language_model, methods.magnitude(sparsity=0.5), None, tmp_path / "o", recover=True
        )
    assert not (tmp_path / "o").exists()


def test_another_model_is_no_teacher(
    language_model: Path, pruned: Path, tokens: Tensor, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(language_model, other)
    config = json.loads((other / "config.json").read_text())
    config["vocab_size"] += 1
    (other / "config.json").write_text(json.dumps(config))
    (file,) = other.glob("model*.safetensors")
    held = load_file(file)
    rows = {n: t for n, t in held.items() if t.shape[0] == config["vocab_size"] - 1}
    held |= {n: torch.cat([t, t[:1]]) for n, t in rows.items()}
    save_file(held, file, {"format": "pt"})
    with pytest.raises(
        SteppeError, match=r"vocabulary of the pruned one.*27 tokens.*26"
    ) as refused:
        recover(pruned, tokens, tmp_path / "out", dense=other)
    assert "\n" not in str(refused.value)


def test_what_was_pruned_must_not_have_changed(
    language_model: Path, tokens: Tensor, tmp_path: Path
) -> None:
    dense = tmp_path / "dense"
    shutil.copytree(language_model, dense)
    steppe.prune(dense, methods.magnitude(sparsity=0.5), None, tmp_path / "p")
    (file,) = dense.glob("model*.safetensors")
    save_file({n: t + 0.1 for n, t in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(SteppeError, match=r"have changed since.*--dense"):
        recover(tmp_path / "p", tokens, tmp_path / "out")
    recover(tmp_path / "p", tokens, tmp_path / "out", dense=dense)
    shutil.rmtree(dense)
    with pytest.raises(SteppeError, match=r"which is not there.*--dense"):
        recover(tmp_path / "p", tokens, tmp_path / "other")
