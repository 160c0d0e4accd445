"""One image is timed in a run and beside the dense one, for detectors and classifiers alike."""

import json

import pytest

import steppe
import voc_folder
from steppe import SteppeError
from steppe.cli.main import main
from steppe.core.speed import Speed
from steppe.evaluation import make


def typed(*words):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert not ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense detector, one of which channels are gone, and the table of the dense one's layers."""
    root = voc_folder.write(tmp_path_factory.mktemp("voc") / "voc", train=4, test=2)
    out = tmp_path_factory.mktemp("runs")
    plain = {
        "task": "detection",
        "model": {"name": "ssd_small", "options": {"width": 0.25}},
        "data": {"name": f"voc:{root}", "size": 64, "augment": "none"},
        "train": {"epochs": 1, "batch_size": 4, "bn_batches": 1, "eval_every": 0},
        "device": "cpu",
    }
    steppe.train(plain | {"method": "dense"}, out=out / "dense")
    method = {"name": "taylor", "sparsity": 0.3, "every": 1}
    channels = {"target": "flops", "round_to": 4}
    steppe.train(plain | {"method": method, "channels": channels}, out=out / "pruned")
    typed("remove", out / "pruned", "--out", out / "small", "--quiet")
    table = ("--out", out / "table.json", "--batch", "1", "--round-to", "4", "--passes", "1")
    typed("latency", out / "dense", *table, "--threads", "1", "--quiet")
    return out


@pytest.fixture(scope="module")
def timed(folder):
    given = ("--beside", folder / "dense", "--table", folder / "table.json", "--threads", "1")
    typed("evaluate", folder / "small", "--on", "latency", *given, "--quiet")
    (entry,) = json.loads((folder / "small/evaluations.json").read_text())
    return entry["result"]


def test_a_smaller_detector_is_predicted_from_the_layers_and_measured(timed):
    dense, own = timed["predicted_ms"]
    assert 0 < own < dense, "fewer channels in every layer"
    assert timed["parameters"][1] < timed["parameters"][0]
    assert timed["measured"]["reason"] == "channels are removed"
    assert timed["measured"]["dense_ms"] > 0
    assert timed["threads"] == 1


def test_a_run_that_still_holds_its_zeros_is_not_timed(folder):
    with pytest.raises(SteppeError, match=r"as zeros.*steppe remove"):
        make("latency", str(folder / "pruned"), {"beside": str(folder / "dense")}, []).measure()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--beside DENSE_RUN"),
        ({"beside": "dense", "threads": 0}, "--threads is 1 or more"),
        ({"beside": "small"}, "the run itself"),
        ({"beside": "nowhere"}, "a run is a folder"),
        ({"beside": "dense", "table": "dense/record.json"}, "a latency table is a file"),
    ],
)
def test_what_cannot_be_timed_is_refused(folder, given, said):
    own = {k: str(folder / v) if isinstance(v, str) else v for k, v in given.items()}
    with pytest.raises(SteppeError, match=said):
        make("latency", str(folder / "small"), own, []).measure()


def test_the_line_has_no_median_beside_the_ratio_that_may_contradict_it():
    speed = Speed.of([(5.8, 5.5)] * 14 + [(5.0, 9.0)] * 11, "channels are removed")
    line = make("latency", "run", {"beside": "dense"}, []).line({"measured": speed.record()}, {})
    assert f"{speed.ratio:.2f}x" in line
    assert f"{speed.sparse_ms:.3g} ms" in line
    assert f"{speed.dense_ms:.3g}" not in line
