"""steppe train: a killed run goes on, a recipe reproduces its run, bad input gets one line."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from nursery import KILLED, Nursery
from steppe.cli.main import main
from steppe.core.protocols import Budget, ChannelBudget, UnitBudget
from steppe.core.serialization import load_state
from steppe.core.text import read_yaml
from steppe.record import SCHEMA_VERSION, checked

SMALL = {
    "model": {"name": "small-cnn"},
    "data": {"name": "digits", "train_size": 640},
    "method": {"name": "safe_plus", "score": "fisher", "sparsity": 0.9, "interval": 4},
    "train": {"epochs": 20, "batch_size": 64, "lr": 0.1, "checkpoint_steps": 2, "bn_batches": 5},
    "device": "cpu",
}


def write(path: Path, recipe: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", SMALL)
    with Nursery("steppe.experiment.experiment", "torch._dynamo", "sklearn.datasets") as nursery:

        def start(out: str, **when: Any) -> dict[str, Any]:
            arguments = ["train", str(recipe), "--out", str(tmp_path / out)]
            return nursery.run(arguments, tmp_path / out, **when)

        undisturbed = start("whole")
        assert undisturbed["code"] == 0, undisturbed["said"]
        draw = random.Random(0)
        kills = 0
        while kills < 10 and not (tmp_path / "killed/record.json").exists():
            # the moment counts from some checkpoint on, so that every start gets a little further
            kill, seconds = draw.randrange(25, 40), draw.uniform(0.0, 0.1)
            assert start("killed", kill=kill, seconds=seconds)["code"] == KILLED
            kills += 1
        assert kills == 10, f"the run ended after {kills} kills"
        last = start("killed")
        assert last["code"] == 0, last["said"]
        assert 100 < last["operations"] < undisturbed["operations"], "it began again"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("model.safetensors", "masks.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    metrics = [(f / "metrics.jsonl").read_text() for f in (whole, killed)]
    assert metrics[0] == metrics[1]


def test_recipe_of_a_run_reproduces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = "--method gmp --sparsity 0.9 --epochs 2 --train-size 256 --lr 0.1 --seed 3"
    run("train", *flags.split(), "--device", "cpu", "--out", "a", "--quiet")
    run("train", "a/recipe.yaml", "--out", "b", "--quiet")
    a, b = (load_file(tmp_path / run / "model.safetensors") for run in "ab")
    assert all((a[key] == b[key]).all() for key in a)
    record = json.loads((tmp_path / "b/record.json").read_text())
    assert (record["method"], record["method_display"]) == ("gmp", "GMP")
    assert checked(record, "b")["schema_version"] == SCHEMA_VERSION
    zeros = sum(int((a[layer["name"]] == 0).sum()) for layer in record["layers"])
    assert zeros == round(0.9 * sum(layer["total"] for layer in record["layers"]))


def without_notes(shown: str) -> list[str]:
    """The lines but for those on what the run gave, which are said also when quiet."""
    return [line for line in shown.strip().splitlines() if not line.startswith("note: ")]


TINY = ["--train-size", "64", "--epochs", "1", "--batch-size", "32", "--device", "cpu"]


def stored(out: Path) -> dict[str, Any]:
    text: dict[str, Any] = read_yaml((out / "recipe.yaml").read_text())
    return text


def test_what_the_coupling_chose_is_said_and_a_failure_also_when_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--method", "safe", "--sparsity", "0.9", "--penalty", "auto", "--interval", "2", *TINY]
    run("train", *given, "--out", tmp_path / "out")
    shown = " ".join(capsys.readouterr().err.split())
    assert "coupling admm: penalty auto, interval 2, updates 1, " in shown
    assert "; perturb sam: rho 0.1" in shown
    assert "safe, small-cnn on digits: 90.00% zeros" in shown
    assert "estimated from 2 batches" in shown
    assert stored(tmp_path / "out")["method"]["interval"] == 2
    run("train", *given, "--lr", "1e-9", "--out", tmp_path / "quiet", "--quiet")
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "guessing among 10 classes" in line
    given[given.index("auto")] = "0.1"
    run("train", *given, "--out", tmp_path / "number", "--quiet")
    coupling = json.loads((tmp_path / "number" / "record.json").read_text())["coupling"]
    assert coupling == {"penalty": 0.1, "interval": 2.0}


def test_another_network_takes_nothing_of_the_one_before(tmp_path: Path) -> None:
    recipe = SMALL | {"model": {"name": "resnet20", "options": {"width": 2}}}
    recipe["train"] = {"optimizer_groups": [{"kind": "norm", "weight_decay": 0}]}
    file = write(tmp_path / "r.yaml", recipe | {"method": "dense"})
    given = ["--model", "small-cnn", "--set", "train.optimizer_groups=null", *TINY, "--quiet"]
    run("train", file, "--out", tmp_path / "out", *given)
    assert stored(tmp_path / "out")["model"] == {
        "name": "small-cnn",
        "weights": None,
        "options": {},
    }
    assert "optimizer_groups" not in stored(tmp_path / "out")["train"]


def test_a_finished_run_is_not_done_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "magnitude", "--sparsity", "0.5", "--epochs", "1", "--train-size", "256"]
    out = tmp_path / "run"
    run("train", *flags, "--out", out, "--quiet")
    stamp = (out / "record.json").stat().st_mtime_ns
    run("train", *flags, "--out", out, "--json")
    shown = capsys.readouterr()
    assert "finished before" in shown.err
    assert json.loads(shown.out)["sparsity_asked"] == 0.5
    assert (out / "record.json").stat().st_mtime_ns == stamp


def test_any_key_of_the_recipe_can_be_set(tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe.yaml", SMALL | {"method": {"name": "lasso", "sparsity": 0.5}})
    given = ["--set", "method.alpha=1e-3", "--set", "train.label_smoothing=0.1"]
    given += ["--set", "train.optimizer_groups=[{kind: norm, weight_decay: 0}]"]
    given += ["--set", "train.optimizer_groups.0.lr=0.01"]
    given += ["--set", "seed=3", "--set", "exclude=[conv1*]", "--set", "exclude.0=conv2*"]
    run("train", recipe, "--out", tmp_path / "out", *given, "--quiet")
    held = read_yaml((tmp_path / "out" / "recipe.yaml").read_text())
    assert held["method"]["alpha"] == 1e-3
    assert held["train"]["label_smoothing"] == 0.1
    assert (held["seed"], held["exclude"]) == (3, ["conv2*"])
    assert held["train"]["optimizer_groups"] == [{"kind": "norm", "weight_decay": 0, "lr": 0.01}]


def test_an_option_of_an_exchanged_part_is_a_note_and_the_flag_names_the_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = {"name": "safe", "sparsity": 0.5, "rho": 0.3, "perturb": "asam"}
    recipe = write(tmp_path / "recipe.yaml", SMALL | {"method": method})
    changes = ["--set", "train.epochs=1", "--set", "method.coupling=hard_mask"]
    run("train", recipe, "--out", tmp_path / "refused", *changes, "--penalty", "0.3", code=2)
    assert "exchanged for coupling hard_mask" in capsys.readouterr().err
    changes += ["--set", "method.interval=4"]
    run("train", recipe, "--out", tmp_path / "out", *changes)
    shown = capsys.readouterr().err
    for note in ("method.rho 0.3 changes nothing: ", "method.interval 4 changes nothing: "):
        assert note in shown


BAD = {
    "sparsity must lie in [0, 1)": ["--method", "safe", "--sparsity", "1.5"],
    "did you mean safe": ["--method", "saef", "--sparsity", "0.5"],
    "did you mean small-cnn": ["--method", "dense", "--model", "smal-cnn"],
    "data is a dataset's name": ["--method", "dense", "--data", "digit"],
    "1 <= N < M": ["--method", "safe", "--structure", "4:2"],
    "a sparsity of 0.5": ["--method", "safe", "--structure", "2:4", "--sparsity", "0.9"],
    "divisible by 4": ["--method", "safe", "--structure", "2:4"],
    "unknown structure": ["--method", "safe", "--structure", "blok", "--sparsity", "0.5"],
    "must match the name": ["--method", "safe", "--sparsity", "0.5", "--exclude", "nothing*"],
    "a sparsity must be given": ["--method", "safe"],
    "unknown option of method gmp": ["--method", "gmp", "--sparsity", "0.5", "--rho", "0.1"],
    "batch_size must lie": ["--method", "dense", "--batch-size", "100000"],
    "needs a recipe or a method": [],
    "No such option": ["--sparsty", "0.5"],
    "did you mean alpha": ["--method", "lasso", "--sparsity", "0.5", "--set", "method.alhpa=1e-3"],
    "train.epoks": ["--method", "lasso", "--sparsity", "0.5", "--set", "train.epoks=3"],
    "read from a table": ["--method", "halp", "--sparsity", "0.5", "--target", "latency"],
    "images held out from training": ["--method", "eagleeye", "--sparsity", "0.5"],
    "takes a method that trains": ["--method", "wanda", "--sparsity", "0.5"],
    "the whole list, --set 'train.optimizer_groups=[...]'": [
        *("--method", "lasso", "--sparsity", "0.5"),
        *("--set", "train.optimizer_groups.0.lr=0.1"),
    ],
    "model.options.init": ["--method", "dense", "--set", "model.init=fan_in"],
    "train.warmup_epochs must be fewer": ["--method", "dense", "--set", "train.warmup_epochs=70"],
    "rho 0.3, of a part that was exchanged": [
        *("--method", "safe", "--sparsity", "0.5", "--rho", "0.3"),
        *("--set", "method.perturb=asam"),
    ],
    "rho 0.1, of a part that was exchanged": [  # its default, and not asam's
        *("--method", "safe", "--sparsity", "0.5", "--rho", "0.1"),
        *("--set", "method.perturb=asam"),
    ],
    "keys of a recipe": ["--method", "lasso", "--sparsity", "0.5", "--set", "method.alpha"],
}


@pytest.mark.parametrize("text", BAD)
def test_bad_input_gets_one_line_and_code_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", *BAD[text], "--out", tmp_path / "out", code=2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert text in lines[0]
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_bad_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "train.epoch": SMALL | {"train": {"epoch": 3}},
        "modle": SMALL | {"modle": {}},
        "train.epochs": SMALL | {"train": {"epochs": "many"}},
        "alpha of method pilot is of type float": SMALL
        | {"method": {"name": "pilot", "sparsity": 0.5, "alpha": "much"}},
        "cycles of method pilot is of type int": SMALL
        | {"method": {"name": "pilot", "sparsity": 0.5, "cycles": 2.5}},
    }
    for text, recipe in cases.items():
        path = write(tmp_path / "recipe.yaml", recipe)
        run("train", path, "--out", tmp_path / "out", code=2)
        shown = capsys.readouterr().err
        assert text in shown
        assert len(shown.strip().splitlines()) == 1
    (tmp_path / "no.yaml").write_text("a: [")
    run("train", tmp_path / "no.yaml", code=2)
    run("train", tmp_path / "missing.yaml", code=2)
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_a_recipe_asks_for_another_objective(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = {"name": "distillation", "temperature": 2.0, "weight": 0.9}
    recipe = SMALL | {"method": {"name": "safe", "sparsity": 0.5, "objective": objective}}
    recipe |= {"train": {"epochs": 1, "batch_size": 320, "bn_batches": 0}}
    path = write(tmp_path / "recipe.yaml", recipe)
    run("train", path, "--out", tmp_path / "out", code=2)
    assert "so it must be trained; got no weights to start from" in capsys.readouterr().err
    dense = write(tmp_path / "dense.yaml", recipe | {"method": "dense"})
    run("train", dense, "--out", tmp_path / "dense", "--quiet")
    run("train", path, "--weights", tmp_path / "dense", "--out", tmp_path / "out", "--quiet")
    written = tmp_path / "out" / "recipe.yaml"
    assert read_yaml(written.read_text())["method"]["objective"] == objective
    run("train", written, "--out", tmp_path / "again", "--quiet")
    ours, again = (load_file(tmp_path / n / "model.safetensors") for n in ("out", "again"))
    assert all(bool((ours[name] == again[name]).all()) for name in ours)
    # any method takes it, as gmp, whose function has no such option
    gmp = ["--method", "gmp", "--sparsity", "0.5", "--set", "method.objective=distillation"]
    run("train", *gmp, "--epochs", "1", "--out", tmp_path / "gmp", "--quiet", code=2)
    assert "so it must be trained" in capsys.readouterr().err


CHANNELS_ONLY = [
    n
    for n in Budget.registry
    if issubclass(Budget.registry[n], ChannelBudget)
    and not issubclass(Budget.registry[n], UnitBudget)
]


@pytest.mark.parametrize("budget", CHANNELS_ONLY)
def test_a_budget_of_coupled_channels_refuses_single_weights(
    budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a recipe of parts, and by name for a language model."""
    method = {"score": "l2", "budget": {"name": budget, "sparsity": 0.5}}
    recipe = write(tmp_path / "recipe.yaml", SMALL | {"method": method})
    run("train", recipe, "--out", tmp_path / "out", code=2)
    run(
        "prune",
        tmp_path / "model",
        "--method",
        "wanda",
        "--sparsity",
        0.5,
        "--budget",
        budget,
        code=2,
    )
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert all(f"budget {budget} chooses among coupled channels" in line for line in said)
    assert all("--target" in line for line in said)
    assert not (tmp_path / "out").exists()


def test_wrong_labels_are_trained_on_and_the_record_knows_the_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise: dict[str, object] = {"rate": 0.3, "kind": "pair_flip"}
    small = {**SMALL, "method": {"name": "dense"}, "train": {"epochs": 6, "lr": 0.1}}

    def train(out: str, noise: dict[str, object] | None, code: int = 0) -> None:
        data = {"name": "digits", "train_size": 640, "label_noise": noise}
        recipe = write(tmp_path / f"{out}.yaml", {**small, "data": data})
        run("train", recipe, "--out", tmp_path / out, "--quiet", code=code)

    train("noisy", noise)
    train("clean", None)
    noisy, clean = (
        json.loads((tmp_path / out / "record.json").read_text()) for out in ("noisy", "clean")
    )
    assert noisy["label_noise"]["changed"] == round(0.3 * 640)
    assert 0 < noisy["label_noise"]["given"] + noisy["label_noise"]["clean"] <= 1
    assert "label_noise" not in clean
    assert "label_noise" not in clean["recipe"]["data"]
    assert noisy["recipe"]["data"]["label_noise"] == {**noise, "seed": 0}
    assert noisy["sparse"]["accuracy"] < clean["sparse"]["accuracy"]
    train("bad", {"rate": 2}, code=2)
    train("unknown", {"rate": 0.1, "kind": "pair"}, code=2)
    assert "did you mean pair_flip" in capsys.readouterr().err


def test_a_folder_of_another_recipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "dense", "--epochs", "1", "--train-size", "256", "--quiet"]
    run("train", *flags, "--out", tmp_path / "run")
    run("train", *flags, "--lr", "0.5", "--out", tmp_path / "run", code=2)
    assert "holds one recipe" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    run("train", *flags, "--out", tmp_path / "full", code=2)
    assert (tmp_path / "full/thesis.txt").read_text() == "mine"


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dict(SMALL, method={"name": "dense"})
    # a learning rate that is fine for half the run and absurd afterwards
    rates = {"lr": 0.05, "lr_schedule": "step", "lr_steps": [[2, 1e30]]}
    recipe["train"] = {"epochs": 4, "batch_size": 64} | rates
    run("train", write(tmp_path / "r.yaml", recipe), "--out", tmp_path / "run", "--quiet", code=2)
    shown = capsys.readouterr().err
    assert "the loss must stay finite" in shown
    assert "the last good checkpoint (epoch 2)" in shown
    held = load_state(tmp_path / "run/checkpoints/last.safetensors")
    assert held["epoch"] == 2
    assert all(bool(t.isfinite().all()) for t in held["model"].values())
    assert not (tmp_path / "run/model.safetensors").exists()


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import steppe.core.serialization as tree

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree, "save_file", full)
    flags = ["--method", "dense", "--epochs", "1", "--train-size", "256", "--quiet"]
    run("train", *flags, "--out", tmp_path / "run", code=2)
    assert "No space left" in capsys.readouterr().err
    left = sorted(p.name for p in (tmp_path / "run").rglob("*"))
    assert left == ["checkpoints", "precision.json", "recipe.yaml"]


PILOT = {"name": "pilot", "sparsity": 0.9, "l1_threshold": 100.0, "cycles": 2, "rewind": "weights"}


METHODS_OF_RANKS: dict[str, dict[str, object]] = {
    "safe": {"name": "safe", "sparsity": 0.9},
    "pilot": PILOT,
}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a recipe for each method and what two processes made of it; what they said."""
    folder = tmp_path_factory.mktemp("ranks")
    commands = []
    for name, method in METHODS_OF_RANKS.items():
        recipe = dict(SMALL, model={"name": "lenet-300-100"}, method=method)
        recipe["train"] = {"epochs": 2, "batch_size": 64, "lr": 0.05}
        path = write(folder / f"{name}.yaml", recipe)
        commands.append(["train", str(path), "--out", str(folder / name)])
    (folder / "commands.json").write_text(json.dumps(commands))
    environment = dict(os.environ, OMP_NUM_THREADS="1", HOME=str(folder))
    environment["ACCELERATE_USE_CPU"] = "true"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    several = Path(__file__).parents[1] / "several.py"
    command = [*launch, str(several), str(folder / "commands.json")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def test_of_two_processes_the_first_speaks(two_ranks: tuple[Path, str]) -> None:
    assert two_ranks[1].count("of all parameters)\n") == len(METHODS_OF_RANKS)


@pytest.mark.parametrize("name", METHODS_OF_RANKS)
def test_two_processes_give_the_weights_of_one(
    name: str,
    two_ranks: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = two_ranks
    run("train", folder / f"{name}.yaml", "--out", tmp_path / "one")
    assert capsys.readouterr().err.count("of all parameters)\n") == 1
    one, two = (load_file(path / "model.safetensors") for path in (tmp_path / "one", folder / name))
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5


QUICK = [
    *("train", "--data", "digits", "--train-size", "64", "--model", "small-cnn", "--method", "gmp"),
    *("--sparsity", "0.5", "--epochs", "2", "--batch-size", "32", "--device", "cpu", "--quiet"),
]


@pytest.mark.parametrize("broken", ["_show", "write_report"])
def test_what_is_shown_of_a_run_cannot_cost_it(
    broken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(f"steppe.cli.training.image.{broken}", fails)
    run(*QUICK, "--out", tmp_path / "run", "--json")
    shown = capsys.readouterr()
    lines = without_notes(shown.err)
    assert len(lines) == 1
    assert "an internal error (ZeroDivisionError: float division by zero" in lines[0]
    assert json.loads(shown.out)["sparsity_asked"] == 0.5
    assert (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "record.json", "checkpoints/last.safetensors"]
)
def test_the_end_of_a_run_with_a_damaged_file_is_done_again_and_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run(*QUICK, "--out", out)
    weights = (out / "model.safetensors").read_bytes()
    (out / name).write_bytes(b"\0" * 100)
    if name.startswith("checkpoints"):
        (out / "record.json").unlink()
    run(*QUICK, "--out", out)
    lines = without_notes(capsys.readouterr().err)
    assert len(lines) == 1
    assert "damaged" in lines[0]
    assert (out / "model.safetensors").read_bytes() == weights
    notes = json.loads((out / "record.json").read_text())["notes"]
    assert lines[0].removeprefix("steppe: ") in notes


def test_printed_commands_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my run"
    run(*[word for word in QUICK if word != "--quiet"], "--out", out)
    shown = capsys.readouterr().err
    assert f"steppe evaluate '{out}' --on" in shown
    assert f"; steppe report '{out}'" in shown


def test_plain_parquet_without_class_names_trains_to_the_end_and_says_what_it_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def picture(level: int) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), 1000 * level, np.uint16)).save(file, "png")
        return {"bytes": file.getvalue(), "path": None}

    labels = [i % 4 for i in range(16)]
    for part in ("train", "test"):
        table = pa.table({"image": [picture(label) for label in labels], "label": labels})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    flags = ["--data", tmp_path, "--model", "small-cnn", "--method", "gmp", "--sparsity", "0.5"]
    flags += ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--out", tmp_path / "run"]
    run("train", *flags)
    said = capsys.readouterr().err
    assert said.count("with values in 0..3000 are read as 0..4095; say otherwise") == 1
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert "not_computed" not in record
    assert "0..4095" in record["notes"][0]
    given = ["--set", "data.value_range=[0, 3000]", "--out", tmp_path / "other"]
    run("train", *flags[:-2], *given)
    assert "0..4095" not in capsys.readouterr().err
