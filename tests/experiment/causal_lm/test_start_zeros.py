"""Zeros that a training starts from: said where they may come back, held where it is asked for."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import steppe
from steppe import methods
from steppe.cli.main import main
from steppe.experiment.causal_lm.start_zeros import StartZeros
from steppe.llm.model import StreamedModel

WINDOW = 16


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("model*.safetensors"):
        found |= load_file(file)
    return found


def in_blocks(folder: Path) -> StartZeros:
    layers = StreamedModel(str(folder), "cpu").layers((), ())
    weights = loaded(folder)
    return StartZeros.of(layers, {layer.name: weights[layer.name] for layer in layers})


@pytest.fixture(scope="module")
def pruned(
    language_model: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """With as many zeros in each layer, by groups of four, and with other numbers in each."""
    made = {}
    for kind, method in {
        "alike": methods.wanda(sparsity=0.6),
        "groups": methods.wanda(structure="2:4"),
        "unlike": methods.wanda(sparsity=0.6).replace(budget={"name": "erk", "sparsity": 0.6}),
    }.items():
        made[kind] = tmp_path_factory.mktemp(kind) / "pruned"
        steppe.prune(
            language_model, method, word_text, made[kind], measure=0, window=WINDOW, samples=8
        )
    return made


def train(
    folder: Path, text: Path, out: Path, *more: str, capsys: pytest.CaptureFixture[str]
) -> tuple[str, dict[str, object]]:
    asked = ["--data", text, "--window", WINDOW, "--tokens", 512, "--batch-size", 4, "--lr", 1e-2]
    asked += ["--device", "cpu", "--precision", "float32", "--out", out]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(folder), *map(str, asked), *more])
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 0, said
    return said, json.loads((out / "record.json").read_text())


def test_dense_says_before_and_after_that_zeros_come_back(
    pruned: dict[str, Path], word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = pruned["alike"], tmp_path / "out"
    said, record = train(folder, word_text, out, "--method", "dense", capsys=capsys)
    hint = "to hold them: --method magnitude --set method.at=0 --sparsity 0.6"
    before = "with method dense these zeros may come back; " + hint
    assert said.count(before) == 1
    assert said.index(before) < said.index("part 1/")
    start = in_blocks(folder)
    back = start.returned(loaded(out))
    assert back > 0
    after = f"{back:,} of the {sum(start.zeros.values()):,} zeros that the training started from"
    assert any(note.startswith(after) and hint in note for note in record["notes"])
    assert after in said
    assert record["sparsity_reached"] == 0
    assert "nothing was pruned" in record["gain"]
    for wrong in ("no gain in size", "--to compact", "perturb"):
        assert wrong not in said


@pytest.mark.parametrize("kind", ["alike", "groups", "unlike"])
def test_the_way_out_holds_every_zero(
    kind: str,
    pruned: dict[str, Path],
    word_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, start = pruned[kind], in_blocks(pruned[kind])
    said, record = train(folder, word_text, tmp_path, *shlex.split(start.way_out), capsys=capsys)
    assert "come back" not in said
    assert "came back" not in said
    before, after = loaded(folder), loaded(tmp_path)
    for name in start.layers:
        gone = before[name] == 0
        assert not after[name][gone].any(), name
        assert not torch.equal(after[name], before[name]), name
    assert start.returned(after) == 0
    # what was pruned beside it, if the sparsity is not written exactly, is next to nothing
    assert record["sparsity_reached"] == pytest.approx(start.share, abs=1e-3)
    assert record["method_display"] == "Wanda, then Magnitude"


@pytest.mark.parametrize(
    ("method", "held"),
    [
        (methods.dense(), False),
        (methods.magnitude(sparsity=0.6), False),
        (methods.magnitude(sparsity=0.6, at=0, budget="uniform"), True),
        (methods.magnitude(sparsity=0.5, at=0, budget="uniform"), False),
        (methods.magnitude(sparsity=0.7, at=0), True),
        (methods.gmp(sparsity=0.6), False),
        (methods.elsa(sparsity=0.6), False),
    ],
    ids=["dense", "at the end", "alike", "fewer", "pooled", "gradual", "pulled"],
)
def test_which_methods_promise_to_hold_them(
    method: steppe.Method, held: bool, pruned: dict[str, Path]
) -> None:
    start = in_blocks(pruned["alike"])
    assert start.held_by(method) == held
    assert ("may come back" in start.before(method)) != held


def test_a_dense_model_has_none_to_hold(language_model: Path) -> None:
    start = in_blocks(language_model)
    assert start.before(methods.dense()) == ""
    assert start.after(loaded(language_model)) == []
