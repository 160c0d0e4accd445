"""A detector made faster by a table of its own latencies, as a user types it."""

import json

import pytest

import voc_folder
from steppe.cli.main import main

SMALL = ("--task", "detection", "--size", 96, "--epochs", 2, "--batch-size", 4, "--device", "cpu",
         "--set", "model.options={width: 0.5}", "--set", "train.bn_batches=1")  # fmt: skip


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code


def test_a_run_is_measured_and_halp_takes_it_to_fewer_milliseconds(tmp_path, capsys):
    root = voc_folder.write(tmp_path / "voc", train=4, test=2)
    dense, table, halp = (tmp_path / name for name in ("dense", "table.json", "halp"))
    data = ("--data", f"voc:{root}")
    layout = ("--set", "train.channels_last=false")
    assert command("train", *SMALL, *data, *layout, "--method", "dense", "--out", dense) == 0
    measured = ("latency", dense, "--batch", 1, "--round-to", 4, "--passes", 1)
    assert command(*measured, "--out", table, "--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(next(iter(told["networks_ms"].values()))) == {"1"}
    aim = ("--method", "halp", "--sparsity", 0.3, "--target", "latency", "--table", table)
    often = (
        "--set",
        "channels.batch=1",
        "--round-to",
        4,
        "--set",
        "method.every=1",
        "--set",
        "method.end=1.0",
    )
    given = (*SMALL, *data, *layout, *aim, *often, "--weights", dense, "--out", halp)
    wide = tmp_path / "wide.json"
    coarse = ("latency", dense, "--batch", 1, "--round-to", 16, "--passes", 1, "--out", wide)
    assert command(*coarse, "--quiet") == 0
    assert command("train", *(wide if one is table else one for one in given)) == 2
    measures = f"Way out: steppe latency {dense} --batch 1 --round-to 4 --out {wide}"
    assert measures in capsys.readouterr().err
    assert command("train", *given) == 0, capsys.readouterr().err
    record = json.loads((halp / "record.json").read_text())
    assert record["removed"]["target"] == "ms"
    assert record["sparsity_reached"] >= 0.25
    small = tmp_path / "small"
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert command("remove", halp, "--out", small, "--onnx") == 0, capsys.readouterr().err
    removed = json.loads((small / "record.json").read_text())["removed"]
    assert removed["onnx"]["error"] < 1e-4
    before, after = removed["parameters"]
    assert after < before
