"""Perturbations beside each other, by ``benchmarks/flatness.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Row, Table, cell, half_range, standard_error, two_digits
from ..registry import Cited, Claim, at_most, claims, table
from ..sources import grouped, record

PAGE, SECTION = "docs/results.md", "Cheaper perturbations: msam and functional_sam beside SAM"
RADII = {"none": "0", "sam": "0.1", "functional_sam": "0.4", "msam": "0.3"}
ORDER = ("none", "sam", "functional_sam", "msam")


def measured(data: str) -> dict[Any, list[dict[str, Any]]]:
    """Runs on test images by perturbation, radius and sparsity, in the order of the page."""
    own = [r for r in record("flatness")["runs"] if (r["data"], r["part"]) == (data, "test")]
    own.sort(key=lambda r: (ORDER.index(r["perturb"]), r["rho"]))
    return grouped(own, "perturb", "rho", "sparsity")


@table("flatness-digits")
def digits() -> Table:
    runs = measured("digits")
    rows: list[Row] = []
    for name, rho in dict.fromkeys((name, rho) for name, rho, _ in runs):
        row: list[Any] = [f"`{name}`", f"{rho:g}"]
        for sparsity in (0.0, 0.95):
            own = runs[name, rho, sparsity]
            row.append(standard_error((r["accuracy"] for r in own), 2, 100))
            row.append(two_digits(r["sharpness"] for r in own))
        rows.append(row)
    head = ["perturbation", "rho", "dense: accuracy, %", "dense: sharpness"]
    return Table([*head, "GMP 95 %: accuracy, %", "GMP 95 %: sharpness"], rows)


@table("flatness-images")
def images() -> Table:
    rows: list[Row] = []
    for (name, rho, _), own in measured("images").items():
        accuracy = half_range((r["accuracy"] for r in own), 2, 100)
        sharpness = half_range((r["sharpness"] for r in own), 4)
        rows.append([f"`{name}`", f"{rho:g}", accuracy, sharpness])
    return Table(["perturbation", "rho", "accuracy, %", "sharpness, rho 0.1"], rows)


@table("flatness-time")
def seconds() -> Table:
    rows: list[Row] = []
    for own in record("flatness")["time"]:
        ratios = own["over_plain"]
        rows.append([own["network"], *(cell("{:.2f}", ratios[name]) for name in ORDER[1:])])
    return Table(["network", *(f"`{name}`" for name in ORDER[1:])], rows)


@claims(PAGE, SECTION, settings=["benchmarks/flatness.py"])
def said() -> Iterator[Claim]:
    own = measured("digits")
    steps = {r["steps"] for runs in own.values() for r in runs}
    assert len(steps) == 1
    yield "three seeds, {} steps", steps.pop()
    own = measured("images")
    steps = {r["steps"] for runs in own.values() for r in runs}
    assert len(steps) == 1
    yield "two seeds, {} steps", steps.pop()


@claims(PAGE, SECTION)
def cost() -> Iterator[Claim]:
    own = seconds()
    labels = [str(row[0]) for row in own.rows]
    yield "within {} of it", at_most(max(own[label, "`msam`"] for label in labels[2:]))
    yield "With batches of {} it is {}", 16, own[labels[1], "`msam`"]
    yield "on the small fully connected network {}", own[labels[0], "`msam`"]
    yield (
        "Its authors train for {} epochs",
        Cited("Becker et al. 2024, configs of their code: CIFAR-100, 200 epochs"),
    )


@claims(PAGE, SECTION)
def order() -> Iterator[Claim]:
    """What the words say."""
    own = digits()
    for column in ("dense: sharpness", "GMP 95 %: sharpness"):
        rise = {name: own[f"`{name}` {rho}", column] for name, rho in RADII.items()}
        assert rise["sam"] < rise["functional_sam"] < rise["none"] < rise["msam"], rise
    few = images()
    labels = [f"{row[0]} {row[1]}" for row in few.rows]
    rise = {label: few[label, "sharpness"] for label in labels}
    assert rise["`sam` 0.1"] < rise["`functional_sam` 0.1"] < rise["`none` 0"] < rise["`msam` 1"]
    accuracy = {label: few[label, "accuracy"] for label in rise}
    assert max(accuracy, key=lambda label: accuracy[label]) == "`msam` 0.3"
    yield "the most accurate, {} points above none", accuracy["`msam` 0.3"] - accuracy["`none` 0"]
