"""steppe train MODEL: flags of a language model, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steppe.cli.main import main
from steppe.cli.training import TRAININGS
from steppe.core.text import read_yaml
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
    assert found["memory_bytes"] == other["memory_bytes"]
    assert list(found["memory_bytes_split"]) == ["2", "4", "8"]
    assert found["memory_bytes"]["all"] > found["memory_bytes_split"]["8"]
    assert "memory of a process: " in planned.err
    assert "with --shard: 2: " in planned.err
    assert not (tmp_path / "run").exists()


def test_flags_of_another_task_are_refused(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*small(language_model, word_text, tmp_path / "a"), "--train-size", 5, code=2)
    assert "--train-size is for training of task image" in capsys.readouterr().err
    run("train", "digits", "--tokens", "5M", code=2)
    assert "--tokens is for training of task causal_lm" in capsys.readouterr().err
    run("train", language_model, "--method", "gmp", "--sparsity", 0.5, code=2)
    assert "--data TEXT" in capsys.readouterr().err


def test_every_task_has_its_flags() -> None:
    assert set(TRAININGS) == set(TASKS)
