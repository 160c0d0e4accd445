"""A report of detectors: mean precision where classifiers have accuracy, and what was found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from detector_records import IMAGE, detector
from steppe.report.detections import strips
from steppe.report.document import Document
from steppe.report.html import write_report
from steppe.report.markdown import markdown


def uncounted(run: dict[str, Any]) -> dict[str, Any]:
    """As a dense run is: nobody counted its multiply-adds."""
    return run | {key: {**run[key], "flops": None} for key in ("dense", "sparse")}


def runs() -> list[dict[str, Any]]:
    return [
        *(uncounted(detector("dense", None, seed)) for seed in (0, 1)),
        *(detector("halp", 0.4, seed, 0.69 - 0.01 * seed, 0.5) for seed in (0, 1)),
        *(detector("adasap", 0.4, seed, 0.66, 0.7) for seed in (0, 1)),
    ]


def test_numbers_are_mean_precisions_in_percent() -> None:
    held = Document.of(runs(), title="x", figures=False)
    tables = {caption.partition(":")[0]: rows for caption, rows in held.tables}
    quality = tables["Quality"]
    assert [c.label for c in quality.columns] == [
        *("mAP@0.5, %", "mAP@0.5:0.95, %", "Loss", "AP@0.5, red cell, %")
    ], "a class without objects has no column"
    halp = next(row for row in quality.rows if row.method == "halp")
    assert quality.columns[0].show(halp.cells["map50"], 2) == "68.50 ± 0.50"
    size = tables["Size and cost"]
    dense = next(row for row in size.rows if row.method == "dense").cells["flops"]
    assert dense is not None
    assert dense.mean == 1e9, "counted in the runs that prune"
    shown = {c.label: c.show(halp.cells[c.key], 2) for c in size.columns}
    assert shown["Multiply-adds, million"] == "600.0"
    assert shown["Parameters left"] == "600"
    assert shown["Predicted latency (dense 9), ms"] == "5.4"
    changed = [c.label for c in tables["Corrupted images"].columns]
    assert changed[0] == "mAP_C, mean of fog, snow, gaussian noise, severities 3, 5, %"


def test_no_page_of_detectors_speaks_of_accuracy_or_of_zeros(tmp_path: Any) -> None:
    write_report(tmp_path / "report.html", title="Detectors", records=runs())
    page = (tmp_path / "report.html").read_text()
    seen = re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style.*?</style>", "", page))
    for text in (seen, markdown(runs(), title="Detectors")):
        assert "accura" not in text.lower()
        assert "% zeros" not in text
        assert "40 % fewer multiply-adds" in text
    assert "HALP is as precise as the dense network" not in page, "1.5 points are lost"
    assert "every method is below the dense network in mAP@0.5 (70.00 %); HALP" in page
    assert "Precision is highest on corrupted images: AdaSAP" in page


def test_what_was_found_stands_beside_each_other() -> None:
    shown = strips(runs())
    assert [s.title for s in shown] == ["Image 1", "Image 1, gaussian noise at severity 5"]
    for strip in shown:
        assert [p.title for p in strip.panels] == ["labelled", "dense", "HALP 40 %", "AdaSAP 40 %"]
        labelled, dense, *_ = strip.panels
        assert [box.said for box in labelled.boxes] == ["red cell", "v1.0"]
        assert [box.said for box in dense.boxes] == ["red cell 0.87"]


DATA = {"name": "voc:a/cells", "size": 300, "test_split": None, "validation": 0, "seed": 0}


def shown_on(method: str, part: str = "test", **data: Any) -> dict[str, Any]:
    """A run on some data, whose evaluations kept images."""
    run = detector(method, None if method == "dense" else 0.4)
    run["recipe"]["data"] = DATA | data
    for result in run["evaluations"].values():
        result["part"] = part
    return run


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "voc:b/cells"}, "Image 1, name voc:b/cells"),
        ({"size": 512}, "Image 1, size 512"),
        ({"classes": ["red cell"]}, "Image 1, classes ['red cell']"),
        ({"test_split": "val"}, "Image 1, test split val"),
        ({"test_size": 9}, "Image 1, test size 9"),
        ({"part": "validation"}, "Image 1, part validation"),
    ],
)
def test_networks_on_other_images_never_share_a_picture(other: dict[str, Any], said: str) -> None:
    shown = strips([shown_on("dense"), shown_on("halp"), shown_on("adasap", **other)])
    assert len(shown) == 4, "clean and corrupted, of both"
    panels = {s.title.replace(", gaussian noise at severity 5", ""): s.panels for s in shown}
    assert [p.title for p in panels.pop(said)] == ["labelled", "AdaSAP 40 %"]
    ((_, beside),) = panels.items()
    assert [p.title for p in beside] == ["labelled", "dense", "HALP 40 %"]


def test_the_same_data_by_another_path_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "cells")
    monkeypatch.chdir(tmp_path)
    names = ("voc:cells", f"voc:{tmp_path / 'cells'}", "voc:./link")
    methods = ("dense", "halp", "adasap")
    shown = strips([shown_on(m, name=n) for m, n in zip(methods, names, strict=True)])
    assert [s.title for s in shown] == ["Image 1", "Image 1, gaussian noise at severity 5"]
    assert all(len(s.panels) == 4 for s in shown)


def test_networks_with_other_objects_never_share_a_picture() -> None:
    """Other data that once lay in the same place."""
    other = shown_on("halp")
    for result in other["evaluations"].values():
        for one in result["examples"]:
            one["objects"] = one["objects"][:1]
    shown = strips([shown_on("dense"), other, shown_on("adasap")])
    clean = {s.title: s.panels for s in shown if "noise" not in s.title}
    assert {title: [p.title for p in panels] for title, panels in clean.items()} == {
        "Image 1, as labelled for dense": ["labelled", "dense", "AdaSAP 40 %"],
        "Image 1, as labelled for HALP 40 %": ["labelled", "HALP 40 %"],
    }
    assert [len(panels[0].boxes) for panels in clean.values()] == [2, 1]


@pytest.mark.parametrize("other", [{"seed": 1}, {"validation": 0.1}, {"augment": "none"}])
def test_what_does_not_choose_test_images_keeps_networks_together(other: dict[str, Any]) -> None:
    shown = strips([shown_on("dense"), shown_on("halp", **other)])
    assert [s.title for s in shown] == ["Image 1", "Image 1, gaussian noise at severity 5"]
    assert all(len(s.panels) == 3 for s in shown)
    of_both = strips([shown_on("dense", size=96), shown_on("dense"), shown_on("halp")])
    assert [[p.title for p in s.panels[1:]] for s in of_both if "noise" not in s.title] == [
        ["dense"],
        ["dense", "HALP 40 %"],
    ], "the dense network of the same images"
    unlike = strips([shown_on("dense", "train"), shown_on("halp", "train", seed=1)])
    assert len(unlike) == 4, "other training images"


def test_clean_and_corrupted_may_be_of_other_parts() -> None:
    """What one network saw of the test images is not what another saw of those held out."""
    dense, halp = shown_on("dense"), shown_on("halp", "validation")
    del dense["evaluations"]["corruptions"], halp["evaluations"]["clean"]
    first = [s for s in strips([dense, halp]) if "gaussian" not in s.title]
    assert [[p.title for p in s.panels] for s in first] == [
        ["labelled", "dense"],
        ["labelled", "HALP 40 %"],
    ]


def test_the_pixels_of_an_image_are_in_the_page_once(tmp_path: Any) -> None:
    write_report(tmp_path / "report.html", title="Detectors", records=runs())
    page = (tmp_path / "report.html").read_text()
    assert page.count(IMAGE) == 2, "clean and corrupted"
    assert page.count('<use href="#image-0"/>') == 3, "dense and two methods"
    assert page.count("red cell 0.87</text>") == 6
    frame = '<rect x="30.0" y="60.0" width="120.0" height="120.0" stroke='
    assert page.count(frame) == 8, "the box lies where it is, in shares of the picture"


def test_the_dense_network_may_be_the_one_that_was_laid_beside() -> None:
    beside = runs()[2]
    for on in ("clean", "corruptions"):
        result = beside["evaluations"][on]
        beside["evaluations"][on] = result | {"beside": {"examples": result["examples"]}}
    (strip, _) = strips([beside])
    assert [p.title for p in strip.panels] == ["labelled", "dense", "HALP 40 %"]
    assert len(strip.panels[1].boxes) == 1


def test_without_images_one_line_says_so_and_the_rest_is_there() -> None:
    records = runs()
    for record in records:
        for result in record["evaluations"].values():
            del result["examples"]
    held = Document.of(records, title="x")
    assert not held.found
    assert len([r for r in held.remarks if "hold no images" in r]) == 1
    assert "accuracy" in {figure.key for figure in held.drawn["quality"]}
    assert len(held.tables) > 2


def test_classifiers_miss_no_images(study: Any) -> None:
    assert not [r for r in Document.of(study(seeds=1), title="x").remarks if "images" in r]


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_cannot_be_measured_of_detectors_is_not_missed(seeds: int) -> None:
    held = Document.of(runs()[::2] if seeds == 1 else runs(), title="x")
    assert not [r for r in held.remarks if re.search("noise|attack|landscape|eigenvalue", r)]
