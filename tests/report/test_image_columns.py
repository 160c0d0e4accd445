"""What a report calls the means over corruptions and the variants of ImageNet-V2."""

from __future__ import annotations

from typing import Any

import pytest

from steppe.report.image_columns import image_columns, mean_key
from steppe.report.papers import printed
from steppe.report.record import Record
from steppe.report.table import Rows

COMMON = [f"kind_{i}" for i in range(15)]
EXTRA = [f"extra_{i}" for i in range(4)]


def measured(names: list[str], severities: str = "12345", **more: Any) -> dict[str, Any]:
    accuracy = {
        name: {s: 0.3 + 0.01 * i + 0.002 * int(s) for s in severities}
        for i, name in enumerate(names)
    }
    extra = [name for name in names if name in EXTRA]
    result = {"clean": 0.9, "accuracy": accuracy, "extra": extra} | more
    return {"method": "safe", "sparsity_asked": 0.9, "evaluations": {"corruptions": result}}


def mean(record: Record, names: list[str]) -> float:
    cells = record["evaluations"]["corruptions"]["accuracy"]
    shares = [share for name in names for share in cells[name].values()]
    return sum(shares) / len(shares)


def values(record: Record) -> dict[str, float]:
    return {c.key: v for c in image_columns([record]) if (v := c.read(record)) is not None}


def test_both_means_are_named_and_computed_of_an_older_result() -> None:
    """Which has ``mean`` over the 15 and ``relative``, and no key that names a number of kinds."""
    record = measured([*COMMON, *EXTRA], mean=0.1, mean_extra=0.2, relative=0.3)
    columns = values(record)
    assert columns["corrupted_15"] == pytest.approx(mean(record, COMMON))
    assert columns["corrupted_19"] == pytest.approx(mean(record, [*COMMON, *EXTRA]))
    assert columns["r_c_15"] == pytest.approx(mean(record, COMMON) / 0.9)
    assert columns["r_c_19"] == pytest.approx(mean(record, [*COMMON, *EXTRA]) / 0.9)
    assert mean_key(image_columns([record])) == "corrupted_15"
    labels = {c.key: c.label for c in image_columns([record])}
    assert labels["corrupted 3"] == "Corrupted, 15 kinds, severity 3, %"
    assert labels["corrupted_19 3"] == "Corrupted, 19 kinds, severity 3, %"


def test_a_network_that_is_right_on_no_clean_image_has_no_r_c() -> None:
    columns = values(measured([*COMMON, *EXTRA], clean=0.0))
    assert "corrupted_15" in columns
    assert not [key for key in columns if key.startswith("r_c")]


def test_fewer_kinds_are_called_by_what_they_are() -> None:
    record = measured(["kind_0", "extra_1"], "35")
    columns = {c.key: c for c in image_columns([record])}
    (key,) = [k for k in columns if k.startswith("corrupted_run")]
    assert columns[key].label == "Corrupted, mean of kind 0, extra 1, severities 3, 5, %"
    assert columns[key].read(record) == pytest.approx(mean(record, ["kind_0", "extra_1"]))
    assert not [k for k in columns if k.startswith(("r_c", "corrupted_15", "mce"))]
    assert "corrupted_19 3" not in values(record)
    many = {c.label for c in image_columns([measured([*COMMON[:14], *EXTRA])])}
    assert "Corrupted, mean of 18 kinds, %" in many
    assert "Corrupted, 14 kinds, severity 3, %" in many


def test_no_mean_is_there_twice() -> None:
    """At one severity the mean over the kinds is that of the severity."""
    record = measured(["kind_0", "kind_1"], "3")
    assert {k: v for k, v in values(record).items() if k.startswith("corrupted")} == {
        "corrupted 3": pytest.approx(mean(record, ["kind_0", "kind_1"]))
    }
    (column,) = image_columns([record])[:1]
    assert column.label == "Corrupted, kind 0, kind 1, severity 3, %"
    assert len(values(measured(["kind_0", "extra_1"], "3"))) == 2, "the severity's is without extra"


def test_two_severities_are_no_r_c_of_the_papers() -> None:
    """The papers take all five: the column says so, and stands beside none of their numbers."""
    columns = values(measured([*COMMON, *EXTRA], "35"))
    assert "r_c_15 3,5" in columns
    assert "r_c_15" not in columns
    quantities = {p.quantity for p in printed()}
    assert {"r_c_19", "corrupted_19", "corrupted_19 3", "r_v2 matched-frequency"} <= quantities
    assert not quantities & {"relative", "shifted", "corrupted", "corrupted 3"}


def test_corruption_errors_are_percent_of_the_dense_network() -> None:
    beside = {"mce_15": 1.25, "relative_mce_15": None, "mce_run": 1.3}
    record = measured(COMMON, beside=beside)
    assert values(record)["mce_15"] == 125.0
    assert not [key for key in values(record) if key.endswith("mce_run")]
    rows = Rows.from_records([record])  # more than 1 is no fraction, and none is asked for
    assert rows.rows[0].cells["mce_15"] is not None


def test_variants_of_new_images_also_under_the_folders_names() -> None:
    variants = {
        "imagenetv2-top-images-format-val": 0.79,
        "mine": 0.5,
        "imagenetv2-matched-frequency-format-val": 0.6,
    }
    result = {"clean": 0.8, "variants": variants, "mean": 0.63, "relative": 0.79}
    columns = values({"method": "safe", "evaluations": {"shifted": result}})
    assert list(columns) == [
        f"{family} {name}"
        for name in ("matched-frequency", "top-images", "mine")
        for family in ("shifted", "r_v2")
    ]
    assert columns["r_v2 matched-frequency"] == pytest.approx(0.75)
