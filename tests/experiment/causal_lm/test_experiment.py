"""A language model trained as a whole: its folder, its record, a kill in the middle, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import steppe
from steppe import SteppeError
from steppe.core.mask import unpack
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import parse
from steppe.llm.tokens.batches import TokenBatches
from steppe.llm.whole_training.memory import peak
from steppe.record import checked

WINDOW, BATCH = 16, 4


def recipe(model: Path, text: Path, **changes: Any) -> dict[str, Any]:
    train = {"tokens": 12 * BATCH * WINDOW, "parts": 3, "batch_size": BATCH, "lr": 1e-2}
    plain: dict[str, Any] = {
        "task": "causal_lm",
        "model": str(model),
        "data": {"text": str(text), "window": WINDOW},
        "evaluate": str(text),
        "method": {"name": "gmp", "sparsity": 0.5, "every": 2},
        "train": train | {"precision": "float32"} | changes.pop("train", {}),
        "device": "cpu",
    }
    return plain | changes


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        k: t for f in sorted(folder.glob("model-*.safetensors")) for k, t in load_file(f).items()
    }


def masks_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: m for f in sorted(folder.glob("masks-*")) for k, m in unpack(load_file(f)).items()}


@pytest.fixture(scope="module")
def stored(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a tied head, in float16, with a chat template beside it."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("stored")
    config = LlamaConfig.from_pretrained(language_model, tie_word_embeddings=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).half().save_pretrained(folder)
    AutoTokenizer.from_pretrained(language_model).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture(scope="module")
def ended(stored: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("ended") / "run"
    method = {"name": "safe", "sparsity": 0.5, "rho": 0.05}
    return out, steppe.train(recipe(stored, word_text, method=method), out)


def test_plain_transformers_loads_exact_zeros_in_the_stored_dtype(stored: Path, ended: Any) -> None:
    from transformers import AutoModelForCausalLM

    out, record = ended
    model = AutoModelForCausalLM.from_pretrained(out)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    masks, named = masks_of(out), dict(model.named_parameters())
    assert len(masks) == 14
    for name, mask in masks.items():
        assert int((~mask).sum()) == mask.numel() // 2, name
        assert torch.equal(named[name] != 0, mask), name
    dense = dict(AutoModelForCausalLM.from_pretrained(stored).named_parameters())
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert not torch.equal(named[name], dense[name]), "everything else trains"
        assert int((named[name] == 0).sum()) == 0
    assert (out / "chat_template.jinja").is_file()
    assert (out / "tokenizer.json").is_file()
    assert not list((out / "checkpoints").glob("*.safetensors"))
    assert record["sparsity_reached"] == 0.5


def test_the_record_has_the_keys_of_prune(ended: Any) -> None:
    out, record = ended
    assert checked(json.loads((out / "record.json").read_text()), "here") == record
    assert record["dense"]["perplexity"] > record["sparse"]["perplexity"] > 1, "it learned"
    assert record["sparse"]["bytes_packed"] < record["sparse"]["bytes"]
    assert record["blocks"][1]["layers"][0]["sparsity_reached"] == 0.5
    every = weights_of(out)
    assert record["sparse"]["nonzero"] == sum(int((t != 0).sum()) for t in every.values())
    assert record["sparsity_of_all"] == 1 - record["sparse"]["nonzero"] / sum(
        t.numel() for t in every.values()
    )
    assert record["data"]["tokens"] == 12 * BATCH * WINDOW
    assert record["parts"]["perturb"]["name"] == "sam"
    assert record["metrics"][-1]["tokens_per_second"] > 0


def test_report_evaluate_and_export_read_the_folder(
    ended: Any, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from steppe.cli.main import main

    out, record = ended
    for arguments in (
        ["evaluate", out, "--on", "perplexity", "--text", word_text, "--window", WINDOW, "--json"],
        ["report", out, "--out", tmp_path / "r.md"],
        ["export", out, "--to", "compact", "--out", tmp_path / "small"],
    ):
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        assert left.value.code == 0, capsys.readouterr().err
        if arguments[0] == "evaluate":
            said = capsys.readouterr()
            measured = json.loads(said.out)["perplexity"]
            assert measured == pytest.approx(record["sparse"]["perplexity"], rel=1e-6)
            assert f"(dense {record['dense']['perplexity']:.2f})" in said.err
    assert "SAFE" in (tmp_path / "r.md").read_text()


class Stop(Exception):
    pass


ELSA = {
    "interval": 2,
    "penalty_schedule": "cosine",
    "penalty_start": 1e-3,
    "score": "adam_second_moment",
    "state_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    "method",
    [
        {"name": "safe", "perturb": {"name": "functional_sam", "rho": 0.1}},
        {"name": "elsa"} | ELSA,
        {"name": "soft_threshold"},
        {"name": "pilot"},
    ],
    ids=lambda method: method["name"],
)
def test_stopped_in_the_middle_of_a_part_it_ends_with_the_same_bits(
    method: dict[str, Any],
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = {"checkpoint_steps": 1, "accumulate": 2, "checkpointing": True}
    made = recipe(language_model, word_text, method=method | {"sparsity": 0.6}, train=train)
    steppe.train(made, tmp_path / "whole")
    epoch, given = TokenBatches.epoch, []

    def stopping(self: TokenBatches, number: int, start: int = 0) -> Any:
        for batch in epoch(self, number, start):
            if len(given) in (
                7,
                12,
            ):  # the run has 12 batches; the second stop is at the next start
                given.append(None)
                raise Stop
            given.append(batch)
            yield batch

    monkeypatch.setattr(TokenBatches, "epoch", stopping)
    with pytest.raises(Stop):
        steppe.train(made, tmp_path / "stopped")
    monkeypatch.setattr(TokenBatches, "epoch", epoch)
    assert (tmp_path / "stopped/checkpoints/last.safetensors").is_file()
    record = steppe.train(made, tmp_path / "stopped")
    whole, stopped = (weights_of(tmp_path / name) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name
    assert any("resumed after step" in note for note in record["notes"])


def test_a_run_goes_on_with_the_text_that_it_began_with(
    language_model: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_bytes(word_text.read_bytes())

    def stopping(self: TokenBatches, number: int, start: int = 0) -> Any:
        raise Stop

    monkeypatch.setattr(TokenBatches, "epoch", stopping)
    made = recipe(language_model, text)
    with pytest.raises(Stop):
        steppe.train(made, out)
    text.write_bytes(word_text.read_bytes()[::-1])
    with pytest.raises(SteppeError, match=r"text that it began with; got .*text\.txt"):
        steppe.train(made, out)
    text.write_bytes(word_text.read_bytes())
    with pytest.raises(Stop):
        steppe.train(made, out)


@pytest.mark.parametrize(
    ("patterns", "pruned"),
    [({"include": ["*"]}, 14), ({"include": ["*.mlp.*"], "exclude": ["*.0.*"]}, 3)],
)
def test_embeddings_and_head_stay_dense_whatever_the_patterns_match(
    patterns: dict[str, list[str]],
    pruned: int,
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
) -> None:
    train = {"tokens": BATCH * WINDOW}
    out = tmp_path / "run"
    steppe.train(recipe(language_model, word_text, train=train) | patterns, out)
    zeros = {name: int((t == 0).sum()) for name, t in weights_of(out).items()}
    assert {name for name, count in zeros.items() if count} == masks_of(out).keys()
    assert len(masks_of(out)) == pruned
    head = recipe(language_model, word_text) | {"include": ["lm_head"]}
    with pytest.raises(SteppeError, match=r"a layer inside of the decoder blocks; got 'lm_head'"):
        steppe.train(head, tmp_path / "head")


def test_checkpointing_and_accumulation_do_not_change_what_is_learned(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """Four windows a step: in one pass, or two, or with blocks computed twice."""
    kinds = [{}, {"checkpointing": True}, {"batch_size": 2, "accumulate": 2}]
    found = []
    for i, train in enumerate(kinds):
        out = tmp_path / str(i)
        steppe.train(recipe(language_model, word_text, train=train), out)
        found.append(weights_of(out))
    for name, tensor in found[0].items():
        assert torch.equal(found[1][name], tensor), name
        torch.testing.assert_close(found[2][name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_a_distillation_learns_from_the_dense_model_or_another(
    language_model: Path, word_text: Path, stored: Path, tmp_path: Path
) -> None:
    objective = {"name": "distillation", "temperature": 1.0, "weight": 1.0}
    method = {"name": "gmp", "sparsity": 0.5, "every": 2, "objective": objective}
    made = recipe(language_model, word_text, method=method)
    record = steppe.train(made, tmp_path / "a")
    first, *_, last = [row["train_loss"] for row in record["metrics"]]
    assert 0 < first < 10
    assert last != first
    made["model"] = {"name": str(language_model), "teacher": str(stored)}
    other = steppe.train(made, tmp_path / "b")
    assert other["metrics"][0]["train_loss"] != first


def test_bfloat16_products_leave_float32_weights(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    made = recipe(language_model, word_text, train={"precision": "bfloat16"})
    record = steppe.train(made, tmp_path / "low")
    plain = steppe.train(recipe(language_model, word_text), tmp_path / "plain")
    assert record["precision"]["mixed_precision"] == "bf16"
    low, full = (weights_of(tmp_path / name) for name in ("low", "plain"))
    assert any(not torch.equal(low[n], full[n]) for n in full)
    assert all(t.dtype == torch.float32 for t in low.values())
    assert record["sparse"]["perplexity"] == pytest.approx(plain["sparse"]["perplexity"], rel=0.1)


def test_bad_input_is_one_line(
    language_model: Path, word_text: Path, stored: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    short = tmp_path / "short.txt"
    short.write_text("a b c")
    foreign = tmp_path / "foreign"
    config = LlamaConfig.from_pretrained(language_model, vocab_size=9)
    LlamaForCausalLM(config).save_pretrained(foreign)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (foreign / name).write_text((language_model / name).read_text())
    distilled = {"name": "gmp", "sparsity": 0.5, "objective": "distillation"}
    cases = [
        (recipe(language_model, short), "longer than the window of 16 tokens; got 3 tokens"),
        (
            recipe(language_model, short) | {"evaluate": str(word_text)},
            "must hold a window of 16 tokens; got 3 tokens",
        ),
        (
            recipe(language_model, word_text, train={"batch_size": 64}),
            "must hold a batch of 64 windows.*got 31 windows.*--batch-size 31",
        ),
        (recipe(foreign, word_text), "must lie in the model's vocabulary, 0 to 8"),
        (
            recipe(language_model, word_text, method=distilled)
            | {"model": {"name": str(language_model), "teacher": str(foreign)}},
            "a teacher has the vocabulary.*9 tokens.*26 in",
        ),
        (
            recipe(language_model, word_text)
            | {"model": {"name": str(language_model), "teacher": str(stored)}},
            "a teacher belongs to an objective",
        ),
        (recipe(tmp_path, word_text), "config.json"),
    ]
    for made, said in cases:
        with pytest.raises(SteppeError, match=said) as refused:
            steppe.train(made, tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run" / "recipe.yaml").exists()
    with pytest.raises(SteppeError, match="never over it"):
        steppe.train(recipe(language_model, word_text), language_model)


WORKER = Path(__file__).with_name("ranks_worker.py")


@pytest.fixture(scope="module")
def two_ranks(
    language_model: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A folder of what two processes made, and the recipe of the runs."""
    folder = tmp_path_factory.mktemp("two")
    method = {"name": "safe", "sparsity": 0.5, "rho": 0.05}
    train = {"tokens": 6 * BATCH * WINDOW, "checkpoint_steps": 1}
    made = recipe(language_model, word_text, method=method, train=train)
    (folder / "recipe.json").write_text(json.dumps(made))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [*launch, str(WORKER), str(folder / "recipe.json"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, made


@pytest.mark.parametrize("kind", ["ddp", "split"])
def test_two_processes_give_the_masks_of_one_and_its_weights(
    kind: str, two_ranks: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, made = two_ranks
    alone = steppe.train(made, tmp_path / "one")
    one, two = weights_of(tmp_path / "one"), weights_of(folder / kind)
    for name, mask in masks_of(tmp_path / "one").items():
        assert torch.equal(mask, masks_of(folder / kind)[name]), name
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3)
    record = json.loads((folder / kind / "record.json").read_text())
    assert record["processes"] == 2
    for key in ("sparsity_reached", "sparsity_of_all", "units_zeroed"):
        assert record[key] == pytest.approx(alone[key])
    assert record["projection_distance"] == pytest.approx(alone["projection_distance"], rel=1e-3)
    assert record["sparse"]["perplexity"] == pytest.approx(alone["sparse"]["perplexity"], rel=1e-3)


def test_a_split_run_that_is_stopped_ends_with_the_same_bits(
    two_ranks: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = two_ranks
    whole, stopped = weights_of(folder / "split"), weights_of(folder / "stopped")
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name
    assert not list((folder / "stopped/checkpoints").glob("*.safetensors"))


def test_a_split_student_learns_from_a_split_teacher(
    two_ranks: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, made = two_ranks
    made = json.loads(json.dumps(made))
    made["method"]["objective"] = {"name": "distillation", "temperature": 1.0}
    steppe.train(made, tmp_path / "one")
    split = weights_of(folder / "distilled")
    for name, tensor in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(split[name], tensor, atol=1e-4, rtol=1e-3)


def test_one_process_is_not_split(language_model: Path, word_text: Path, tmp_path: Path) -> None:
    made = recipe(language_model, word_text, train={"shard": True})
    with pytest.raises(SteppeError, match="--shard in one process"):
        steppe.train(made, tmp_path / "run")


def test_a_batch_that_does_not_fit_is_one_line_and_the_plan_says_why(
    language_model: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "steppe.experiment.causal_lm.experiment"
    experiment = LanguageExperiment(parse(recipe(language_model, word_text)))
    setting, _ = experiment.plan()
    monkeypatch.setattr(f"{LanguageExperiment.__module__}.resident", lambda: setting.held)
    half = replace(setting, batch=setting.batch // 2, accumulate=2)
    fits = peak(experiment.needed(half), half)
    monkeypatch.setattr(f"{module}.available", lambda out, device: {"host": fits - setting.held})
    with pytest.raises(SteppeError, match=r"must fit in memory.*--batch-size 2 --accumulate 2"):
        steppe.train(experiment.recipe, tmp_path / "run")
    train = {"batch_size": 2, "accumulate": 2}
    steppe.train(recipe(language_model, word_text, train=train), tmp_path / "run")
