"""A training of a pruned model: its record has the dense one beside it, and is traced to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import steppe
from steppe import methods
from steppe.cli.main import main
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import parse
from steppe.experiment.causal_lm.recovery import Recovery
from steppe.llm.perplexity import perplexity
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.recover_config import RecoverConfig
from steppe.llm.tokens.batches import TokenBatches
from steppe.llm.whole_training.prepared import DenseModel, Measure

WINDOW, BATCH = 16, 4


def recipe(model: Path, text: Path, **changes: Any) -> dict[str, Any]:
    train = {"tokens": 6 * BATCH * WINDOW, "parts": 2, "batch_size": BATCH, "lr": 1e-3}
    return {
        "task": "causal_lm",
        "model": str(model),
        "data": {"text": str(text), "window": WINDOW},
        "evaluate": str(text),
        "method": {"name": "magnitude", "sparsity": 0.6, "at": 0},
        "train": train | {"precision": "float32"},
        "device": "cpu",
    } | changes


def nonzero(folder: Path) -> int:
    return sum(
        int(tensor.count_nonzero())
        for file in folder.glob("model*.safetensors")
        for tensor in load_file(file).values()
    )


@pytest.fixture(scope="module")
def pruned(language_model: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("originals") / "pruned"
    method = methods.wanda(sparsity=0.6)
    steppe.prune(language_model, method, word_text, out, measure=0, window=WINDOW, samples=8)
    return out


@pytest.fixture(scope="module")
def trained(pruned: Path, word_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    steppe.train(recipe(pruned, word_text), out)
    return out


def test_the_record_has_the_dense_model_and_what_was_started_from(
    trained: Path, pruned: Path, language_model: Path, word_text: Path
) -> None:
    record = json.loads((trained / "record.json").read_text())
    measured = DenseModel(str(language_model)).measured((str(word_text),), WINDOW)[str(word_text)]
    for role, folder in (("dense", language_model), ("pruned", pruned)):
        model = DenseModel(str(folder)).load().eval()
        with torch.no_grad():
            alone = perplexity(model, measured, window=WINDOW, batch=BATCH)["perplexity"]
        assert record[role]["perplexity"] == pytest.approx(alone, rel=1e-6), role
        assert record[role]["nonzero"] == nonzero(folder), role
    assert record["dense"]["perplexity"] != record["pruned"]["perplexity"]
    assert record["pruning"]["method"] == "wanda"
    assert record["method_display"] == "Wanda, then Magnitude"
    assert not any("dense model" in note for note in record["notes"])


def test_it_is_recovered_towards_the_dense_model(
    trained: Path, language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    assert PrunedPair(trained).dense_name == str(language_model)
    record = json.loads((trained / "record.json").read_text())
    del record["pruning"]  # as an earlier version left it: then what it started from is looked at
    older = Path(shutil.copytree(trained, tmp_path / "older"))
    (older / "record.json").write_text(json.dumps(record))
    assert PrunedPair(older).dense_name == str(language_model)
    blocks = steppe.recover(
        trained, word_text, tmp_path / "blocks", measure=0, window=WINDOW, samples=8,
        reconstruction={"epochs": 2, "batch_size": 4},
    )  # fmt: skip
    assert blocks["recipe"]["dense"]["name"] == str(language_model)
    config = RecoverConfig.of(
        out=tmp_path / "whole", scope="whole", calibration=str(word_text), window=WINDOW
    )
    assert Recovery.of(trained, config).originals.dense.source.folder == language_model
    assert blocks["method_display"] == "Wanda, then Magnitude, recovered"


def test_a_model_on_the_way_that_is_another_one_now_is_refused(
    pruned: Path, word_text: Path, tmp_path: Path
) -> None:
    start = Path(shutil.copytree(pruned, tmp_path / "start"))
    record = steppe.train(recipe(start, word_text), tmp_path / "out")
    del record["pruning"]
    (tmp_path / "out" / "record.json").write_text(json.dumps(record))
    (start / "config.json").write_text((start / "config.json").read_text() + "\n")
    with pytest.raises(steppe.SteppeError, match=r"start, whose files have changed since.*--dense"):
        _ = PrunedPair(tmp_path / "out").dense_name


@pytest.mark.parametrize("changes", [{}, {"evaluate": ()}])
def test_where_the_dense_model_is_gone_the_record_says_so(
    changes: dict[str, Any], language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    dense = Path(shutil.copytree(language_model, tmp_path / "dense"))
    steppe.prune(dense, methods.magnitude(sparsity=0.6), None, tmp_path / "pruned")
    shutil.rmtree(dense)
    record = steppe.train(recipe(tmp_path / "pruned", word_text, **changes), tmp_path / "out")
    assert "perplexity" not in record["dense"]
    assert ("perplexity" in record["pruned"]) == (not changes)
    (note,) = [n for n in record["notes"] if n.startswith("no quality")]
    assert "no quality of the dense model was measured" in note
    assert f"{dense}, which is not there" in note
    assert "steppe evaluate DENSE --on perplexity" in note


def test_what_was_there_before_is_measured_once_for_a_run(
    pruned: Path, trained: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stopping(self: TokenBatches, number: int, start: int = 0) -> Any:
        raise Stop

    with monkeypatch.context() as stopped:
        stopped.setattr(TokenBatches, "epoch", stopping)
        with pytest.raises(Stop):
            steppe.train(recipe(pruned, word_text), tmp_path / "out")
    measured, call = [], Measure.__call__

    def counted(self: Measure, model: Any) -> dict[str, float]:
        measured.append(model)
        return call(self, model)

    monkeypatch.setattr(Measure, "__call__", counted)
    record = steppe.train(recipe(pruned, word_text), tmp_path / "out")
    whole = json.loads((trained / "record.json").read_text())
    assert len(measured) <= 2, "what came out, before the last projection and after it"
    for role in ("dense", "pruned", "sparse"):
        assert record[role]["loss"] == whole[role]["loss"], role


def test_a_distillation_measures_the_teacher_that_it_has(
    pruned: Path, trained: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], DenseModel.load

    def counted(self: DenseModel) -> Any:
        loaded.append(self.source.folder)
        return load(self)

    monkeypatch.setattr(DenseModel, "load", counted)
    method = {"name": "magnitude", "sparsity": 0.6, "at": 0, "objective": "distillation"}
    record = steppe.train(recipe(pruned, word_text, method=method), tmp_path / "out")
    assert len(loaded) == 2, "the start and the dense model"
    whole = json.loads((trained / "record.json").read_text())
    assert record["dense"]["loss"] == whole["dense"]["loss"]


def test_a_dense_start_has_no_third_figure(language_model: Path, word_text: Path) -> None:
    made = LanguageExperiment(parse(recipe(language_model, word_text)), None, quiet=True)
    record, _ = made.train()
    assert "pruned" not in record
    assert record["dense"]["perplexity"] > 1
    assert record["method_display"] == "Magnitude"


def test_the_terminal_says_all_three(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", str(trained / "recipe.yaml"), "--out", str(trained)])
    record, said = json.loads((trained / "record.json").read_text()), capsys.readouterr().err
    assert f"Wanda, then Magnitude: {record['sparsity_reached']:.4%} zeros" in said
    dense, start, now = (record[key]["perplexity"] for key in ("dense", "pruned", "sparse"))
    assert f"perplexity {dense:.2f} dense, {start:.2f} pruned, {now:.2f} trained" in said
