"""Runs that were measured otherwise are not laid beside each other."""

from __future__ import annotations

from steppe.report.align import aligned
from steppe.report.table import Rows
from steppe.report.times import timings


def entry(on: str, value: float, **options: object) -> dict[str, object]:
    return {"on": on, "options": options, "result": {"mean": value}, "command": str(value)}


def test_only_what_most_share_is_compared() -> None:
    many = [
        {"entries": [entry("corruptions", 0.1, limit=10), entry("corruptions", 0.2, limit=99)]},
        {"entries": [entry("corruptions", 0.3, limit=99)]},
        {"entries": [entry("corruptions", 0.4, limit=10), entry("sharpness", 1.0)]},
        {"entries": [entry("corruptions", 0.5, limit=99, device="cuda")]},
        {"method": "none of that"},
    ]
    first, second, third, fourth, fifth = aligned(many)
    # 99 images: three of four; where they were measured is no difference
    assert first["evaluations"] == {"corruptions": {"mean": 0.2}}
    assert first["commands"] == ["0.2"]
    assert second["evaluations"] == {"corruptions": {"mean": 0.3}}
    assert third["evaluations"] == {"sharpness": {"mean": 1.0}}
    assert third["unlike"] == ["corruptions"]
    assert fourth["evaluations"] == {"corruptions": {"mean": 0.5}}
    assert fifth == {"method": "none of that"}


def test_an_option_that_came_later_divides_nothing() -> None:
    old, new = entry("sharpness", 1.0, limit=9), entry("sharpness", 2.0, limit=9, budget=500)
    assert all(r["evaluations"] for r in aligned([{"entries": [old]}, {"entries": [new]}]))


def test_a_comparison_is_not_lost_to_a_later_plain_measurement() -> None:
    beside = entry("clean", 0.1, beside="dense")
    beside["result"] = {"beside": {"disagree": 0.2}}
    (record,) = aligned([{"entries": [beside, entry("clean", 0.3)]}])
    assert record["evaluations"]["clean"] == {"beside": {"disagree": 0.2}}


def test_only_a_comparison_with_dense_is_shown_as_one() -> None:
    found = []
    for method in ("dense", "gmp"):
        beside = entry("clean", 0.1, beside="other")
        beside["result"] = {"accuracy": 0.9, "beside": {"disagree": 0.2, "method": method}}
        found += aligned([{"entries": [beside]}])
    assert [set(r["evaluations"]["clean"]) for r in found] == [{"accuracy", "beside"}, {"accuracy"}]


def test_figures_of_the_first_images_say_so() -> None:
    """Beside the accuracy of all images they would be taken for all images too."""
    attacks = entry("attacks", 0.0, limit=50)
    attacks["result"] = {"images": 50, "accuracy": {"linf": {"0.5": 0.3}}}
    whole = attacks | {"options": {"limit": 99}}
    runs = [{"method": "gmp", "sparse": {"accuracy": 0.9}, "entries": [attacks]}]
    assert "Attacked, l∞ 0.5, 50 images, %" in Rows.from_records(aligned(runs)).markdown()
    # published corruptions are used whole; the clean images beside them are not
    published = attacks | {"result": attacks["result"] | {"images": 1000, "clean_images": 50}}
    assert aligned([{"entries": [published]}])[0]["limited"] == {"attacks": 50}
    runs[0]["entries"] = [whole]  # a limit above their number limits nothing
    assert "Attacked, l∞ 0.5, %" in Rows.from_records(aligned(runs)).markdown()


def timing(own: float, table: str | None = None, **where: object) -> dict[str, object]:
    result = {"device": "EPYC", "threads": 1, "measured": {"ratio": own}} | where
    said = {"predicted_ms": [8.0, own]} if table else {}
    options = {"table": table, "threads": where.get("threads")}
    return {"on": "latency", "options": options, "result": result | said, "command": f"at {own}"}


def test_times_need_no_like_options_as_each_place_stands_alone() -> None:
    first, second, third = aligned(
        [
            {"entries": [timing(1.0, table="a.json"), timing(2.0)]},
            {"entries": [timing(3.0, table="elsewhere/b.json"), timing(4.0, threads=8)]},
            {"entries": [timing(5.0, device="Xeon")]},
        ]
    )
    assert [t["measured"]["ratio"] for t in first["timings"]] == [2.0], "the last of a place"
    assert first["timings"][0]["predicted_ms"] == [8.0, 1.0], "what the table said stays"
    assert [t["measured"]["ratio"] for t in second["timings"]] == [3.0, 4.0]
    assert [t["device"] for t in third["timings"]] == ["Xeon"]
    assert [r["unlike"] for r in (first, second, third)] == [[], [], []]
    assert first["commands"] == ["at 1.0", "at 2.0"]


def test_a_time_beside_another_network_does_not_take_the_place_of_that_beside_dense() -> None:
    dense = timing(2.0, table="a.json", parameters=[1000, 600])
    other = timing(1.1, parameters=[700, 600])
    (run,) = aligned([{"dense": {"parameters": 1000}, "entries": [dense, other]}])
    (own,) = timings(run).values()
    assert own["measured"]["ratio"] == 2.0
    assert own["predicted_ms"] == [8.0, 2.0]
