"""steppe prune, as a user sees it: what it writes, and what it refuses before it writes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe.cli.main import main

Refused = Callable[..., str]


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prune", *(str(a) for a in arguments)])
    assert ended.value.code == code


@pytest.fixture
def model(language_model: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(language_model, tmp_path / "model"))


@pytest.fixture
def refused(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Runs the verb with a mistake in it; the one line that it says. Nothing may be written."""

    def ask(
        *flags: object,
        model: object = language_model,
        method: str = "sparsegpt",
        sparsity: object = "0.5",
        calibration: object = word_text,
        out: object = tmp_path / "out",
        samples: int = 4,
        window: object = 16,
    ) -> str:
        given = {
            "--method": method,
            "--sparsity": sparsity,
            "--calibration": calibration,
            "--samples": samples,
            "--window": window,
            "--out": out,
        }
        asked = [x for key, value in given.items() if value is not None for x in (key, value)]
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        run(model, *asked, "--quiet", *flags, code=2)
        shown = capsys.readouterr()
        assert sorted(tmp_path.rglob("*")) == before, "something was written before the mistake"
        assert shown.out == ""
        lines = shown.err.splitlines()
        assert len(lines) == 1, shown.err
        assert lines[0].startswith("steppe: ")
        return lines[0]

    return ask


def test_prune_writes_a_folder_that_transformers_loads(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    asked = [language_model, "--method", "wanda", "--sparsity", 0.5, "--calibration", word_text]
    asked += ["--samples", 4, "--window", 16, "--evaluate", word_text, "--out", out]
    run(*asked, "--json")
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record == json.loads((out / "record.json").read_text()) | {"out": str(out)}
    assert record["sparsity_reached"] == 0.5
    assert "50.0000% zeros in the decoder blocks" in shown.err
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() > 0
    assert len(AutoTokenizer.from_pretrained(out)) == 26
    capsys.readouterr()
    weights = sorted(out.glob("*.safetensors"))
    times = [p.stat().st_mtime_ns for p in weights]
    run(*asked, "--quiet")
    assert [p.stat().st_mtime_ns for p in weights] == times, "finished: not done again"
    assert capsys.readouterr().err == ""


def test_a_finished_run_is_looked_at_before_it_is_called_so(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = [language_model, "--method", "wanda", "--sparsity", 0.5, "--calibration", word_text]
    asked += ["--samples", 4, "--window", 16, "--out", out, "--quiet"]
    run(*asked)
    shard = sorted(out.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    run(*asked, code=2)
    assert f"must be as it was written; got {shard}" in capsys.readouterr().err
    shard.unlink()
    run(*asked, code=2)
    assert f"a finished run has its weights; got no {shard}" in capsys.readouterr().err


# the text


def test_text_that_is_too_short(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a b c")
    said = refused(calibration=tmp_path / "short.txt")
    assert "3 tokens" in said
    assert "Way out: a longer text" in said, "a window of two tokens is of no use"


def test_text_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "missing.txt" in refused(calibration=tmp_path / "missing.txt")
    assert "missing.txt" in refused("--evaluate", tmp_path / "missing.txt")


def test_no_text_where_one_is_needed(refused: Refused) -> None:
    for method in ("sparsegpt", "wanda", "alps", "safe", "safe_plus", "admm"):
        said = refused(method=method, calibration=None)
        assert f"method {method} needs calibration text" in said
        assert "--calibration" in said


def test_text_to_evaluate_that_is_too_short(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a b c")
    assert "3 tokens" in refused("--evaluate", tmp_path / "short.txt")


def test_window_longer_than_positions(refused: Refused) -> None:
    assert "a window of 65 for a model of 64" in refused(window=65)
    assert "64" in refused("--evaluate-window", 65)


@pytest.mark.parametrize("window", [0, 1, -3])
def test_window_of_no_tokens(refused: Refused, window: int) -> None:
    assert "--window" in refused(window=window)


@pytest.mark.parametrize(
    "flags", [("--micro-batch", 0), ("--measure", -1), ("--epochs", 0), ("--batch-size", 0)]
)
def test_numbers_that_count_nothing(refused: Refused, flags: tuple[str, int]) -> None:
    assert str(flags[1]) in refused(*flags, method="safe")


def test_tokenizer_of_another_model(refused: Refused, model: Path) -> None:
    config = json.loads((model / "config.json").read_text()) | {"vocab_size": 20}
    (model / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    cut = {n: t[:20].clone() if len(t) == 26 else t for n, t in weights.items()}
    save_file(cut, model / "model.safetensors", {"format": "pt"})
    said = refused(model=model)
    assert "0 to 19" in said
    assert "the tokenizer does not fit" in said.lower()


def test_tokens_beyond_the_vocabulary(refused: Refused, tmp_path: Path) -> None:
    save_file({"tokens": torch.full((2, 16), 26)}, tmp_path / "tokens.safetensors")
    assert "token 26" in refused(calibration=tmp_path / "tokens.safetensors")


def test_tokens_longer_than_positions(refused: Refused, tmp_path: Path) -> None:
    save_file({"tokens": torch.zeros(2, 65).long()}, tmp_path / "tokens.safetensors")
    assert "65" in refused(calibration=tmp_path / "tokens.safetensors", window=None)


def test_no_tokenizer(refused: Refused, model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer.json" in refused(model=model)


# the method


@pytest.mark.parametrize("sparsity", ["1.0", "-0.1", "1.5"])
def test_sparsity_outside(refused: Refused, sparsity: str) -> None:
    said = refused(sparsity=sparsity)
    assert "[0, 1)" in said
    assert str(float(sparsity)) in said


def test_sparsity_and_structure_that_contradict(refused: Refused) -> None:
    said = refused("--structure", "2:4", sparsity="0.6")
    assert "0.6" in said
    assert "0.5" in said


def test_no_sparsity(refused: Refused) -> None:
    assert "--sparsity" in refused(sparsity=None)


def test_columns_that_m_does_not_divide(refused: Refused) -> None:
    said = refused("--structure", "4:8")
    assert "model.layers.0.mlp.down_proj.weight" in said
    assert "20" in said
    assert "exclude" in said


@pytest.mark.parametrize("method", ["gmp", "iht"])
def test_methods_of_training_only(refused: Refused, method: str) -> None:
    said = refused(method=method)
    assert f"method {method}" in said
    assert "methods that have one: admm, alps, " in said
    assert ", sparsegpt, wanda; or steppe train MODEL" in said


def test_dense_is_no_pruning(refused: Refused) -> None:
    assert "dense" in refused(method="dense", sparsity=None)


def test_unknown_method(refused: Refused) -> None:
    assert "did you mean sparsegpt" in refused(method="sparsegtp")


def test_budget_that_sees_all_weights(refused: Refused) -> None:
    said = refused("--budget", "pooled")
    assert "budget pooled" in said
    assert "uniform" in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("colour=red", "axes: "),
        ("coupling=hard_maks", "hard_mask"),
        ("coupling.dampening=0.1", "damping"),
        ("coupling.damping=much", "damping"),
        ("coupling.damping=-1", "damping"),
        ("coupling", "axis=part"),
        ("coupling.block=1.5", "block"),
        ("coupling=none", "none"),
        ("method.dampening=0.1", "damping"),
        ("method.damping=much", "of type float"),
        ("method=sparsegpt", "method.option=value"),
        ("method.perturb=smm", "did you mean sam"),
    ],
)
def test_settings_that_do_not_exist(refused: Refused, change: str, expected: str) -> None:
    assert expected in refused("--set", change)


def test_the_screen_says_what_the_steps_made_of_the_start(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--calibration", word_text, "--samples", 4, "--window", 16, "--epochs", 1]
    for out, way in (("a", []), ("b", ["--set", "method.start=null"])):
        asked = ["--method", "safe", "--sparsity", 0.5, *text, "--out", tmp_path / out, *way]
        run(language_model, *asked)
        shown = " ".join(capsys.readouterr().err.split())
        line = re.search(r"started from ALPS; .* SAFE were kept in (\d) of (\d) blocks", shown)
        assert bool(line) == (out == "a")
        assert ("(1 window held out)" in shown) == (out == "a")
        if line:
            rows = json.loads((tmp_path / out / "record.json").read_text())["blocks"]
            kept = [row["held_out"]["block"]["kept"] == "trained" for row in rows]
            assert (int(line[1]), int(line[2])) == (sum(kept), len(kept))


def test_penalty_and_radius_are_said_and_an_interval_that_does_not_fit_the_automatic_one(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--calibration", word_text, "--samples", 8, "--window", 16, "--epochs", 64]
    asked = ["--method", "safe", "--sparsity", 0.5, *text, "--set", "method.start=null"]
    asked += ["--penalty", "auto", "--batch-size", 8, "--warmup-epochs", 0]
    for out, way in (("a", []), ("b", ["--interval", "auto"])):
        run(language_model, *asked, *way, "--out", tmp_path / out)
        shown = " ".join(capsys.readouterr().err.split())
        interval = "1 (auto), updates 64" if way else "32, updates 2"
        assert f"coupling admm: penalty auto, interval {interval}, " in shown
        assert "perturb sam: rho 0.0002" in shown
        assert ("Way out: interval auto" in shown) == (not way)
        assert json.loads((tmp_path / out / "record.json").read_text())["blocks"][0]["coupling"]


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "safe"])
def test_swaps_after_what_solves_the_layers(
    language_model: Path, word_text: Path, tmp_path: Path, method: str
) -> None:
    text = ["--calibration", word_text, "--samples", 4, "--window", 16, "--epochs", 1]
    asked = ["--method", method, "--sparsity", 0.5, *text, "--quiet"]
    for out, way in (("plain", []), ("swaps", ["--swaps", 50])):
        run(language_model, *asked, *way, "--out", tmp_path / out)
    rows = {}
    for out in ("plain", "swaps"):
        record = json.loads((tmp_path / out / "record.json").read_text())
        assert record["sparsity_reached"] == 0.5
        rows[out] = record["blocks"][0]["layers"]
    start = record["recipe"]["method"]["objective"].get("start")
    solver = start or record["recipe"]["method"]["coupling"]
    assert (solver["name"], solver["swaps"]) == ("mask_swaps", 50)
    first = [rows[out][0]["output_error"] for out in ("plain", "swaps")]
    assert method != "wanda" or first[1] < first[0]


def test_swaps_where_there_is_nothing_to_exchange(
    refused: Refused, language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    said = refused("--swaps", 5, "--structure", "block:2x2", method="alps")
    assert "mask_swaps exchanges single weights" in said
    assert "swaps 100" in refused("--swaps", -1)
    said = refused("--swaps", 5, method="admm")
    assert "Way out: --method wanda" in said
    asked = ["--method", "wanda", "--sparsity", 0.5, "--swaps", 5, "--calibration", word_text]
    run(language_model, *asked, "--samples", 4, "--window", 16, "--out", tmp_path / "w", "--quiet")


def test_sparsities_that_a_search_found(
    language_model: Path, word_text: Path, tmp_path: Path, refused: Refused
) -> None:
    said = refused("--budget", "evopress", samples=1)
    assert "--samples 128" in said
    search = "budget={name: evopress, sparsity: 0.5, generations: 2, offspring: 4}"
    asked = ["--method", "wanda", "--sparsity", 0.5, "--set", search, "--calibration", word_text]
    out = tmp_path / "out"
    run(language_model, *asked, "--samples", 8, "--window", 16, "--out", out, "--quiet")
    rows = json.loads((out / "record.json").read_text())["blocks"]
    assert len({x["sparsity_asked"] for row in rows for x in row["layers"]}) > 1
    assert json.loads((out / "record.json").read_text())["sparsity_reached"] == 0.5


@pytest.mark.parametrize("flags", [("--penalty", "0.1"), ("--set", "method.interval=4")])
def test_an_option_that_changes_nothing(
    refused: Refused, flags: tuple[str, str], language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """With the zeros of the start kept there is no ADMM to take it; the way out works."""
    said = refused(*flags, method="safe")
    assert "changes nothing" in said
    assert "--set method.start=null" in said
    text = ["--calibration", word_text, "--samples", 4, "--window", 16]
    out = tmp_path / "paper"
    way_out = ["--set", "method.start=null", "--epochs", 1, "--quiet"]
    asked = ["--method", "safe", "--sparsity", 0.5, *text, "--out", out, *flags, *way_out]
    run(language_model, *asked)
    coupling = json.loads((out / "record.json").read_text())["recipe"]["method"]["coupling"]
    assert coupling["name"] == "admm"


def test_patterns_that_match_nothing(refused: Refused) -> None:
    assert "*.c_attn" in refused("--include", "*.c_attn")
    assert "*.c_attn" in refused("--exclude", "*.c_attn")


def test_patterns_outside_of_the_blocks(refused: Refused) -> None:
    said = refused("--include", "lm_head")
    assert "lm_head" in said
    assert "decoder blocks" in said
    assert "something must be prunable" in refused("--exclude", "model.*")


# the model


def other(folder: Path, **changes: Any) -> None:
    held = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(held))


def test_masked_language_model(refused: Refused, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=26, intermediate_size=8, **small)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    # it could be pruned, but no text be read for it
    assert "tokenizer; got none" in refused(model=tmp_path / "bert")


def test_image_classifier(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    held = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}
    (tmp_path / "images/config.json").write_text(json.dumps(held))
    assert "steppe.sparsify" in refused(model=tmp_path / "images")


def test_folder_of_a_steppe_run(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "run/model.safetensors")
    assert "config.json" in refused(model=tmp_path / "run")


def test_model_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "gone" in refused(model=tmp_path / "gone")


def test_file_in_the_place_of_a_model(refused: Refused, word_text: Path) -> None:
    assert "words.txt" in refused(model=word_text)


def test_config_that_is_no_json(refused: Refused, model: Path) -> None:
    (model / "config.json").write_text("{")
    assert "config.json" in refused(model=model)


def test_model_type_that_nobody_knows(refused: Refused, model: Path) -> None:
    other(model, model_type="llamma", architectures=["LlammaForCausalLM"])
    assert "llamma" in refused(model=model).lower()


def test_code_of_a_model_is_never_run(refused: Refused, model: Path) -> None:
    (model / "evil.py").write_text("raise SystemExit(99)")
    other(model, model_type="own", auto_map={"AutoConfig": "evil.C"}, architectures=["Own"])
    refused(model=model)


def test_pickled_weights(refused: Refused, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    said = refused(model=model)
    assert "safetensors" in said
    assert "save_pretrained" in said


def test_quantised_model(refused: Refused, model: Path) -> None:
    other(model, quantization_config={"quant_method": "gptq", "bits": 4})
    said = refused(model=model)
    assert "quantised" in said
    assert "prune the original" in said


def test_shard_that_is_missing(refused: Refused, model: Path) -> None:
    shards(model)
    (model / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refused(model=model)


def test_shard_that_is_cut_off(refused: Refused, model: Path) -> None:
    shards(model)
    path = model / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    said = refused(model=model)
    assert path.name in said
    assert "again" in said


def test_weights_that_are_cut_off(refused: Refused, model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "model.safetensors" in refused(model=model)


def test_index_that_is_no_json(refused: Refused, model: Path) -> None:
    (model / "model.safetensors.index.json").write_text("{}")
    assert "index" in refused(model=model)


def test_shard_without_what_the_index_says(refused: Refused, model: Path) -> None:
    names = shards(model)
    path = model / "model-00002-of-00002.safetensors"
    save_file({names[-1]: load_file(path)[names[-1]]}, path, {"format": "pt"})
    assert "what the index says" in refused(model=model)


def test_weight_that_is_missing(refused: Refused, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refused(model=model)


def test_weight_of_another_shape(refused: Refused, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(19, 12)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    said = refused(model=model)
    assert "model.layers.1.mlp.up_proj.weight" in said
    assert "[19, 12]" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_no_number(refused: Refused, model: Path, value: float) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refused(model=model)


def shards(model: Path) -> list[str]:
    """The model in two files and an index; the names in them."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="8KB")
    assert (model / "model-00002-of-00002.safetensors").is_file()
    index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    return sorted(index, key=lambda name: (index[name], name))


# the machine and the output


@pytest.mark.parametrize("device", ["gpu9", "cuda:7", "mps", "meta"])
def test_device_that_does_not_exist(refused: Refused, device: str) -> None:
    said = refused("--device", device)
    assert device in said
    assert "--device cpu" in said


def test_precision_that_does_not_exist(refused: Refused) -> None:
    assert "int3" in refused("--precision", "int3")


def test_out_holds_something_else(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years of work")
    assert "--out" in refused(out=tmp_path / "full")


def test_out_is_the_model_itself(refused: Refused, model: Path) -> None:
    assert "--out" in refused(model=model, out=model)


def test_out_is_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--out" in refused(out=tmp_path / "file")
    assert "--out" in refused(out=tmp_path / "file/inside/deep")


def test_out_of_another_recipe(
    refused: Refused, language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "magnitude", "--sparsity", 0.5, "--quiet", "--out", tmp_path / "done"]
    run(language_model, *flags)
    said = refused(method="magnitude", calibration=None, sparsity=0.6, out=tmp_path / "done")
    assert "sparsity" in said
    assert "another --out" in said


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def left(folder: Path) -> list[str]:
    """What lies in a folder of a run that failed, without its notes to go on from."""
    known = {"recipe.yaml", "checkpoints", "journal.json", "job.json"}
    return sorted(p.name for p in folder.rglob("*") if p.name not in known)


def test_no_space_for_the_hidden_states(
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [language_model, "--method", "sparsegpt", "--sparsity", 0.5, "--quiet"]
    asked += ["--calibration", word_text, "--samples", 4, "--window", 16]
    asked += ["--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        run(*asked, code=2)
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "--samples" in said
    assert "--out" in said
    assert left(tmp_path / "out") == []
    run(*asked)  # with space, the same command works


def test_no_space_for_the_tokenizer(
    language_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [language_model, "--method", "magnitude", "--sparsity", 0.5, "--quiet"]
    asked += ["--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        run(*asked, code=2)
    assert "No space left" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.json"))
    run(*asked)
    assert (tmp_path / "out/tokenizer.json").is_file()


def test_no_space_for_a_shard(
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import steppe.core.serialization as tree

    asked = [language_model, "--method", "sparsegpt", "--sparsity", 0.5, "--quiet"]
    asked += ["--calibration", word_text, "--samples", 4, "--window", 16]
    asked += ["--out", tmp_path / "out"]

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half of a header")
        full()

    with monkeypatch.context() as patch:
        patch.setattr(tree, "save_file", half)
        run(*asked, code=2)
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "free some space" in said
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert all(name.endswith(".bin") for name in left(tmp_path / "out"))
    run(*asked)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == 3


@pytest.mark.parametrize("regrow", [True, False])
def test_zeros_that_were_there_are_said(
    regrow: bool, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "magnitude", "--sparsity"]
    run(model, *flags, "0.7", "--out", tmp_path / "a")
    assert "were zero before" not in capsys.readouterr().err
    run(tmp_path / "a", *flags, "0.5", "--out", tmp_path / "b", *["--regrow"] * regrow)
    said = capsys.readouterr().err
    assert "70.0" in said.split("were zero before")[0]
    assert ("stayed zero (--regrow)" in said) != regrow


def test_any_part_is_exchanged_as_in_a_recipe(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """``method.perturb=`` is what steppe train takes; SAFE's blocks with functional_sam."""
    text = ["--calibration", word_text, "--samples", 4, "--window", 16, "--epochs", 2]
    text += ["--batch-size", 1, "--warmup-epochs", 0]
    safe = ["--method", "safe", "--sparsity", 0.5, *text, "--set", "method.start=null", "--quiet"]
    given, weights = {}, {}
    for name, key in (("a", "method.perturb"), ("b", "perturb"), ("c", "method.perturb.rho=0.5")):
        out = tmp_path / name
        change = key if "=" in key else f"{key}={{name: functional_sam, rho: 0.5}}"
        run(language_model, *safe, "--out", out, "--set", change)
        given[name] = json.loads((out / "record.json").read_text())["recipe"]["method"]["perturb"]
        weights[name] = load_file(sorted(out.glob("model-*"))[0])
    assert given["a"] == given["b"]
    assert (given["a"]["name"], given["c"]["name"], given["c"]["rho"]) == (
        "functional_sam",
        "sam",
        0.5,
    )
    assert all(torch.equal(weights["b"][n], t) for n, t in weights["a"].items())
    assert not all(torch.equal(weights["c"][n], t) for n, t in weights["a"].items())
