"""steppe train for detectors, as a user types it; what comes of it is removed and read again."""

import json
import sys

import pytest

import voc_folder
from steppe.cli.main import main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return voc_folder.write(tmp_path_factory.mktemp("voc") / "voc", train=8, test=3)


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code


SMALL = ("--size", 96, "--batch-size", 4, "--device", "cpu", "--set", "data.augment=none", "--lr",
         0.02, "--set", "model.options={width: 0.5}", "--set", "train.bn_batches=2")  # fmt: skip


def test_trained_removed_and_measured(root, tmp_path, capsys):
    dense, run, small = tmp_path / "dense", tmp_path / "run", tmp_path / "small"
    data = ("train", "--task", "detection", "--model", "ssd_small", "--data", f"voc:{root}")
    assert command(*data, "--method", "dense", "--epochs", 40, "--out", dense, *SMALL) == 0
    said = capsys.readouterr().err
    (told,) = [line for line in said.splitlines() if line.startswith("one input takes")]
    assert "->" not in told, "nothing is removed: one network, one time, one size"
    code = command(
        *(*data, "--method", "taylor", "--sparsity", 0.2, "--target", "flops", "--round-to", 1),
        *("--set", "method.every=1", "--epochs", 20, "--weights", dense, "--out", run, *SMALL),
    )
    said = capsys.readouterr().err
    assert code == 0, said
    assert "mean precision at overlap 0.5" in said
    assert "% fewer multiply-adds" in said
    (told,) = [line for line in said.splitlines() if line.startswith("one input takes")]
    assert "->" in told.partition(" ms")[2], "what of its size is gone"
    assert command("remove", run, "--out", small) == 0
    assert ", 1 thread\n" in capsys.readouterr().err
    record = json.loads((small / "record.json").read_text())
    assert record["removed"]["error"] < 1e-5
    assert "latency_ms_64" not in record["removed"]
    for folder in (run, small):
        assert command("evaluate", folder, "--on", "clean", "--json", "--quiet") == 0
    assert capsys.readouterr().out
    kept = [json.loads((f / "evaluations.json").read_text())[0]["result"] for f in (run, small)]
    assert kept[0]["map50"] > 0.2
    assert kept[0]["map50"] == pytest.approx(kept[1]["map50"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "detecton"), "did you mean detection"),
        (("--task", "detection", "--method", "gmp", "--sparsity", 0.5), "on which images"),
        (("digits", "--task", "detection"), "--task is for runs without a recipe"),
        (("digits", "--skip-invalid"), "--skip-invalid is for training of task detection"),
        (("digits", "--data", "voc:nowhere"), "Way out: a recipe of task detection, such as detec"),
        (("detection/bccd", "--method", "wanda"), "takes a method that trains"),
        (("digits", "--method", "wanda"), "takes a method that trains"),
        (("digits", "--size", 64), "--size is for training of task detection"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said, capsys):
    assert command("train", *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("data", "arguments", "said"),
    [
        ("voc:{}", (), "got voc:{}, a dataset of objects with boxes. Way out: --task detection"),
        ("{}", (), "got {}, a dataset of objects with boxes. Way out: --task detection"),
        ("voc:nowhere", (), "got voc:nowhere, a dataset of objects with boxes. Way out: --task"),
        ("coco:nowhere", (), "got coco:nowhere, a dataset of objects with boxes. Way out: --task"),
        ("hub:owner/name", (), "a dataset of objects with boxes. Way out: --task detection"),
        (
            "digits",
            ("--model", "ssd_small"),
            "got ssd_small, a detector. Way out: --task detection",
        ),
        ("voc:{}", ("--skip-invalid",), "Way out: --task detection, or leave it out"),
    ],
)
def test_a_forgotten_task_is_named(root, tmp_path, capsys, data, arguments, said):
    named = ("--data", data.format(root), "--method", "dense", "--out", tmp_path / "run")
    assert command("train", *named, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said.format(root) in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "ssd_small"), "Way out: a recipe of task detection, such as detection/bccd"),
        (("--data", "voc:nowhere"), "Way out: a recipe of task detection, such as detection/bccd"),
        (("--epochs", 0), "Way out: --epochs 1 or more"),
    ],
)
def test_beside_a_recipe_only_what_works_there_is_said(tmp_path, capsys, arguments, said):
    assert command("train", "digits", *arguments, "--out", tmp_path / "run") == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_is_called_as_its_layout_is_no_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "voc").mkdir()
    monkeypatch.chdir(tmp_path)
    assert command("train", "--data", "voc:voc", "--method", "dense", "--out", "run") == 2
    assert "Way out: --task detection" in capsys.readouterr().err


def test_a_module_that_is_called_as_a_layout_is_the_users(tmp_path, monkeypatch, capsys):
    (tmp_path / "coco.py").write_text("def data(): return {}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "coco", raising=False)
    assert command("train", "--data", "coco:data", "--method", "dense", "--out", "run") == 2
    assert "a function of data gives a mapping" in capsys.readouterr().err
    sys.modules.pop("coco")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("voc:nowhere", "got nowhere, which is no folder. Way out: --data voc:FOLDER"),
        ("coco:nowhere", "got nowhere, which is not there. Way out: --data coco:FOLDER"),
        ("coco:{}", "Way out: --data voc:{}"),
        ("digits", "Way out: --data coco:PLACE"),
    ],
)
def test_data_that_are_not_there_are_one_line_with_a_way_out(root, tmp_path, capsys, data, said):
    named = ("--data", data.format(root), "--method", "dense", "--out", tmp_path / "run")
    assert command("train", "--task", "detection", *named) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said.format(root) in lines[0]
