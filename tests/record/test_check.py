"""A record fits the schema when it is written and when it is read, or one line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.record import SCHEMA_VERSION, Measured, RunRecord, checked, schema_table, stamped

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run(**changes: Any) -> dict[str, Any]:
    """What a run hands over to be written."""
    plain = {
        "method": "safe",
        "recipe": {"seed": 0},
        "sparsity_asked": None,
        "sparsity_reached": 0.5,
        "dense": {"accuracy": 0.97, "parameters": 10},
        "sparse": {"accuracy": 0.96, "nonzero": 5, "latency_ms": 1},
        "seconds": 1.5,
        "peak_memory_bytes": 1,
        "seed": 0,
        "versions": {"torch": "2"},
        "fallbacks": [],
    }
    return plain | changes


def test_what_is_written_has_version_and_display_and_nothing_else_changes() -> None:
    plain = run(blocks=[1], units=None)
    record = stamped(plain, "SAFE")
    assert record == plain | {"schema_version": SCHEMA_VERSION, "method_display": "SAFE"}
    assert checked(record, "here") is record


def test_what_was_written_keeps_its_version_and_display() -> None:
    record = stamped(run(), "SAFE")
    assert stamped(record | {"label": "SAFE, removed"}, "another")["method_display"] == "SAFE"


@pytest.mark.parametrize("key", sorted(run()))
def test_a_key_that_is_missing_is_named(key: str) -> None:
    plain = {k: v for k, v in run().items() if k != key}
    with pytest.raises(SteppeError, match=rf"got .*: {key}: "):
        stamped(plain, "SAFE")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sparsity_reached": "0.5"}, "sparsity_reached"),
        ({"sparse": {"loss": "low"}}, "sparse.loss"),
        ({"sparse": None}, "sparse"),
        ({"dense": {"parameters": 1.5}}, "dense.parameters"),
        ({"seed": True}, "seed"),
        ({"versions": {"torch": 2}}, "versions.torch"),
        ({"fallbacks": [1]}, r"fallbacks\.0"),
        ({"schema_version": "1"}, "schema_version"),
    ],
)
def test_a_value_of_another_type_is_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SteppeError, match=rf"got run/record\.json: {key}: ") as error:
        checked(stamped(run(), "SAFE") | changes, "run/record.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_a_newer_schema_is_refused(version: int) -> None:
    # nothing else is looked at: a newer schema may have other keys and types
    with pytest.raises(SteppeError, match=rf"up to schema_version 1; got here.*is {version}\. Way"):
        checked({"schema_version": version, "sparse": 1}, "here")


@pytest.mark.parametrize(
    "older",
    [
        {},
        {"method": "safe+"},
        {"method": {"name": "safe"}, "recipe": "a text"},
        {"method": "safe", "sparse": None, "sparsity_reached": None, "seed": None},
        run(),
    ],
)
def test_records_from_before_the_schema_still_read(older: dict[str, Any]) -> None:
    assert checked(older, "here") is older


@pytest.mark.parametrize(
    ("older", "key"),
    [({"method": 1}, "method"), ({"method": "m", "sparse": {"loss": "x"}}, "sparse.loss")],
)
def test_records_from_before_the_schema_are_of_its_types(older: Any, key: str) -> None:
    with pytest.raises(SteppeError, match=rf"here: {key}: "):
        checked(older, "here")


@pytest.mark.parametrize("other", [[1], "text", None])
def test_what_is_no_object(other: Any) -> None:
    with pytest.raises(SteppeError, match="one JSON object of a run; got here"):
        checked(other, "here")


def test_every_key_is_described_and_the_docs_have_the_table() -> None:
    table = schema_table()
    for model in (RunRecord, Measured):
        for name, field in model.model_fields.items():
            assert field.description
            assert f"{name}`" in table
    assert table in (DOCS / "report.md").read_text(encoding="utf-8")
