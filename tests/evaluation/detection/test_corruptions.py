"""A detector on clean and corrupted images, alone and beside another one."""

import json
import re
import shutil
import weakref
from pathlib import Path

import pytest
import yaml
from PIL import Image

import steppe
import voc_folder
from steppe import SteppeError
from steppe.cli.main import main
from steppe.evaluation import make
from steppe.evaluation.detection import DETECTION
from steppe.experiment.detection import run
from steppe.vision.detection.loader import DetectionLoader


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Detectors that find something, so that no two figures are alike because both are 0."""
    root = voc_folder.write(tmp_path_factory.mktemp("voc") / "voc", train=8, test=3)
    folder = tmp_path_factory.mktemp("runs")
    for name, sparsity in (("dense", None), ("sparse", 0.5)):
        method = {"name": "dense"} if sparsity is None else {"name": "gmp", "sparsity": sparsity}
        steppe.train(
            {
                "task": "detection",
                "model": {"name": "ssd_small", "options": {"width": 0.5}},
                "data": {"name": f"voc:{root}", "size": 96, "augment": "none"},
                "method": method,
                "train": {
                    "epochs": 40,
                    "batch_size": 4,
                    "lr": 0.02,
                    "bn_batches": 2,
                    "eval_every": 0,
                },
                "device": "cpu",
            },
            out=folder / name,
        )
        record = json.loads((folder / name / "record.json").read_text())
        assert record["sparse"]["map50"] > 0.2, "there is something to measure"
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
    assert max(values) > 0
    assert result["map50"] != own["map50"], "two networks"


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
    assert any(one["found"] for one in result["examples"])
    assert any(one["found"] for one in result["beside"]["examples"])
    clean, fogged = result["examples"][0], result["examples"][2]
    assert clean["objects"] == fogged["objects"]
    assert clean["image"] != fogged["image"]
    beside = make("clean", str(runs / "dense"), {}, []).measure()
    assert beside["examples"] == result["beside"]["examples"][:2], "the same images as they were"


def test_r_c_is_the_share_that_is_left(runs):
    evaluation = make("corruptions", str(runs / "dense"), {"severities": "2", "limit": 1}, [])
    result = evaluation.measure()
    clean = result["clean"]["map50"]
    assert clean > 0
    assert len(result["map50"]) == 19
    assert result["r_c_19"] == pytest.approx(result["mean_19"] / clean)
    assert 0 < result["r_c_19"] < 1
    assert "mAP_C" in evaluation.line(result, {})
    nothing = result | {"r_c_19": None, "r_c_15": None}
    assert (
        evaluation.line(nothing, {}).count("(no R_C, as nothing is right on the clean ones)") == 2
    )


def test_a_limit_or_a_part_that_leaves_nothing_to_find_is_refused(runs, tmp_path):
    root = voc_folder.write(tmp_path / "voc", train=4, test=3)
    folder = shutil.copytree(runs / "dense", tmp_path / "run")
    recipe = folder / "recipe.yaml"
    names = recipe.read_text()
    recipe.write_text(re.sub("name: voc:.*", f"name: voc:{root}", names))
    stems = (root / "ImageSets/Main/test.txt").read_text().split()
    hard = [("square", 1, 1, 20, 20, 1)]
    for stem, objects in ((stems[0], []), (stems[1], hard)):
        text = voc_folder.annotation(stem, objects)
        (root / f"Annotations/{stem}.xml").write_text(text)
    for limit in (1, 2):
        given = {"corruptions": "fog", "severities": "1", "limit": limit}
        with pytest.raises(SteppeError, match=r"object that counts.*--limit 3 or more"):
            make("corruptions", str(folder), given, []).measure()
    given = {"corruptions": "fog", "severities": "1", "limit": 3}
    assert make("corruptions", str(folder), given, []).measure()["images"] == 3
    shown = make("clean", str(folder), {}, []).measure()["examples"]
    assert [len(one["objects"]) for one in shown] == [0, 1], "shown, which is not measured"
    for stem in (root / "ImageSets/Main/trainval.txt").read_text().split():
        text = (root / f"Annotations/{stem}.xml").read_text()
        text = text.replace("<difficult>0", "<difficult>1")
        (root / f"Annotations/{stem}.xml").write_text(text)
    with pytest.raises(SteppeError, match=r"8 difficult objects or crowds in 4 train images"):
        make("clean", str(folder), {"part": "train"}, []).measure()


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
    assert max(got["map50"]["brightness"].values()) > 0
    assert workers == [1]
    assert len(most) == 3 * 3, "each of three images as it is and at two severities"
    assert max(most) <= 2, "the one before is let go as the next comes"


def test_the_other_run_may_have_the_same_data_elsewhere_but_no_other_objects(runs, tmp_path):
    text = (runs / "dense/recipe.yaml").read_text()
    root = Path(yaml.safe_load(text)["data"]["name"].removeprefix("voc:"))
    (tmp_path / "link").symlink_to(root)
    shutil.copytree(root, tmp_path / "copy")
    shutil.copytree(root, tmp_path / "moved")
    stem = (root / "ImageSets/Main/test.txt").read_text().split()[0]
    annotation = tmp_path / "moved/Annotations" / f"{stem}.xml"
    told = annotation.read_text()
    annotation.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>1</xmin>", told, count=1))
    shutil.copytree(root, tmp_path / "blurred")
    picture = tmp_path / "blurred/JPEGImages" / f"{stem}.jpg"
    with Image.open(picture) as image:
        image.convert("L").convert("RGB").save(picture)
    for place, same in (("link", True), ("copy", True), ("moved", False), ("blurred", False)):
        other = tmp_path / f"run-{place}"
        shutil.copytree(runs / "dense", other)
        (other / "recipe.yaml").write_text(text.replace(str(root), str(tmp_path / place)))
        measured = make("clean", str(runs / "sparse"), {"beside": str(other)}, [])
        if same:
            assert measured.measure()["beside"]["map50"] > 0.2
        else:
            with pytest.raises(SteppeError, match="test images are others, or labelled otherwise"):
                measured.measure()


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


@pytest.mark.parametrize(
    ("kinds", "worst"), [({"fog": 0.4}, ""), ({"fog": 0.4, "snow": 0.3}, "; worst: snow")]
)
def test_one_kind_alone_is_not_the_worst(kinds, worst):
    cells = {kind: {"3": value} for kind, value in kinds.items()}
    result = {"map50": cells, "severities": [3], "images": 2, "clean": {"map50": 0.5}}
    line = DETECTION["corruptions"](run="run").line(result | {"mean_run": 0.35}, {})
    assert line.endswith(f"0.500 on clean ones{worst}")
