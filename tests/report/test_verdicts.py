"""Plain sentences, whoever wins."""

from __future__ import annotations

from typing import Any

from steppe.report.verdicts import verdicts


def runs(level: float = 0.95, top: float = 1.0, **accuracies: tuple[float, ...]) -> Any:
    return [
        {
            "method": method,
            "seed": seed,
            "sparsity_asked": None if method == "dense" else level,
            "sparse": {"accuracy": value},
            "flatness": {"hessian_top": top if method == "safe" else 10.0},
        }
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def said(records: Any) -> str:
    return "\n".join(verdicts(records))


def test_gmp_ahead_of_safe_is_said_plainly() -> None:
    text = said(runs(gmp=(0.95, 0.951), safe=(0.93, 0.931), dense=(0.97, 0.97)))
    assert "GMP beats SAFE: 95.05 ± 0.05 % against 93.05 ± 0.05 %, 2.00 points." in text
    assert "none is level with dense (97.00 ± 0.00 %). Below it: GMP" in text
    text = said(runs(gmp=(0.95,), safe=(0.93,), admm=(0.8,)))
    assert "GMP leads and beats SAFE" in text
    assert "One seed" in text


def test_level_is_half_a_point_or_one_standard_error() -> None:
    text = said(runs(safe=(0.965, 0.965), gmp=(0.9649, 0.9649), dense=(0.97, 0.97)))
    assert "level with dense (97.00 ± 0.00 %): SAFE (96.50 ± 0.00 %)." in text
    assert "Below it: GMP (96.49 ± 0.00 %, −0.51)" in text
    # 2 points apart, with a standard error of 3
    text = said(runs(safe=(0.92, 0.98), dense=(0.97, 0.97)))
    assert "level with dense (97.00 ± 0.00 %): SAFE" in text
    text = said(runs(safe=(0.98,), gmp=(0.98,), dense=(0.97,)))
    assert "above dense (97.00 %): SAFE (98.00 %, +1.00), GMP" in text
    assert "SAFE and GMP are equal" in text


def test_too_little_to_call() -> None:
    text = said(runs(safe=(0.95, 0.95), gmp=(0.953, 0.953)))
    assert "GMP is ahead of SAFE by too little to call" in text
    assert "beats" not in text


def test_the_leader_of_others() -> None:
    text = said(runs(iht=(0.95, 0.95), wanda=(0.9, 0.9)))
    assert "IHT leads; next is Wanda, 5.00 points behind." in text
    assert "IHT is first, level with Wanda." in said(runs(iht=(0.95,), wanda=(0.949,)))


def test_flatness_of_safe_and_admm_either_way() -> None:
    low = said(runs(top=2.0, safe=(0.9, 0.9), admm=(0.9, 0.9)))
    assert "SAFE's top Hessian eigenvalue is below ADMM's: 2 against 10 (5 times lower)." in low
    high = said(runs(top=30.0, safe=(0.9, 0.9), admm=(0.9, 0.9)))
    assert "is NOT below ADMM's: 30 against 10 (3 times higher)." in high


def test_each_sparsity_has_its_own() -> None:
    both = runs(0.9, gmp=(0.9,), safe=(0.95,)) + runs(0.99, gmp=(0.9,), safe=(0.8,))
    text = said(both)
    assert "At 90 % zeros SAFE beats GMP" in text
    assert "At 99 % zeros GMP beats SAFE" in text
    assert text.index("90 %") < text.index("At 99 %")


def test_what_cannot_be_said_is_said() -> None:
    assert "nothing to compare" in said([])
    assert "accuracy" in said([{"method": "wanda", "seed": 0, "sparse": {"perplexity": 7.0}}])
    assert "dense network's accuracy" in said(runs(safe=(0.9,)))


def test_who_is_sturdier_is_said_both_ways() -> None:
    records = runs(safe=(0.95, 0.95), admm=(0.95, 0.95))
    for record in records:
        safe = record["method"] == "safe"
        record["evaluations"] = {
            "corruptions": {"accuracy": {"fog": {"3": 0.7 if safe else 0.8}}},
            "attacks": {"accuracy": {"linf": {"0.1": 0.5 if safe else 0.4, "0.2": 0.1}}},
        }
    text = said(records)
    assert "best first on corrupted images, ADMM 80.00 ± 0.00 %, SAFE 70.00 ± 0.00 %;" in text
    assert "under attack (l∞ 0.1), SAFE 50.00 ± 0.00 %, ADMM 40.00 ± 0.00 %." in text
    assert "l∞ 0.2" not in text  # the smallest ball of a norm
    records[0]["evaluations"]["corruptions"]["accuracy"] = {"fog": {"3": 0.95}}
    text = said([*records, records[0] | {"method": "dense", "sparsity_asked": None}])
    assert "SAFE 82.50 ± 12.50 % level with ADMM 80.00 ± 0.00 % (dense 95.00 %)" in text
    assert text.count("Level: ") == 1
