"""steppe train MODEL: flags of a language model, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe.cli.main import main
from steppe.cli.training import TRAININGS
from steppe.core.text import read_yaml
from steppe.engine.host_memory import resident
from steppe.experiment.tasks import TASKS


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def small(model: Path, text: Path, out: Path) -> list[object]:
    return [
        "train", model, "--method", "admm", "--sparsity", 0.5, "--data", text, "--window", 16,
        "--tokens", 512, "--batch-size", 4, "--lr", 1e-3, "--device", "cpu", "--out", out,
    ]  # fmt: skip


def test_a_model_in_the_place_of_a_recipe(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ["--evaluate", word_text, "--penalty", "0.1", "--set", "train.parts=2", "--json"]
    run(*small(language_model, word_text, out), *more)
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["sparsity_reached"] == 0.5
    assert "perplexity" in said.err
    assert "tokens/s" in said.err
    assert f"no gain in size or speed yet: steppe export {out} --to compact" in said.err
    assert printed["gain"] not in said.err
    recipe = read_yaml((out / "recipe.yaml").read_text())
    assert recipe["method"]["penalty"] == 0.1
    assert recipe["train"]["parts"] == 2
    # the run's own recipe goes on with it: there is nothing left to do
    run("train", out / "recipe.yaml", "--out", out)
    assert "finished before" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from steppe.cli.main import main
from steppe.llm.tokens.batches import TokenBatches

epoch, drawn = TokenBatches.epoch, []

def until_killed(self, number, start=0):
    for batch in epoch(self, number, start):
        drawn.append(batch)
        if len(drawn) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

TokenBatches.epoch = until_killed
main(sys.argv[1:])
"""


def test_killed_in_the_middle_of_a_pass_the_same_command_ends_with_the_same_bits(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """SIGKILL: nothing of the process runs after it."""
    more = ["--method", "elsa", "--checkpointing", "--score", "adam_second_moment", "--quiet"]
    more += ["--set", "train.checkpoint_steps=2", "--set", "train.parts=1"]
    more += ["--set", "method.interval=2", "--set", "method.state_dtype=bfloat16"]
    killed = [*small(language_model, word_text, tmp_path / "killed"), *more]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, killed)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed/checkpoints/last.safetensors").is_file()
    assert not list((tmp_path / "killed").glob("model-*"))
    run(*killed)
    record = json.loads((tmp_path / "killed/record.json").read_text())
    assert any("resumed after step 2 of 8" in note for note in record["notes"])
    run(*small(language_model, word_text, tmp_path / "whole"), *more)
    written = sorted((tmp_path / "whole").glob("*.safetensors"))
    assert len(written) > 2
    for path in written:
        ours, theirs = load_file(path), load_file(tmp_path / "killed" / path.name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()), path.name


def test_a_plan_of_the_whole_is_said_by_both_verbs(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *asked = small(language_model, word_text, tmp_path / "run")
    run(verb, *asked, "--plan", "--json")
    trained = capsys.readouterr()
    run("plan", "--whole", *asked, "--json")
    planned = capsys.readouterr()
    found, other = json.loads(planned.out), json.loads(trained.out)
    held = found["memory_bytes"]["Python and libraries"]
    assert 50 * 2**20 < held <= 1.05 * resident(), "that of this process"
    for one in (found, other):
        one["memory_bytes"]["all"] -= one["memory_bytes"].pop("Python and libraries")
    assert found["memory_bytes"] == other["memory_bytes"]
    assert list(found["memory_bytes_split"]) == ["2", "4", "8"]
    assert found["memory_bytes"]["all"] + held > found["memory_bytes_split"]["8"]
    assert "memory of a process: " in planned.err
    assert "with --shard: 2: " in planned.err
    assert not (tmp_path / "run").exists()


def test_a_plan_needs_no_text(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "gmp", "--sparsity", 0.5, "--window", 16, "--device", "cpu"]
    run("plan", "--whole", language_model, *flags, "--out", tmp_path / "o", "--json")
    assert json.loads(capsys.readouterr().out)["memory_bytes"]["weights"] > 0
    run("train", language_model, *flags, "--out", tmp_path / "o", code=2)
    said = capsys.readouterr().err
    assert "must say which text is trained on; got none. Way out: --data TEXT" in said


def test_what_a_method_does_not_come_to_do_is_said_before_it_begins(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "note: elsa: the sparse copy is updated every 32 steps, and a training of 8 steps"
    verb, *asked = small(language_model, word_text, tmp_path / "run")
    asked[asked.index("admm")] = "elsa"
    run(verb, *asked, "--plan")
    assert note in capsys.readouterr().err
    run(verb, *asked)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(note) == 1
    assert said.index(note) < said.index("part 1/8")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert any(note.removeprefix("note: ") in one for one in record["notes"])
    run(verb, *asked)
    assert note in " ".join(capsys.readouterr().err.split()), "nothing was begun: it is in the end"


def test_flags_of_another_task_are_refused(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*small(language_model, word_text, tmp_path / "a"), "--train-size", 5, code=2)
    assert "--train-size is for training of task detection or image" in capsys.readouterr().err
    run("train", "digits", "--tokens", "5M", code=2)
    assert "--tokens is for training of task causal_lm" in capsys.readouterr().err
    run("train", language_model, "--method", "gmp", "--sparsity", 0.5, code=2)
    assert "--data TEXT" in capsys.readouterr().err


def said_in_one_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that is refused says, without the progress before it."""
    capsys.readouterr()
    run(*arguments, code=2)
    lines = [
        x
        for x in capsys.readouterr().err.splitlines()
        if not x.startswith(("tokenising", "note: "))
    ]
    assert len(lines) == 1, lines
    return lines[0]


def with_tokenizer(model: Path, folder: Path, size: int, words: str) -> Path:
    """A model of another vocabulary, with a tokenizer of these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    known = {word: i for i, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    config = LlamaConfig.from_pretrained(model, vocab_size=size)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_text_too_short_and_each_way_out(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("a b c d e f")
    asked = small(language_model, tmp_path / "short.txt", tmp_path / "run")
    said = said_in_one_line(capsys, *asked)
    assert "must hold a window of 16 tokens; got 6 tokens in" in said
    assert "Way out: --window 6" in said
    said = said_in_one_line(capsys, *asked, "--window", 6)
    assert "must hold a batch of 4 windows, 24 tokens; got 1 windows" in said
    assert "Way out: --batch-size 1" in said
    run(*asked, "--window", 6, "--batch-size", 1, "--tokens", 6)


def test_a_text_beyond_the_vocabulary(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "abcdefghijklmnopqrstuvwxy"
    foreign = with_tokenizer(language_model, tmp_path / "foreign", 9, words)
    said = said_in_one_line(capsys, *small(foreign, word_text, tmp_path / "run"))
    assert "must lie in the model's vocabulary, 0 to 8; got token 25" in said
    assert "tokenizer does not fit" in said
    ids = tmp_path / "ids.safetensors"
    save_file({"tokens": torch.full((8, 16), 99)}, ids)
    said = said_in_one_line(capsys, *small(language_model, ids, tmp_path / "run"))
    assert f"got token 99 in {ids}. They were made for another model" in said
    assert "does not fit" not in said


def test_a_teacher_of_another_vocabulary_is_refused_before_the_text_is_read(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = with_tokenizer(language_model, tmp_path / "fewer", 9, "abcdefgh")
    turned = with_tokenizer(language_model, tmp_path / "turned", 26, "zabcdefghijklmnopqrstuvwx")
    asked = small(language_model, tmp_path / "no-text.txt", tmp_path / "run")
    distilled = ["--set", "method.objective=distillation"]
    for teacher, got in ((fewer, "9 tokens in"), (turned, "(others)")):
        said = said_in_one_line(capsys, *asked, "--teacher", teacher, *distilled)
        assert "a teacher has the vocabulary of the model that learns from it" in said
        assert got in said
    said = said_in_one_line(capsys, *asked, "--teacher", language_model)
    assert "a teacher belongs to an objective" in said
    there = small(language_model, word_text, tmp_path / "run")
    run(*there, "--teacher", language_model, *distilled)  # the way out that it names


def test_a_batch_that_does_not_fit_and_the_way_out(
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = small(language_model, word_text, tmp_path / "run")
    run(*asked, "--batch-size", 2, "--accumulate", 2, "--plan", "--json")
    planned = json.loads(capsys.readouterr().out)["memory_bytes"]
    module, held = "steppe.experiment.causal_lm.experiment", planned["Python and libraries"]
    monkeypatch.setattr(f"{module}.resident", lambda: held)
    fits = planned["all"] - held  # what is held is not free
    monkeypatch.setattr(f"{module}.available", lambda out, device: {"host": fits})
    said = said_in_one_line(capsys, *asked)
    assert "a run must fit in memory" in said
    assert "Way out: --batch-size 2 --accumulate 2" in said
    run(*asked, "--batch-size", 2, "--accumulate", 2)
    # neither more windows than there are, nor more than fit, nor a note before the error
    few = tmp_path / "few.txt"
    few.write_text(" ".join("abcdefgh"[i % 8] for i in range(3 * 16)))
    asked = [*small(language_model, few, tmp_path / "other"), "--batch-size", 16]
    said = said_in_one_line(capsys, *asked, "--method", "elsa")
    assert "a run must fit in memory" in said
    assert "Way out: --batch-size 2 --accumulate 8, or --batch-size 1" in said
    run(*asked, "--batch-size", 2, "--accumulate", 8)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--set", "train.clip_grad_norm=-1"], "train.clip_grad_norm"),
        (["--set", "train.trackers=[tensorbord]"], "did you mean tensorboard"),
        (["--include", "lm_head"], "a layer inside of the decoder blocks"),
        (["--window", 65], "--window 64"),
        (["--shard"], "--shard in one process"),
    ],
)
def test_flags_that_cannot_be(
    more: list[object],
    expected: str,
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = small(language_model, word_text, tmp_path / "run")
    assert expected in said_in_one_line(capsys, *asked, *more)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_methods_that_solve_layers_name_a_way_out_that_works(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = small(language_model, word_text, tmp_path / "run")
    said = said_in_one_line(capsys, *asked, "--method", "sparsegpt")
    assert "steppe prune" in said
    assert "--set" not in said, "its coupling trains nothing"
    said = said_in_one_line(capsys, *asked, "--method", "wanda")
    assert "--set method.objective=task: all of the model trains on the text" in said
    run(*asked, "--method", "wanda", "--set", "method.objective=task")
    said = said_in_one_line(capsys, "train", "tiny-lama", "--method", "gmp")
    assert "steppe recipes" in said
    assert "owner/name" in said
    said = said_in_one_line(capsys, "train", "safe/cifar10-resnet20", "--method", "gmp")
    assert "did you mean safe/cifar10-resnet20x2" in said


def test_safe_with_functional_sam(language_model: Path, word_text: Path, tmp_path: Path) -> None:
    """The loss' gradient at the logits is kept: other weights than with sam, or with none."""
    found = {}
    asked = ["--method", "safe", "--precision", "bfloat16", "--accumulate", 2, "--checkpointing"]
    for name in ("functional_sam", "sam", "none"):
        out = tmp_path / name
        radius = "" if name == "none" else ", rho: 0.5"
        part = f"method.perturb={{name: {name}{radius}}}"
        run(*small(language_model, word_text, out), *asked, "--set", part, "--quiet")
        record = json.loads((out / "record.json").read_text())
        assert record["parts"]["perturb"]["name"] == name
        assert record["sparsity_reached"] == 0.5
        found[name] = record["metrics"][-1]["train_loss"]
    assert len(set(found.values())) == 3


def test_every_task_has_its_flags() -> None:
    assert set(TRAININGS) == set(TASKS)


def test_where_the_last_projection_cost_much_the_notes_come_again(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = small(language_model, word_text, tmp_path / "run")
    harsh = ["--method", "elsa", "--sparsity", 0.95, "--lr", 0.01, "--evaluate", word_text]
    run(*asked, *harsh)
    said = " ".join(capsys.readouterr().err.split())
    assert "the last projection raised the perplexity" in said
    assert said.count("elsa: the sparse copy is updated every 32 steps") == 2
    assert "penalty auto and interval auto (--penalty auto --interval auto)" in said


def test_a_pruning_folder_and_a_sparsity_in_percent(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pruned"
    run("prune", language_model, "--method", "magnitude", "--sparsity", 0.5, "--out", out)
    capsys.readouterr()
    asked = small(language_model, word_text, out)
    said = said_in_one_line(capsys, *asked)
    assert f"got {out}, a run of steppe prune, as --out of steppe train" in said
    assert "differs in" not in said
    said = said_in_one_line(capsys, *asked, "--sparsity", 90)
    assert "write 0.9 for 90 %" in said
