"""A pruned model distilled as a whole: zeros, early stopping, kills, ranks, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import steppe
from steppe import SteppeError, methods
from steppe.cli.main import main
from steppe.engine.mask_keeper import read_masks
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import LanguageRecipe
from steppe.experiment.causal_lm.recovery import Recovery, judged_windows
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.recover_config import RecoverConfig
from steppe.llm.tokens.batches import TokenBatches
from steppe.llm.tokens.sampled import sampled
from steppe.llm.whole_training.memory import peak

FIT = {"batch_size": 4, "lr": 1e-2}


@pytest.fixture(scope="module")
def pruned(language_model: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recovery") / "pruned"
    method = methods.wanda(sparsity=0.6)
    steppe.prune(language_model, method, word_text, out, measure=0, window=16, samples=8)
    return out


def asked(text: Path, **changes: Any) -> dict[str, Any]:
    whole = {"scope": "whole", "window": 16, "tokens": 12 * 64, "parts": 3, "held_out": 0.05}
    own = {"calibration": str(text), "reconstruction": FIT, "precision": "float32"}
    return whole | own | {"device": "cpu"} | changes


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("model*.safetensors"))
    return {n: t for file in files for n, t in load_file(file).items()}


@pytest.mark.parametrize("train", ["weights", "norms"])
def test_every_zero_stays_and_the_loss_falls(
    train: str, pruned: Path, word_text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    record = steppe.recover(pruned, out=out, **asked(word_text, train=train, evaluate=(word_text,)))
    before, after = weights(pruned), weights(out)
    for name, old in before.items():
        if old.ndim > 1:
            gone = old == 0
            assert torch.equal(after[name][gone].view(torch.int32), old[gone].view(torch.int32))
        assert (train == "norms" and old.ndim > 1) == torch.equal(old, after[name]), name
    masks = read_masks(out)
    assert all(torch.equal(masks[n], m) for n, m in read_masks(pruned).items())
    early = record["early_stopping"]
    assert early["held_out_loss"][early["best_part"]] < early["held_out_loss"][0]
    assert [row["held_out_loss"] for row in record["metrics"]] == early["held_out_loss"][1:]
    assert record == json.loads((out / "record.json").read_text())
    assert record["method_display"] == "Wanda, recovered"
    assert record["sparsity_reached"] == record["pruning"]["sparsity_reached"]
    assert record["pruned"]["perplexity"] != record["dense"]["perplexity"]
    assert record["dense"]["nonzero"] > record["pruned"]["nonzero"] >= record["sparse"]["nonzero"]
    assert {p.name for p in pruned.iterdir()} <= {p.name for p in out.iterdir()}
    again = steppe.train(out / "recipe.yaml", out)
    assert again == record, "the recipe is the run's"
    pair, made = PrunedPair(out), record["pruning"]["recipe"]
    assert pair.dense_name == made["model"]["name"], "recovered again, it is led to the same"
    assert pair.recovered == "Wanda, recovered"
    assert pair.structure(None).to_dict() == made["method"]["structure"]


def test_the_best_state_is_written_and_no_gain_ends_it(
    pruned: Path, word_text: Path, tmp_path: Path
) -> None:
    """At this rate every step makes it worse: what was pruned comes out again, to the last bit."""
    hurt = asked(word_text, parts=6, patience=2, reconstruction=FIT | {"lr": 10.0})
    record = steppe.recover(pruned, out=tmp_path / "out", **hurt)
    assert record["early_stopping"]["best_part"] == 0
    assert record["early_stopping"]["stopped_early"]
    assert len(record["metrics"]) == 2
    before, after = weights(pruned), weights(tmp_path / "out")
    assert all(torch.equal(after[n], t) for n, t in before.items())


def test_stopped_in_the_middle_it_ends_with_the_same_bits(
    pruned: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    epoch, given = TokenBatches.epoch, []

    def stopping(self: TokenBatches, number: int, start: int = 0) -> Any:
        for batch in epoch(self, number, start):
            if len(given) == 6:
                raise Stop
            given.append(batch)
            yield batch

    whole = steppe.recover(pruned, out=tmp_path / "whole", **asked(word_text))
    monkeypatch.setattr(TokenBatches, "epoch", stopping)
    with pytest.raises(Stop):
        steppe.recover(pruned, out=tmp_path / "cut", **asked(word_text))
    monkeypatch.setattr(TokenBatches, "epoch", epoch)
    record = steppe.recover(pruned, out=tmp_path / "cut", **asked(word_text))
    assert record["early_stopping"] == whole["early_stopping"]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(other[n], t) for n, t in one.items())


@pytest.fixture(scope="module")
def two_ranks(pruned: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "options.json").write_text(json.dumps({"folder": str(pruned)} | asked(word_text)))
    worker = Path(__file__).with_name("recovery_ranks_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [*launch, str(worker), str(folder / "options.json"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["ddp", "split"])
def test_two_processes_recover_as_one(
    kind: str, two_ranks: Path, pruned: Path, word_text: Path, tmp_path: Path
) -> None:
    steppe.recover(pruned, out=tmp_path / "one", **asked(word_text))
    one, two, before = weights(tmp_path / "one"), weights(two_ranks / kind), weights(pruned)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3)
        if tensor.ndim > 1:
            assert torch.equal(two[name] == 0, before[name] == 0), name


def test_what_is_looked_at_is_whole_batches_from_all_of_it() -> None:
    windows = torch.arange(1000).view(1000, 1)
    chosen = judged_windows(windows, 8).flatten()
    assert len(chosen) == 64
    assert chosen[-1] > 980
    assert len(judged_windows(windows[:3], 8)) == 3


def test_bad_input_is_one_line(
    language_model: Path, pruned: Path, word_text: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = tmp_path / "small"
    config = LlamaConfig.from_pretrained(language_model, vocab_size=9)
    LlamaForCausalLM(config).save_pretrained(small)
    spoken = tmp_path / "spoken"
    shutil.copytree(language_model, spoken)
    words = json.loads((spoken / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second, *_ = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (spoken / "tokenizer.json").write_text(json.dumps(words))
    short = tmp_path / "short.txt"
    short.write_text("a b c")
    ids = tmp_path / "ids.safetensors"
    save_file({"tokens": torch.full((40, 16), 99)}, ids)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"calibration": str(short)}, "must hold a window of 16 tokens.*Way out: a longer text"),
        ({"calibration": str(ids)}, "must lie in the model's vocabulary"),
        ({"calibration": torch.zeros(8, 16).long()}, "safetensors file"),
        ({"dense": small}, "vocabulary of the pruned one.*9 tokens.*26.*--dense"),
        ({"dense": spoken}, "vocabulary of the pruned one.*tokenizer.*--dense"),
        ({"train": "lora"}, "--train weights, or --scope blocks"),
        ({"samples": 8}, "--scope blocks, or --tokens 10M instead"),
        ({"reconstruction": FIT | {"epochs": 3}}, "--epochs is an option of --scope blocks"),
        ({"shard": True}, "leave --shard out"),
    ]
    for changes, said in cases:
        with pytest.raises(SteppeError, match=said) as refused:
            steppe.recover(pruned, out=tmp_path / "o", **asked(word_text, **changes))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "o" / "recipe.yaml").exists()


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(
    pruned: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RecoverConfig.of(out=tmp_path / "o", **asked(word_text))
    made = Recovery.of(pruned, config, quiet=True)
    setting, _ = made.plan()
    parts = made.needed(setting)
    monkeypatch.setattr(f"{LanguageExperiment.__module__}.resident", lambda: setting.held)
    half = replace(setting, batch=setting.batch // 2, accumulate=2)
    free = peak(made.needed(half), half)
    assert parts["the best state so far"] == parts["gradients"] > 0
    monkeypatch.setattr(Recovery, "available", lambda self, accelerator: free)
    with pytest.raises(SteppeError, match=r"must fit in memory.*--batch-size 2 --accumulate 2"):
        Recovery.of(pruned, config, quiet=True).recover()
    fits = asked(word_text, reconstruction=FIT | {"batch_size": 2}, accumulate=2)
    assert steppe.recover(pruned, out=tmp_path / "o", **fits)["early_stopping"]["best_part"] > 0


def test_a_folder_without_zeros_is_refused(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match="whose layers have none"):
        steppe.recover(
            language_model, out=tmp_path / "o", dense=str(language_model), **asked(word_text)
        )
    assert not (tmp_path / "o" / "recipe.yaml").exists()


def test_a_folder_without_zeros_is_refused_before_a_text_is_read(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(made: LanguageExperiment) -> None:
        raise AssertionError("a text is read")

    monkeypatch.setattr(LanguageExperiment, "text", property(read))
    flags = ["--scope", "whole", "--calibration", "self", "--dense", str(language_model)]
    done = ["recover", str(language_model), *flags, "--out", str(tmp_path / "o"), "--window", "16"]
    with pytest.raises(SystemExit) as ended:
        main(done)
    assert ended.value.code == 2


def test_the_dense_model_writes_the_text_self(
    pruned: Path, language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    source = "self:1:0:24"
    own = asked(word_text, calibration=source, held_out=0.25)
    recovery = Recovery.of(pruned, RecoverConfig.of(out=tmp_path / "o", **own), quiet=True)
    train = {"tokens": 128, "batch_size": 4}
    data = {"text": source, "window": 16, "held_out": 0.25}
    given = {"model": {"name": str(pruned)}, "method": {"name": "dense"}, "data": data}
    recipe = LanguageRecipe.model_validate(given | {"train": train, "device": "cpu"})
    training = LanguageExperiment(recipe, tmp_path / "t", quiet=True)
    written = sampled(language_model, source, samples=24, window=16).tokens
    for made in (recovery, training):
        assert torch.equal(made.text.held_out(), written[-6:])


def test_a_distillation_of_a_pruned_model_learns_from_the_dense_one(
    pruned: Path, language_model: Path, word_text: Path
) -> None:
    method = {"name": "magnitude", "sparsity": 0.6, "at": 0, "objective": "distillation"}
    data = {"text": str(word_text), "window": 16}
    given = {"model": {"name": str(pruned)}, "method": method, "data": data, "device": "cpu"}
    made = LanguageExperiment(LanguageRecipe.model_validate(given), None, quiet=True)
    teacher, dense = made._teacher(), weights(language_model)
    assert teacher is not None
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, dense[name].float())


def test_a_model_that_was_pruned_twice_has_its_first_model_write(
    pruned: Path, language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    method = methods.wanda(sparsity=0.7)
    steppe.prune(pruned, method, word_text, tmp_path / "twice", measure=0, window=16, samples=8)
    data = {"text": "self", "window": 16}
    given = {"model": {"name": str(tmp_path / "twice")}, "method": {"name": "dense"}, "data": data}
    twice = LanguageExperiment(LanguageRecipe.model_validate(given), None, quiet=True)
    assert twice.originals.dense.source.folder == language_model
    (tmp_path / "twice" / "record.json").unlink()
    with pytest.raises(SteppeError, match=r"no record of its pruning.*a text file"):
        _ = LanguageExperiment(
            LanguageRecipe.model_validate(given), None, quiet=True
        ).originals.dense


def test_a_pruned_model_does_not_write_where_the_dense_one_is_gone(
    pruned: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(pruned, moved)
    record = json.loads((moved / "record.json").read_text())
    record["recipe"]["model"] = record["recipe"]["model"] | {"name": str(tmp_path / "nowhere")}
    (moved / "record.json").write_text(json.dumps(record))
    data = {"text": "self", "window": 16}
    given = {"model": {"name": str(moved)}, "method": {"name": "dense"}, "data": data}
    recipe = LanguageRecipe.model_validate(given | {"device": "cpu"})
    with pytest.raises(SteppeError, match=r"nowhere, which is not there.*a text file"):
        _ = LanguageExperiment(recipe, None, quiet=True).text


@pytest.mark.parametrize("method", ["slim", "depth"])
def test_what_was_cut_is_distilled_from_the_dense_model(
    method: str, language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    made = methods.make(method, sparsity=0.5)
    steppe.prune(language_model, made, word_text, cut, measure=0, window=16, samples=8)
    out = tmp_path / "out"
    record = steppe.recover(cut, out=out, **asked(word_text, evaluate=(word_text,)))
    before, after = weights(cut), weights(out)
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    assert any(not torch.equal(before[n], after[n]) for n in before)
    early = record["early_stopping"]
    assert early["held_out_loss"][early["best_part"]] < early["held_out_loss"][0]
    past = json.loads((cut / "record.json").read_text())
    assert record["removed"] == past["removed"]
    assert record["sparsity_of_all"] == past["sparsity_of_all"]
    assert record["dense"]["parameters"] == past["dense"]["parameters"]
    assert record["pruned"]["parameters"] == past["sparse"]["parameters"]
    assert record["pruned"]["perplexity"] != record["dense"]["perplexity"]
    assert (out / "removal.json").read_bytes() == (cut / "removal.json").read_bytes()
    assert "none yet" not in record["gain"]
