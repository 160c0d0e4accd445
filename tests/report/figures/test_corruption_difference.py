"""The bars of two methods beside each other are differences of means, in points."""

from __future__ import annotations

from typing import Any

import pytest

from detector_records import detector
from steppe.report.document import Document
from steppe.report.svg import Figure


def drawn(records: list[dict[str, Any]]) -> Figure | None:
    figures = Document.of(records, title="x").drawn.get("robust", [])
    return next((f for f in figures if f.key == "corruption_difference"), None)


def pair(method: str, left: float, map50: float = 0.6) -> list[dict[str, Any]]:
    return [detector(method, 0.4, seed, map50, left + 0.01 * seed) for seed in (0, 1)]


def test_a_bar_is_the_mean_difference_of_a_kind() -> None:
    figure = drawn([*pair("halp", 0.5), *pair("adasap", 0.7)])
    assert figure is not None
    assert figure.title == "AdaSAP beside HALP, by corruption at 40 % fewer multiply-adds"
    # 0.6 * (0.7 - 0.5), of snow half of it; clean both have 0.6
    said = "AdaSAP minus HALP, points: not corrupted +0.0, fog +12.0, snow +6.0"
    assert f"{said}, gaussian noise +12.0." in figure.svg
    assert "difference in mAP@0.5, points" in figure.svg


def test_of_several_the_best_is_laid_beside_each_other() -> None:
    figure = drawn([*pair("halp", 0.5), *pair("taylor", 0.4), *pair("adasap", 0.7)])
    assert figure is not None
    assert "AdaSAP minus HALP" in figure.svg
    assert "AdaSAP minus Taylor" in figure.svg
    assert "HALP minus" not in figure.svg


def test_one_method_is_laid_beside_dense() -> None:
    figure = drawn([detector("dense", None, 0, 0.7, 0.5), *pair("halp", 0.5)])
    assert figure is not None
    assert "HALP minus dense, points: not corrupted -10.0" in figure.svg


def test_seeds_that_both_have_are_subtracted_one_by_one() -> None:
    """The seeds differ by much, the methods in each of them by the same."""
    halp = [detector("halp", 0.4, 0, 0.6, 0.5), detector("halp", 0.4, 1, 0.3, 0.5)]
    adasap = [detector("adasap", 0.4, 0, 0.7, 0.5), detector("adasap", 0.4, 5, 0.9, 0.5)]
    figure = drawn([*halp, *adasap])
    assert figure is not None
    assert "not corrupted +10.0, fog +5.0" in figure.svg


def test_classifiers_have_the_same_figure(study: Any) -> None:
    figure = drawn(study(layers=2, seeds=2))
    assert figure is not None
    assert "difference in accuracy, points" in figure.svg
    assert figure.title.endswith("at 99 % zeros")
    assert "3 of" not in figure.caption, "there are three others"


@pytest.mark.parametrize("records", [[], [detector("dense", None)], pair("halp", 0.5)])
def test_without_two_networks_there_is_none(records: list[dict[str, Any]]) -> None:
    assert drawn(records) is None
