"""steppe evaluate, as a user sees it: image runs and language models."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from steppe import SteppeError
from steppe.cli.main import main
from steppe.evaluation import EVALUATIONS, Evaluation, keep, make


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture
def model(language_model: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(language_model, tmp_path / "model"))


def kept(folder: Path) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = json.loads((folder / "evaluations.json").read_text())
    return held


def test_evaluate_repeats_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", "gmp", "--sparsity", "0.8", "--epochs", "3", "--lr", "0.1", "--quiet"]
    run("train", *flags, "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run/record.json").read_text())
    capsys.readouterr()
    run("evaluate", tmp_path / "run", "--json", "--quiet")
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy"] == record["sparse"]["accuracy"]
    assert again["loss"] == pytest.approx(record["sparse"]["loss"], rel=1e-5)
    run("evaluate", tmp_path / "run", "--json", "--quiet", "--reestimate-bn")
    reestimated = json.loads(capsys.readouterr().out)
    assert reestimated["accuracy"] == pytest.approx(again["accuracy"], abs=1e-3)
    run("evaluate", tmp_path / "run", "--quiet")
    assert [e["options"]["reestimate_bn"] for e in kept(tmp_path / "run")] == [True, False]
    run("evaluate", tmp_path / "run", "--on", "cleen", code=2)
    run("evaluate", tmp_path, code=2)
    run("evaluate", tmp_path / "run", "--device", "gpu9", code=2)
    # a finished run still is what its recipe says, with the file of evaluations in it
    run("train", *flags, "--out", tmp_path / "run")


def test_robustness_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", "gmp", "--sparsity", "0.8", "--epochs", "10", "--lr", "0.1", "--quiet"]
    # few images, since sharpness is measured on those of the training
    run("train", *flags, "--train-size", 192, "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run/record.json").read_text())
    capsys.readouterr()
    few = ["--corruptions", "contrast,jpeg_compression", "--severities", "1,5"]
    on = ["--on", "clean,corruptions,attacks,sharpness", "--eps-linf", "2/255,8/255"]
    run("evaluate", tmp_path / "run", *on, *few, "--steps", 3, "--json")
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    clean = record["sparse"]["accuracy"]
    assert found["corruptions"]["clean"] == pytest.approx(clean)
    assert found["attacks"]["clean"] == pytest.approx(clean)
    robust = found["attacks"]["accuracy"]["linf"]
    assert clean >= robust[repr(2 / 255)] >= robust[repr(8 / 255)]
    assert list(found["attacks"]["accuracy"]) == ["linf", "l2"]
    run_mean = found["corruptions"]["mean_run"]
    said = f"{run_mean:.2%}, the mean over contrast, jpeg_compression at severities 1, 5"
    assert said in shown.err
    assert "R_C" not in shown.err  # two of 15 kinds
    contrast = found["corruptions"]["accuracy"]["contrast"]
    assert contrast["1"] > contrast["5"]
    flat = found["sharpness"]
    assert flat["ball"] >= flat["one_step"]
    assert flat["top_eigenvalue"] > 0
    assert flat["support"] == "kept"
    assert shown.err.count("accuracy") == 3
    top = ["--measures", "top_eigenvalue", "--support", "all", "--json", "--quiet"]
    run("evaluate", tmp_path / "run", "--on", "sharpness", *top)
    everything = json.loads(capsys.readouterr().out)
    assert everything["top_eigenvalue"] >= flat["top_eigenvalue"] * (1 - 1e-2)
    run("evaluate", tmp_path / "run", "--on", "attacks", "--eps-linf", "-1", code=2)
    run("evaluate", tmp_path / "run", "--on", "attacks", "--radius", "1", code=2)
    run("evaluate", tmp_path / "run", "--on", "corruptions", "--corrupted", tmp_path, code=2)
    assert "labels.npy" in capsys.readouterr().err


def test_what_a_mean_hides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--epochs", "3", "--lr", "0.1", "--quiet"]
    run("train", "--method", "dense", *flags, "--out", tmp_path / "dense")
    run("train", "--method", "gmp", "--sparsity", "0.9", *flags, "--out", tmp_path / "run")
    capsys.readouterr()
    run("evaluate", tmp_path / "run", "--beside", tmp_path / "dense", "--json", "--quiet")
    found = json.loads(capsys.readouterr().out)
    held = found["beside"]
    assert found["accuracy"] - held["accuracy"] == pytest.approx(held["won"] - held["lost"])
    assert len(held["lost_examples"]) == round(500 * held["lost"])
    assert all(e["beside"] == e["label"] != e["run"] for e in held["examples"])
    few = ["--severities", "3", "--limit", "40", "--json", "--beside", tmp_path / "dense"]
    run("evaluate", tmp_path / "run", "--on", "corruptions", *few)
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    errors = {
        name: (1 - own["3"]) / (1 - found["beside"]["accuracy"][name]["3"])
        for name, own in found["accuracy"].items()
    }
    assert found["beside"]["mce_19"] == pytest.approx(sum(errors.values()) / 19)
    assert found["beside"]["method"] == "dense"
    assert f"over 19 kinds at severity 3 (R_C {found['r_c_19']:.3f})" in shown.err
    assert f"mCE {100 * found['beside']['mce_15']:.1f} %" in shown.err
    few = ["--on", "landscape", "--points", 5, "--plane-points", 3, "--radius", 0.5, "--json"]
    run("evaluate", tmp_path / "run", *few)
    own = json.loads(capsys.readouterr().out)
    assert own["places"] == [-0.5, -0.25, 0, 0.25, 0.5]
    assert own["line"][2] == pytest.approx(own["plane"][1][1], rel=1e-5)
    assert own["plane"][0][1] == pytest.approx(own["line"][0], rel=1e-5)
    # on another run's directions all weights move
    run("evaluate", tmp_path / "run", *few, "--like", tmp_path / "dense", "--quiet")
    common = json.loads(capsys.readouterr().out)
    assert (own["support"], common["support"]) == ("kept", "all")
    assert common["line"][2] == own["line"][2]
    assert common["line"][0] != own["line"][0]
    run("evaluate", tmp_path / "run", "--beside", tmp_path / "nowhere", code=2)
    run("evaluate", tmp_path / "run", "--on", "sharpness", "--measures", "ball,bal", code=2)
    assert "did you mean" in capsys.readouterr().err
    before = (tmp_path / "run/evaluations.json").read_bytes()
    for on, flag, value, said in (
        ("clean", "--beside", tmp_path / "run", "the run itself"),
        ("landscape", "--points", 4, "odd numbers of 3 or more"),
        ("landscape", "--plane-points", 1, "odd numbers of 3 or more"),
        ("landscape", "--radius", "inf", "--radius 1"),
        ("landscape", "--limit", 0, "--limit is a number"),
        ("sharpness", "--radius", "nan", "--radius 0.1"),
        ("sharpness", "--max-products", 0, "--max-products is 1 or more"),
        ("attacks", "--eps-linf", "4", "from 0 to 1"),
        ("attacks", "--steps", 0, "--steps 1 or more"),
        ("attacks", "--eps-l2", "inf", "from 0 to 1000"),
        ("corruptions", "--severities", "7", "severities are 1 to 5"),
        ("corruptions", "--limit", "-5", "--limit is a number"),
    ):
        run("evaluate", tmp_path / "run", "--on", on, flag, value, code=2)
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert (tmp_path / "run/evaluations.json").read_bytes() == before


def test_a_broken_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", "dense", "--epochs", "1", "--quiet", "--out", tmp_path / "run"]
    run("train", *flags, "--train-size", 192)
    few = ["--corruptions", "fog", "--severities", "3", "--limit", "50", "--quiet"]
    run("evaluate", tmp_path / "run", "--on", "corruptions", *few)
    before = (tmp_path / "run/evaluations.json").read_bytes()
    run("evaluate", tmp_path / "run", "--on", "sharpness", "--max-products", "1", code=2)
    assert "must converge" in capsys.readouterr().err
    weights = load_file(tmp_path / "run/model.safetensors")
    next(w for w in weights.values() if w.ndim > 1).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "run/model.safetensors")
    for on in ("clean", "corruptions", "attacks", "sharpness", "landscape"):
        run("evaluate", tmp_path / "run", "--on", on, code=2)
        said = capsys.readouterr().err.strip()
        assert "finite" in said
        assert "\n" not in said
    assert (tmp_path / "run/evaluations.json").read_bytes() == before


def test_published_images_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from steppe.experiment.image_run import ImageRun

    flags = ["--method", "gmp", "--sparsity", "0.8", "--epochs", "3", "--lr", "0.1", "--quiet"]
    run("train", *flags, "--out", tmp_path / "run")
    images, labels = ImageRun.read(str(tmp_path / "run"), "cpu", "shifted").pixels("test", 100)
    right = ["evaluate", tmp_path / "run", "--json", "--limit", 100]
    # the run's own images, as new ones and as corrupted ones
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        for place in (f"new/v/{label}", f"c/weather/fog/3/n{label:03}"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            level = Image.fromarray((image[0] * 255).round().byte().numpy())
            level.save(tmp_path / place / f"{i}.png")
    capsys.readouterr()
    run(*right, "--on", "shifted", "--shifted", tmp_path / "new")
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["variants"] == {"v": found["clean"]}
    assert found["clean"] > 0.5
    assert found["r_v2"] == {"v": 1.0}
    assert "(R_V2 1.000); on those of test" in shown.err
    fog = ["--corruptions", "fog", "--severities", "3"]
    run(*right, "--on", "corruptions", "--corrupted", tmp_path / "c", *fog)
    assert json.loads(capsys.readouterr().out)["accuracy"] == {"fog": {"3": found["clean"]}}
    held = kept(tmp_path / "run")
    assert [e["on"] for e in held] == ["shifted", "corruptions"]

    def fails(said: str, *more: object) -> None:
        run("evaluate", tmp_path / "run", *more, code=2)
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert kept(tmp_path / "run") == held

    fails("--shifted FOLDER_OR_ID", "--on", "shifted")
    fails("--on corruptions", "--on", "shifted", "--shifted", tmp_path / "c")
    fails("no snow", "--on", "corruptions", "--corrupted", tmp_path / "c", *fog[:1], "snow,fog")
    (tmp_path / "new/v/3/x.png").write_bytes(b"")
    fails("x.png", "--on", "shifted", "--shifted", tmp_path / "new")


def test_perplexity_is_said_emitted_and_kept(
    model: Path, word_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steppe.llm.perplexity import perplexity

    asked = ("evaluate", model, "--on", "perplexity", "--text", word_text, "--window", 32)
    run(*asked, "--json")
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    network = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    expected = perplexity(network, word_text, tokenizer=tokenizer, window=32)
    assert result["perplexity"] == expected["perplexity"]
    assert result["sha256"] == expected["sha256"]
    assert f"perplexity {expected['perplexity']:.2f} on {word_text}: 465 tokens" in shown.err
    run(*asked, "--stride", 16, "--dtype", "bfloat16", "--batch", 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "stride 16, bfloat16" in shown.err
    run(*asked, "--quiet")
    assert capsys.readouterr().err == ""
    entries = kept(model)
    assert [e["options"]["stride"] for e in entries] == [16, None], "the same options: replaced"
    assert entries[1]["result"]["perplexity"] == expected["perplexity"]
    assert {"torch", "steppe", "transformers"} <= set(entries[1]["versions"])
    assert "run" not in entries[1]["options"], "a folder may be moved"


def test_the_window_is_the_models_when_none_is_given(
    model: Path, word_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate", model, "--on", "perplexity", "--text", word_text, "--json")
    assert json.loads(capsys.readouterr().out)["window"] == 64


def test_dense_stands_beside_sparse_when_both_measured_the_same(
    model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = tmp_path / "pruned"
    flags = ("--method", "wanda", "--sparsity", 0.5, "--calibration", word_text, "--samples", 4)
    how = ("--window", 32, "--evaluate", word_text, "--device", "cpu", "--out", pruned)
    run("prune", model, *flags, *how, "--quiet")
    record = json.loads((pruned / "record.json").read_text())
    asked = ("evaluate", pruned, "--on", "perplexity", "--text", word_text, "--window")
    capsys.readouterr()
    run(*asked, 32, "--json")
    shown = capsys.readouterr()
    assert f"(dense {record['dense']['perplexity']:.2f}) on" in shown.err
    # block by block in memory's order or the whole model at once: float32's rounding apart
    again = json.loads(shown.out)["perplexity"]
    assert again == pytest.approx(record["sparse"]["perplexity"], rel=1e-5)
    run(*asked, 16)
    assert "dense" not in capsys.readouterr().err, "other windows are another measurement"
    (pruned / "record.json").write_text("{")
    run(*asked, 32, code=2)


def test_image_measurements_of_a_pruned_language_model_say_what_it_is(
    model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--method", "magnitude", "--sparsity", 0.5, "--out", tmp_path / "sparse", "--quiet")
    run("prune", model, *flags)
    for on in ("clean", "corruptions", "sharpness"):
        run("evaluate", tmp_path / "sparse", "--on", on, code=2)
        assert "--on perplexity --text FILE" in capsys.readouterr().err
    run("prune", model, *flags[:-1])
    assert "nothing was done again" in capsys.readouterr().err


def test_a_compact_folder_is_measured_too(
    model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if "proj" in name:
            tensor[:, ::2] = 0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    run("export", model, "--to", "compact", "--out", tmp_path / "small", "--quiet")
    results = []
    for folder in (model, tmp_path / "small"):
        asked = ("--on", "perplexity", "--text", word_text, "--window", 32, "--json", "--quiet")
        run("evaluate", folder, *asked)
        results.append(json.loads(capsys.readouterr().out)["perplexity"])
    assert results[0] == results[1]


def test_a_folder_that_cannot_be_written_still_gives_its_result(
    model: Path, word_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "evaluations.json").write_text("[not json")
    run("evaluate", model, "--on", "perplexity", "--text", word_text, "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["perplexity"] > 1
    assert "note: the result is not kept" in shown.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--on", "perplexity"], "--on perplexity needs a text"),
        (["--on", "perplexity", "--text", "absent.txt"], "readable file"),
        (["--on", "perplexity", "--part", "test"], "--part is for --on attacks or clean or"),
        (["--on", "perplexity", "--task-folder", "x"], "--task-folder is for --on zero_shot"),
        (["--on", "perplexity", "--text", "x", "--dtype", "float61"], "unknown dtype"),
        (["--on", "perplexity", "--text", "x", "--device", "gpu9"], "--device cpu"),
        (["--on", "perplexity,cleen", "--text", "x"], "unknown measurement"),
        (["--on", "perplexity", "--text", "WORDS", "--window", "65"], "--window 64"),
        (["--on", "perplexity", "--text", "WORDS", "--stride", "99"], "between 1 and the window"),
        ([], "--on perplexity --text FILE"),
    ],
)
def test_wrong_input_is_one_line(
    model: Path, word_text: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate", model, *(str(word_text) if f == "WORDS" else f for f in flags), code=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("steppe:")]
    assert len(lines) == 1
    assert said in lines[0]


def test_without_lm_eval_the_way_out_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    run("evaluate", model, "--on", "zero_shot", code=2)
    assert "pip install 'steppe[zero-shot]'" in capsys.readouterr().err


def test_a_hub_id_is_downloaded_and_its_result_not_kept(
    model: Path,
    word_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(model))
    run("evaluate", "owner/name", "--on", "perplexity", "--text", word_text, "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["run"] == "owner/name"
    assert "owner/name is no folder here" in shown.err


def test_several_measurements_and_one_of_ones_own(
    model: Path,
    word_text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    EVALUATIONS.load()
    monkeypatch.setattr(EVALUATIONS, "_items", dict(EVALUATIONS._items))

    @EVALUATIONS.register("length")
    @dataclass(frozen=True, kw_only=True)
    class Length(Evaluation):
        text: str = ""

        def measure(self) -> dict[str, Any]:
            return {"length": len(Path(self.text).read_text())}

        def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
            return f"{result['length']} characters"

    run("evaluate", model, "--on", "length,perplexity", "--text", word_text, "--batch", 4, "--json")
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["length"] == {"length": 999}
    assert result["perplexity"]["window"] == 64
    assert "999 characters" in shown.err
    assert [entry["on"] for entry in kept(model)] == ["length", "perplexity"]
    run("evaluate", model, "--on", "length", "--text", word_text, "--batch", 4, code=2)


def test_a_result_is_kept_before_anything_is_said_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(Evaluation):
        def measure(self) -> dict[str, Any]:
            return {"value": 1}

        def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
            return str(result["value"] / 0)

    EVALUATIONS.load()
    monkeypatch.setitem(EVALUATIONS._items, "silent", Silent)
    run("evaluate", tmp_path, "--on", "silent", "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["value"] == 1
    assert "the line on silent: not computed, an internal error (ZeroDivisionError" in shown.err
    assert kept(tmp_path)[0]["result"] == {"value": 1}


def test_a_measurement_of_before_an_option_is_the_one_with_its_default(tmp_path: Path) -> None:
    same = make("corruptions", str(tmp_path), {"limit": 5}, [])
    assert keep("corruptions", same, {"clean": 0.1}) is None
    entries = json.loads((tmp_path / "evaluations.json").read_text())
    del entries[0]["options"]["beside"]  # an earlier version did not know it
    (tmp_path / "evaluations.json").write_text(json.dumps(entries))
    assert keep("corruptions", same, {"clean": 0.2}) is None
    (entry,) = json.loads((tmp_path / "evaluations.json").read_text())
    assert entry["result"] == {"clean": 0.2}
    other = make("corruptions", str(tmp_path), {"limit": 5, "beside": "dense"}, [])
    assert keep("corruptions", other, {"clean": 0.3}) is None
    assert len(json.loads((tmp_path / "evaluations.json").read_text())) == 2


@pytest.mark.parametrize(
    ("on", "given", "said"),
    [
        ("attacks", {"steps": 0}, "--steps 1 or more"),
        ("sharpness", {"support": "none"}, "kept or all"),
        ("sharpness", {"measures": "worts"}, "unknown measure"),
        ("landscape", {"support": "none"}, "kept or all"),
        ("shifted", {}, "needs new images"),
        ("perplexity", {}, "needs a text"),
        ("corruptions", {"severities": "6"}, "severities are 1 to 5"),
    ],
)
def test_options_are_refused_before_a_run_is_read(on, given, said):
    with pytest.raises(SteppeError, match=said):
        make(on, "nowhere", given, []).check()
