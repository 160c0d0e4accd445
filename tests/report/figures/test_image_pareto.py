"""Networks of images over what they cost: the best are joined, the others named."""

from __future__ import annotations

from typing import Any

import pytest

from detector_records import detector
from steppe.core.speed import Speed
from steppe.report.document import Document
from steppe.report.record import Record


def timed(
    method: str,
    map50: float,
    ms: float,
    seed: int = 0,
    predicted: bool = True,
    threads: int = 1,
) -> dict[str, Any]:
    run = detector(method, 0.4, seed, map50)
    result: dict[str, Any] = {"measured": Speed.of([(10.0, ms)] * 9, "channels").record()}
    result |= {"predicted_ms": [8.0, ms - 1]} if predicted else {}
    del run["removed"]
    return run | {"timings": [result | {"device": "EPYC", "threads": threads}]}


def runs() -> list[dict[str, Any]]:
    return [
        detector("dense", None, 0, 0.7),
        timed("halp", 0.69, 5.0),
        timed("adasap", 0.66, 6.0),
    ]


def drawn(records: list[Record]) -> str:
    gain = Document.of(records, title="x").drawn.get("gain", [])
    return " ".join(" ".join(f.svg.split()) for f in gain if f.key == "image_pareto")


def test_a_panel_for_each_cost_and_the_dominated_are_named() -> None:
    svg = drawn(runs())
    measured = "one image, EPYC, 1 thread, % of the dense time"
    assert f"dense: mAP@0.5, % 70.00, {measured} 100;" in svg
    assert f"HALP 40 %: mAP@0.5, % 69.00, {measured} 50;" in svg
    assert f"AdaSAP 40 %: mAP@0.5, % 66.00, {measured} 60, dominated by HALP 40 %" in svg
    assert "HALP 40 %: mAP@0.5, % 69.00, one image by the table of layers, ms 4;" in svg
    assert "HALP 40 %: mAP@0.5, % 69.00, multiply-adds, million 600;" in svg


def test_a_cost_that_one_network_has_not_is_no_panel() -> None:
    svg = drawn([*runs()[:2], timed("adasap", 0.66, 6.0, predicted=False)])
    assert "by the table" not in svg
    assert "one image, EPYC, 1 thread" in svg


def test_times_of_two_places_are_no_one_panel() -> None:
    other = timed("halp", 0.6, 9.0, seed=1, threads=8)
    svg = drawn([*runs(), other])
    assert "HALP 40 %: mAP@0.5, % 69.00, one image, EPYC, 1 thread, % of the dense time 50" in svg
    assert "8 threads" not in svg, "not all networks were timed there"
    figures = Document.of([*runs(), other], title="x").drawn["gain"]
    (caption,) = [f.caption for f in figures if f.key == "image_pareto"]
    assert "Left out: 1 run that was not timed there." in caption


def test_seeds_are_one_point() -> None:
    assert "HALP 40 %: mAP@0.5, % 68.00" in drawn([*runs(), timed("halp", 0.67, 5.0, seed=1)])


@pytest.mark.parametrize("few", [runs()[:1], runs()[:2], [detector("halp", 0.4)]])
def test_few_or_untimed_networks_need_no_figure(few: list[Record]) -> None:
    assert not drawn(few)
