"""A detector on clean and corrupted images, alone and beside another one."""

import json
import shutil
import weakref

import pytest

import steppe
import voc_folder
from steppe import SteppeError
from steppe.cli.main import main
from steppe.evaluation import make
from steppe.experiment.detection import run
from steppe.vision.detection.loader import DetectionLoader


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = voc_folder.write(tmp_path_factory.mktemp("voc") / "voc", train=4, test=3)
    folder = tmp_path_factory.mktemp("runs")
    for name, sparsity in (("dense", None), ("sparse", 0.5)):
        method = {"name": "dense"} if sparsity is None else {"name": "gmp", "sparsity": sparsity}
        steppe.train(
            {
                "task": "detection",
                "model": {"name": "ssd_small", "options": {"width": 0.5}},
                "data": {"name": f"voc:{root}", "size": 96, "augment": "none"},
                "method": method,
                "train": {"epochs": 6, "batch_size": 4, "lr": 0.02, "bn_batches": 1},
                "device": "cpu",
            },
            out=folder / name,
        )
    return folder


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code


def test_clean_is_what_the_record_says(runs):
    record = json.loads((runs / "dense/record.json").read_text())
    result = make("clean", str(runs / "dense"), {}, []).measure()
    for name in ("map", "map50", "map50_11", "classes"):
        assert result[name] == record["sparse"][name]


def test_mean_precision_under_corruption_and_r_c(runs):
    given = {"corruptions": "brightness,fog", "severities": "1,5", "beside": str(runs / "dense")}
    evaluation = make("corruptions", str(runs / "sparse"), given, [])
    result = evaluation.measure()
    cells = result["map50"]
    assert {k: set(v) for k, v in cells.items()} == {k: {"1", "5"} for k in ("brightness", "fog")}
    values = [v for own in cells.values() for v in own.values()]
    assert result["mean_run"] == pytest.approx(sum(values) / 4)
    assert result["images"] == 3
    assert result["part"] == "test", "a report lays pictures of one part beside each other"
    assert result["beside"]["run"] == str(runs / "dense")
    line = evaluation.line(result, {})
    assert "the mean over brightness, fog at severities 1, 5; " in line
    worst = min(cells, key=lambda name: min(cells[name].values()))
    assert f"on clean ones; worst: {worst}; beside" in line
    own = make("corruptions", str(runs / "dense"), {**given, "beside": None}, []).measure()
    assert own["map50"] == result["beside"]["map50"]


@pytest.mark.parametrize("kind", ["fog", "snow"])
def test_of_one_kind_none_is_the_worst(runs, kind):
    given = {"corruptions": kind, "severities": "3", "limit": 1}
    evaluation = make("corruptions", str(runs / "dense"), given, [])
    line = evaluation.line(evaluation.measure(), {})
    assert line.startswith("mean precision at overlap 0.5 on 1 corrupted image: ")
    assert f"the mean over {kind} at severity 3; " in line
    assert "worst" not in line


def test_a_few_images_are_kept_with_what_was_found(runs):
    names = ["brightness", "fog", "snow"]
    given = {"corruptions": ",".join(names), "severities": "1,4", "beside": str(runs / "dense")}
    result = make("corruptions", str(runs / "sparse"), given, []).measure()
    kept = [(e["index"], e.get("corruption"), e.get("severity")) for e in result["examples"]]
    shown = [(None, None), ("brightness", 4), ("snow", 4)]
    assert kept == [(i, *how) for how in shown for i in (0, 1)]
    for own, other in zip(result["examples"], result["beside"]["examples"], strict=True):
        assert own["image"] == other["image"], "both saw the same pixels"
        assert own["image"].startswith("data:image/jpeg;base64,")
        assert {row[4] for row in own["objects"]} == {"bar", "square"}
        assert all(score >= own["least"] for *_, score in own["found"])
    clean, fogged = result["examples"][0], result["examples"][2]
    assert clean["objects"] == fogged["objects"]
    assert clean["image"] != fogged["image"]
    beside = make("clean", str(runs / "dense"), {}, []).measure()
    assert beside["examples"] == result["beside"]["examples"][:2], "the same images as they were"


def test_r_c_is_the_share_that_is_left(monkeypatch, runs):
    evaluation = make("corruptions", str(runs / "dense"), {"severities": "2", "limit": 1}, [])
    result = evaluation.measure()
    clean = result["clean"]["map50"]
    assert len(result["map50"]) == 19
    wanted = result["mean_19"] / clean if clean else 0.0
    assert result["r_c_19"] == pytest.approx(wanted)
    assert "mAP_C" in evaluation.line(result, {})


def test_the_command_keeps_what_was_measured(runs, capsys):
    assert command("evaluate", runs / "dense", "--on", "clean", "--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    kept = json.loads((runs / "dense/evaluations.json").read_text())
    assert kept[-1]["result"]["map50"] == told["map50"]


def test_images_are_held_a_batch_at_a_time_and_read_by_workers(runs, monkeypatch):
    given = {"corruptions": "brightness", "severities": "1,2"}
    wanted = make("corruptions", str(runs / "dense"), given, []).measure()
    held, most, workers = weakref.WeakSet(), [], []

    class Loader(DetectionLoader):
        def __init__(self, *args, **options):
            workers.append(options["workers"])
            super().__init__(*args, **options)

        def epoch(self, number, start=0):
            for x, y in super().epoch(number, start):
                assert len(x) == 1
                held.add(x)
                most.append(len(held))
                yield x, y
                del x

    folder = runs / "with-workers"
    shutil.copytree(runs / "dense", folder)
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("workers: 0", "workers: 1"))
    monkeypatch.setattr(run, "DetectionLoader", Loader)
    monkeypatch.setattr(run, "TESTED", 1)
    got = make("corruptions", str(folder), given, []).measure()
    assert got["map50"] == wanted["map50"]
    assert workers == [1]
    assert len(most) == 3 * 3, "each of three images as it is and at two severities"
    assert max(most) <= 2, "the one before is let go as the next comes"


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("attacks", {}, "got .*, a detector"),
        ("clean", {"severities": "1"}, "Way out: --on corruptions, or leave it out"),
        ("clean", {"part": "validation"}, "holds images out"),
        ("corruptions", {"corruptions": "snwo"}, "did you mean snow"),
        ("corruptions", {"limit": 0}, "1 or more"),
        ("corruptions", {"beside": "."}, "a run is a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(runs, name, given, said):
    with pytest.raises(SteppeError, match=said):
        make(name, str(runs / "dense"), given, []).measure()
