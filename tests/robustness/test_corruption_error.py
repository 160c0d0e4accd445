"""Means over named kinds, R_C and corruption errors, beside sums over a few numbers."""

from __future__ import annotations

import pytest

from steppe.robustness.corruption_error import corruption_error, relative_robustness
from steppe.robustness.corruptions import CORRUPTIONS, SEVERITIES, benchmark

COMMON, EXTRA = sorted(benchmark(extra=False)), sorted(benchmark(extra=True))


def cells(names, low=0.3, severities=SEVERITIES):
    """Accuracies that differ everywhere."""
    return {
        name: {str(s): low + 0.01 * i + 0.001 * s for s in severities}
        for i, name in enumerate(names)
    }


def by_hand(accuracy, names):
    total = count = 0.0
    for name in names:
        for share in accuracy[name].values():
            total, count = total + share, count + 1
    return total / count


def test_both_kinds_of_r_c_are_named():
    accuracy = cells([*EXTRA, *COMMON])
    means = relative_robustness(accuracy, 0.9)
    assert means["r_c_15"] == pytest.approx(by_hand(accuracy, COMMON) / 0.9)
    assert means["r_c_19"] == pytest.approx(by_hand(accuracy, [*COMMON, *EXTRA]) / 0.9)
    assert means["mean_extra"] == pytest.approx(by_hand(accuracy, EXTRA))
    assert means["mean_run"] == means["mean_19"] != means["mean_15"]
    assert (means["kinds"], means["severities"]) == (19, [1, 2, 3, 4, 5])
    assert means["extra"] == EXTRA


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (COMMON, {"15"}),
        (COMMON[:-1], set()),
        ([*COMMON[:-1], *EXTRA], set()),
        ([*COMMON, *EXTRA[:3]], {"15"}),
        (EXTRA, set()),
    ],
)
def test_neither_is_there_where_a_kind_was_not_run(names, kept):
    accuracy = cells(names, severities=(3, 5))
    means = relative_robustness(accuracy, 0.8)
    assert {key[4:] for key in means if key.startswith("r_c_")} == kept
    assert {key[5:] for key in means if key.startswith("mean_1")} == kept
    assert means["mean_run"] == pytest.approx(by_hand(accuracy, names))
    assert ("mean_extra" in means) == (set(EXTRA) <= set(names))
    assert means["kinds"] == len(names)


def test_a_kind_that_others_registered_makes_no_sixteenth(monkeypatch):
    mine = type("Mine", (), {"extra": False, "__module__": "elsewhere"})()
    monkeypatch.setitem(CORRUPTIONS._items, "mine", mine)
    means = relative_robustness(cells([*COMMON, "mine"]), 0.9)
    assert means["mean_15"] == pytest.approx(by_hand(cells([*COMMON, "mine"]), COMMON))
    assert means["kinds"] == 16


def test_a_network_that_is_never_right_has_nothing_to_keep():
    nothing = {name: {"3": 0.0} for name in COMMON}
    assert relative_robustness(nothing, 0.0)["r_c_15"] is None


def test_corruption_errors_by_hand():
    own = {"fog": {"1": 0.8, "5": 0.5}, "snow": {"1": 0.7, "5": 0.4}}
    theirs = {"fog": {"1": 0.6, "5": 0.3}, "snow": {"1": 0.5, "5": 0.5}}
    errors = corruption_error(own, 0.9, theirs, 0.7)
    fog, snow = (0.2 + 0.5) / (0.4 + 0.7), (0.3 + 0.6) / (0.5 + 0.5)
    assert errors["ce"] == pytest.approx({"fog": fog, "snow": snow})
    # what corruption adds to the clean errors of 0.1 and 0.3
    added_fog = (0.2 - 0.1 + 0.5 - 0.1) / (0.4 - 0.3 + 0.7 - 0.3)
    added_snow = (0.3 - 0.1 + 0.6 - 0.1) / (0.5 - 0.3 + 0.5 - 0.3)
    assert errors["relative_ce"] == pytest.approx({"fog": added_fog, "snow": added_snow})
    assert errors["mce_run"] == pytest.approx((fog + snow) / 2)
    assert errors["relative_mce_run"] == pytest.approx((added_fog + added_snow) / 2)
    assert "mce_15" not in errors


def test_mean_errors_over_15_and_19_kinds():
    own, theirs = cells([*COMMON, *EXTRA], 0.3), cells([*COMMON, *EXTRA], 0.2)
    errors = corruption_error(own, 0.9, theirs, 0.95)

    def ratio(name):
        return sum(1 - a for a in own[name].values()) / sum(1 - a for a in theirs[name].values())

    assert errors["mce_15"] == pytest.approx(sum(map(ratio, COMMON)) / 15)
    assert errors["mce_19"] == pytest.approx(sum(map(ratio, [*COMMON, *EXTRA])) / 19)
    assert {"relative_mce_15", "relative_mce_19"} <= set(errors)
    # a network beside itself
    same = corruption_error(own, 0.9, own, 0.9)
    assert same["mce_15"] == same["relative_mce_19"] == pytest.approx(1.0)


def test_a_reference_that_loses_nothing_leaves_nothing_to_divide_by():
    own = {"fog": {"3": 0.5}, "snow": {"3": 0.5}}
    theirs = {"fog": {"3": 0.9}, "snow": {"3": 0.6}}
    errors = corruption_error(own, 0.9, theirs, 0.8)  # fog does it good
    assert errors["relative_ce"] == pytest.approx({"fog": None, "snow": 2.0})
    assert errors["relative_mce_run"] is None
    assert errors["mce_run"] is not None
    perfect = corruption_error(own, 0.9, {"fog": {"3": 1.0}, "snow": {"3": 1.0}}, 1.0)
    assert perfect["ce"] == {"fog": None, "snow": None}
