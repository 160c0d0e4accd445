"""What a report says of which runs, and what it refuses to lay side by side."""

from __future__ import annotations

from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.report.document import Document


def run(network: str = "resnet20", rate: float = 0.0, **more: Any) -> dict[str, Any]:
    data = {"name": "some/cifar10", "label_noise": {"rate": rate}}
    return {
        "method": "safe",
        "seed": 0,
        "sparsity_asked": 0.9,
        "sparse": {"accuracy": 0.9},
        "recipe": {"model": {"name": network}, "data": data},
    } | more


def test_one_network_and_one_data_set() -> None:
    held = Document.of([run(), run(seed=1)], title="x", figures=False)
    assert "resnet20 on cifar10" in held.about
    with pytest.raises(SteppeError, match=r"resnet20 on cifar10, vgg on cifar10.*one report"):
        Document.of([run(), run("vgg")], title="x")


def measured(part: str = "test", **data: Any) -> dict[str, Any]:
    every = {"name": "cifar10", "size": 64, "test_size": 8, "validation": 9, "seed": 0} | data
    recipe = {"model": {"name": "resnet20"}, "data": every}
    return run() | {"recipe": recipe, "evaluated_on": part}


@pytest.mark.parametrize(
    ("one", "other", "got"),
    [
        (measured(), measured(size=96), r"SAFE at 90 % zeros: size 64; .*: size 96"),
        (measured(), measured(test_size=24), "test size 8; .*: test size 24"),
        (measured(), measured(seed=1), "seed 0; .*: seed 1"),
        (measured(test_split="val"), measured(test_split="test"), "test split val; "),
        (measured(), measured("validation"), "part test; .*: part validation"),
        (measured("validation"), measured("validation", validation=5), "validation 9; "),
    ],
)
def test_no_means_over_other_images(one: dict[str, Any], other: dict[str, Any], got: str) -> None:
    with pytest.raises(SteppeError, match=rf"the same images; got .*{got}.*one report for each"):
        Document.of([one, other | {"seed": 1}], title="x", figures=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (measured(), measured(train_size=5, validation=3, augment="none")),
        (measured(test_size=None), measured(test_size=None, seed=1)),  # nothing is drawn
        (measured("validation"), measured("validation", train_size=5, test_size=3)),
        (measured(), run()),  # of an earlier version, which does not say it
        (measured(skip_invalid=False, test_split=None), measured()),
    ],
)
def test_the_same_images_by_other_options(one: dict[str, Any], other: dict[str, Any]) -> None:
    held = Document.of([one, other | {"seed": 1}], title="x", figures=False)
    assert [row.seeds for row in held.tables[0][1].rows] == [2]


def test_runs_with_wrong_labels_stand_apart() -> None:
    noise = {"label_noise": {"given": 0.3, "clean": 0.6}}
    held = Document.of([run(), run(rate=0.5, **noise)], title="x")
    ((_, plain), (caption, noisy)) = held.tables
    assert caption == "After training on wrong labels"
    assert [r.seeds for r in plain.rows] == [1], "not averaged with the others"
    assert {c.key for c in noisy.columns} == {"accuracy", "taught", "righted"}
    alone = Document.of([run(rate=0.5, **noise)], title="x")
    assert "labels" in alone.drawn
    assert [caption for caption, _ in alone.tables] == ["After training on wrong labels"]


def test_what_was_measured_otherwise_is_told() -> None:
    held = Document.of([run(unlike=["attacks"]), run(seed=1)], title="x", figures=False)
    assert [r for r in held.remarks if r.startswith("attacks: 1 of 2 runs")]


def test_the_words_on_the_page_are_explained() -> None:
    distance = run(projection_distance=0.1)
    held = Document.of([distance, run(method="mine")], title="x", figures=False)
    assert held.words["SAFE"].startswith("ADMM pruning with sharpness-aware steps")
    assert "last cut moved the weights" in held.words["Projection distance"]
    assert "mine" not in held.words, "nothing is made up for a method that is not ours"
    assert "Sharpness" not in held.words, "only what is shown"


def test_images_of_detectors_are_no_forgotten_classes() -> None:
    def beside(one: dict[str, Any]) -> dict[str, Any]:
        return run(evaluations={"clean": {"beside": {"examples": [one]}}})

    boxes = {"index": 0, "image": "", "least": 0.3, "objects": [], "found": []}
    assert Document.of([beside(boxes)], title="x", figures=False).examples == []
    answer = {"index": 7, "label": 3, "run": 5, "sure": 0.9, "image": ""}
    held = Document.of([beside(boxes), beside(answer)], title="x", figures=False)
    assert [examples for _, examples in held.examples] == [[answer]]


def test_names_with_commas_are_told_apart_and_flatness_is_said_where_it_was_measured() -> None:
    halp, removed = run(method="halp"), run(method="halp", label="HALP, removed")
    assert "of SAFE, HALP (" in Document.of([run(), halp], title="x", figures=False).about
    about = Document.of([run(), removed], title="x", figures=False).about
    assert "of SAFE; HALP, removed (" in about
    assert "flat" not in about
    flat = run(evaluations={"sharpness": {"average": {"mean": 0.1}}})
    assert "A flat network" in Document.of([flat], title="x", figures=False).about


def test_a_network_with_zero_channels_is_told_from_the_one_without() -> None:
    removed = {"parameters": [9, 6], "widths": {"a": 2}}
    masked = run(method="halp", removed=removed)
    held = Document.of([masked, masked | {"label": "HALP, removed"}], title="x", figures=False)
    (said,) = [text for text in held.remarks if "still there" in text]
    assert said.startswith("HALP at 90 % zeros: its channels are zero")
    assert "steppe remove" in said
