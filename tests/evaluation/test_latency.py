"""One image is timed in a run and beside the dense one, for detectors and classifiers alike."""

import json
import shutil

import pytest
import torch

import steppe
import voc_folder
from steppe import SteppeError
from steppe.cli import verb_remove
from steppe.cli.main import main
from steppe.core.speed import Speed
from steppe.evaluation import ensure, latency, make
from steppe.evaluation.detection.clean import CleanDetection
from steppe.experiment import channels
from steppe.removal.forward_timing import layout_of


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
    wider = {"name": "ssd_small", "options": {"width": 0.5, "ratios": [[2.0]] * 4}}
    steppe.train(plain | {"method": "dense", "model": wider}, out=out / "another")
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


def test_times_are_kept_as_long_as_the_table_is_the_same(folder, tmp_path, monkeypatch):
    small, table = tmp_path / "small", tmp_path / "table.json"
    shutil.copytree(folder / "small", small)
    shutil.copy(folder / "table.json", table)
    measured = []
    measure = latency.RunLatency.measure
    monkeypatch.setattr(
        latency.RunLatency, "measure", lambda self: (measured.append(1), measure(self))[1]
    )
    given = {"beside": str(folder / "dense"), "table": str(table), "threads": 1}
    first = ensure("latency", str(small), given)
    assert ensure("latency", str(small), given) == first
    assert len(measured) == 1
    other = json.loads(table.read_text())
    for points in other["networks"].values():
        for point in points.values():
            point[:2] = [2 * ms for ms in point[:2]]
    table.write_text(json.dumps(other))
    again = ensure("latency", str(small), given)
    assert len(measured) == 2
    assert again["predicted_ms"] == pytest.approx([2 * ms for ms in first["predicted_ms"]])
    entries = json.loads((small / "evaluations.json").read_text())
    own = [e["result"] for e in entries if e["options"]["table"] == str(table)]
    assert own == [again], "the earlier one is gone"


@pytest.fixture(scope="module")
def last(folder):
    """The smaller detector as if it had trained in channels last; a table of that format."""
    own = folder / "last"
    shutil.copytree(folder / "small", own)
    record = json.loads((own / "record.json").read_text())
    record["precision"]["channels_last"] = True
    (own / "record.json").write_text(json.dumps(record))
    table = ("--out", folder / "last.json", "--batch", "1", "--round-to", "4", "--passes", "1")
    typed("latency", folder / "dense", *table, "--threads", "1", "--channels-last", "--quiet")
    return own


def test_networks_are_timed_in_the_memory_format_of_the_run(folder, last, monkeypatch):
    formats = []
    compared = latency.compare

    def watched(dense, own, example, reason):
        of_images = example.is_contiguous(memory_format=torch.channels_last)
        formats.append((layout_of(dense), layout_of(own), of_images))
        return compared(dense, own, example, reason)

    monkeypatch.setattr(latency, "compare", watched)
    given = {"beside": str(folder / "dense"), "threads": 1}
    for run, table, layout in (
        ("last", "last.json", "channels last"),
        ("small", "table.json", "contiguous"),
    ):
        whole = given | {"table": str(folder / table)}
        evaluation = make("latency", str(folder / run), whole, [])
        result = evaluation.measure()
        assert result["layout"] == layout
        assert 0 < result["predicted_ms"][1] < result["predicted_ms"][0]
        assert ("both channels last" in evaluation.line(result, {})) == (run == "last")
    there, plain = torch.channels_last, torch.contiguous_format
    assert formats == [(there, there, True), (plain, plain, False)]


def test_a_table_of_other_conditions_is_refused(folder, last):
    elsewhere = json.loads((folder / "table.json").read_text())
    elsewhere["conditions"]["device"] = "another processor"
    (folder / "elsewhere.json").write_text(json.dumps(elsewhere))
    for run, table, threads, said in (
        ("last", "table.json", 1, "the layout .*contiguous in .*table.json, channels last here"),
        ("small", "last.json", 1, "the layout .*channels last in .*last.json, contiguous here"),
        ("small", "table.json", 2, "the threads .*1 in .*table.json, 2 here"),
        ("small", "elsewhere.json", 1, "the device .*another processor in"),
    ):
        given = {"beside": str(folder / "dense"), "table": str(folder / table), "threads": threads}
        with pytest.raises(SteppeError, match=said) as refused:
            make("latency", str(folder / run), given, []).measure()
        assert "\n" not in str(refused.value)


def test_without_the_widths_that_are_left_nothing_is_predicted(folder, tmp_path):
    """As of a run whose gains could not be measured; else it were predicted as the dense one."""
    shutil.copytree(folder / "small", tmp_path / "small")
    record = json.loads((tmp_path / "small/record.json").read_text())
    del record["removed"]["widths"]
    (tmp_path / "small/record.json").write_text(json.dumps(record))
    given = {"beside": str(folder / "dense"), "table": str(folder / "table.json"), "threads": 1}
    with pytest.raises(SteppeError, match=r"does not say them.*steppe remove once more"):
        make("latency", str(tmp_path / "small"), given, []).measure()
    del given["table"]
    assert make("latency", str(tmp_path / "small"), given, []).measure()["measured"]["turns"] > 0


def test_channels_are_removed_and_timed_in_the_memory_format_of_the_run(folder, tmp_path):
    run, seen = tmp_path / "run", []
    shutil.copytree(folder / "pruned", run)
    record = json.loads((run / "record.json").read_text())
    record["precision"]["channels_last"] = True
    (run / "record.json").write_text(json.dumps(record))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            verb_remove, "gains", lambda *given: (seen.append(given), channels.gains(*given))[1]
        )
        typed("remove", run, "--out", tmp_path / "small", "--quiet")
    ((dense, removed, example, *_),) = seen
    assert layout_of(dense) is layout_of(removed.model) is torch.channels_last
    assert example.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--beside DENSE_RUN"),
        ({"beside": "dense", "threads": 0}, "--threads is 1 or more"),
        ({"beside": "small"}, "the run itself"),
        ({"beside": "nowhere"}, "a run is a folder"),
        ({"beside": "another"}, "the dense one that it was made of"),
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


@pytest.mark.parametrize(
    ("on", "given", "said"),
    [
        (
            "clean,latency",
            ("--beside", "dense", "--table", "dense/record.json"),
            "latency dense --",
        ),
        ("clean,latency", (), "--beside DENSE_RUN"),
        ("clean,corruptions", ("--corruptions", "fogg"), "did you mean fog"),
        ("clean,corruptions", ("--limit", "0"), "number of images of 1 or more"),
    ],
)
def test_options_of_all_measurements_are_looked_at_before_the_first(
    folder, on, given, said, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(CleanDetection, "measure", lambda self: pytest.fail("it was measured"))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "small", "--on", on, *given])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
