"""Channels of a run that are really gone, as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from steppe.cli.main import main
from steppe.core.neurons import Neurons
from steppe.perturb.adasap import AdaSap
from steppe.record import SCHEMA_VERSION, checked

CNN = ["--epochs", "3", "--lr", "0.1", "--model", "small-cnn", "--train-size", "640", "--quiet"]


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_trained_removed_and_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Neurons] = []
    among = AdaSap.among
    monkeypatch.setattr(AdaSap, "among", lambda *a: told.append(a[-1]) or among(*a))
    dense, slim = tmp_path / "run", tmp_path / "slim"
    flags = ["--method", "adasap", "--sparsity", "0.4", "--target", "parameters", "--out", dense]
    run("train", *flags, *CNN)
    # a channel with its norm is a neuron; the output layer has none
    members = {name: numbers.unique().tolist() for name, numbers in told[0].members.items()}
    layers = [[members[f"{kind}{i}.weight"] for kind in ("conv", "bn")] for i in (1, 2, 3)]
    assert all(conv == norm for conv, norm in layers)
    assert [n for conv, _ in layers for n in conv] == list(range(16 + 32 + 64))
    assert "linear.weight" not in members
    record = json.loads((dense / "record.json").read_text())
    assert record["sparsity_asked"] == 0.4
    assert 0.4 <= record["sparsity_reached"] <= 0.4 + 0.01 * 0.6
    count = sum(16 * 2**i - w for i, w in enumerate(record["removed"]["widths"].values()))
    zero = f"{count} channels are zero; once steppe remove takes them out, "
    assert record["gain"].startswith(zero), record["gain"]
    assert checked(record, "dense")["schema_version"] == SCHEMA_VERSION
    # a run from before the schema is removed from all the same
    older = {k: v for k, v in record.items() if k not in ("schema_version", "method_display")}
    (dense / "record.json").write_text(json.dumps(older))
    capsys.readouterr()
    run("remove", dense, "--out", slim, "--json")
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["parameters"] == record["removed"]["parameters"]
    assert found["parameters"][1] == pytest.approx(
        (1 - record["sparsity_reached"]) * found["parameters"][0]
    )
    assert "the same outputs to" in shown.err
    (times,) = [line for line in shown.err.splitlines() if line.startswith("one image ")][:1]
    assert "->" not in times, "medians of each network may contradict the ratio of the turns"
    removed = json.loads((slim / "record.json").read_text())
    assert removed["schema_version"] == SCHEMA_VERSION
    assert (removed["method_display"], removed["label"]) == ("AdaSAP", "AdaSAP, removed")
    assert removed["removed"]["source"] == "../run"
    assert "of the parameters and" in removed["gain"]
    assert "zero" not in removed["gain"].partition(";")[0]
    names = {path.name for path in slim.iterdir()}
    assert not [name for name in names if name.endswith((".pt", ".bin", ".pkl"))]
    smaller = sum(t.numel() for t in load_file(slim / "model.safetensors").values())
    assert smaller < sum(t.numel() for t in load_file(dense / "model.safetensors").values())
    for folder in (dense, slim):
        run("evaluate", folder, "--json", "--quiet")
    before, after = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert after["accuracy"] == before["accuracy"] == record["sparse"]["accuracy"]
    assert after["zeros"] == 0
    run("evaluate", slim, "--on", "sharpness", "--measures", "one_step", "--limit", 50, "--quiet")


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain"
    run("train", "--method", "magnitude", "--sparsity", "0.5", "--out", plain, *CNN)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    capsys.readouterr()
    for arguments, said in (
        (("remove", plain, "--out", tmp_path / "new"), "--structure channel"),
        (("remove", plain, "--out", tmp_path / "full"), "new or empty folder"),
        (("train", "--method", "gmp", "--sparsity", "0.5", "--target", "flops"), "for channels"),
        (("remove", tmp_path / "nowhere", "--out", tmp_path / "new"), "steppe train"),
        (
            ("train", "--method", "adasap", "--sparsity", "0.999", "--out", tmp_path / "a", *CNN),
            "parameters must leave room",
        ),
    ):
        run(*arguments, code=2)
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line, line
    assert not (tmp_path / "new").exists()
    recipe = tmp_path / "latency.yaml"
    recipe.write_text("method: {name: adasap, sparsity: 0.4}\nchannels: {target: latency}\n")
    run("train", recipe, "--out", tmp_path / "b", *CNN, code=2)
    assert "steppe latency DENSE_RUN --batch 1 --round-to 8 " in capsys.readouterr().err
    recipe.write_text("method: {name: adasap, sparsity: 0.4}\nchannels: {target: parametres}\n")
    run("train", recipe, "--out", tmp_path / "b", *CNN, code=2)
    assert "did you mean parameters" in capsys.readouterr().err


def test_a_latency_target_from_a_table_as_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "--method", "dense", "--out", tmp_path / "dense", *CNN)
    table = tmp_path / "table.json"
    run("latency", tmp_path / "dense", "--batch", "8", "--passes", "1", "--out", table, "--quiet")
    flags = ["--sparsity", "0.2", "--target", "latency", "--table", table]
    capsys.readouterr()
    run("train", "--method", "halp", *flags, "--out", tmp_path / "halp", *CNN)
    record = json.loads((tmp_path / "halp/record.json").read_text())
    assert 0.2 - 1e-6 <= record["sparsity_reached"] <= 0.2 + 0.05 * 0.8
    run("remove", tmp_path / "halp", "--out", tmp_path / "slim", "--quiet")
    run("latency", tmp_path / "slim", "--batch", "8", "--passes", "1", "--out", table, "--quiet")


def test_a_recipe_may_leave_the_sparsity_to_a_flag(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: {name: adasap}\nmodel: small-cnn\n")
    run("train", recipe, "--sparsity", "0.3", "--out", tmp_path / "run", *CNN)


@pytest.mark.parametrize("kind", ["small-cnn", "transformer"])
def test_channels_neurons_and_heads_whose_means_moved_are_removed(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = kind
    if kind == "transformer":
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
        sizes |= {"num_hidden_layers": 1, "image_size": 8, "patch_size": 4, "num_channels": 1}
        config = transformers.ViTConfig(**sizes, num_labels=10)
        model = str(tmp_path / "vit")
        transformers.ViTForImageClassification(config).save_pretrained(model)
    flags = ["--method", "vbp", "--sparsity", "0.4", "--target", "channels", "--epochs", "1"]
    flags += ["--model", model, "--train-size", "128", "--quiet"]
    run("train", *flags, "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run/record.json").read_text())
    capsys.readouterr()
    run("remove", tmp_path / "run", "--out", tmp_path / "slim", "--json")
    found = json.loads(capsys.readouterr().out)
    assert record["sparsity_reached"] >= 0.4
    assert found["error"] <= 1e-5
    before, after = found["parameters"]
    assert after < before


@pytest.mark.parametrize("broken", ["gains", "_show"])
def test_what_is_measured_of_a_removal_cannot_cost_it(
    broken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--method", "gmp", "--structure", "channel", "--sparsity", "0.4"]
    flags += ["--set", "method.score=l2", "--epochs", "1", "--train-size", "128", "--quiet"]
    run("train", *flags, "--model", "small-cnn", "--out", tmp_path / "run")

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(f"steppe.cli.verb_remove.{broken}", fails)
    capsys.readouterr()
    run("remove", tmp_path / "run", "--out", tmp_path / "slim", "--quiet")
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "not computed, an internal error (ZeroDivisionError" in said[0]
    record = json.loads((tmp_path / "slim" / "record.json").read_text())
    assert record["removed"]["parameters"][1] < record["removed"]["parameters"][0]
    assert record.get("not_computed") == (["what removal gains"] if broken == "gains" else None)
    run("evaluate", tmp_path / "slim", "--quiet")
