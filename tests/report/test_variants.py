"""Runs of one method's name are one row only where they are one method."""

from __future__ import annotations

from typing import Any

import pytest

import steppe
from steppe.method import Method
from steppe.report.document import Document
from steppe.report.in_short import InShort
from steppe.report.markdown import markdown
from steppe.report.notes import notes
from steppe.report.papers import beside
from steppe.report.record import display
from steppe.report.table import Rows
from steppe.report.variants import told_apart


def run(method: Method, accuracy: float = 0.5, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "method": method.name,
        "parts": method.replace(language=()).to_dict(),
        "seed": seed,
        "sparsity_asked": method.sparsity,
        "sparse": {"accuracy": accuracy},
        "recipe": {"data": {"name": "ILSVRC/imagenet-1k"}},
    } | more


def labels(*methods: Method) -> list[str | None]:
    return [r.get("label") for r in told_apart([run(m) for m in methods])]


taylor, safe = (getattr(steppe.methods, name)(sparsity=0.4) for name in ("taylor", "safe"))
with_sam = taylor.replace(perturb={"name": "sam", "rho": 0.1})


def test_a_perturbation_makes_another_row() -> None:
    runs = [run(taylor, 0.5, 0), run(with_sam, 0.7, 0), run(taylor, 0.6, 1), run(with_sam, 0.8, 1)]
    document = Document.of(runs, title="Both", figures=False)
    assert document.tables[0][1].texts()[1] == [
        ["Taylor", "40 %", "2", "55.00 ± 5.00"],
        ["Taylor + SAM", "40 %", "2", "75.00 ± 5.00"],
    ]
    assert not any("different recipes" in text for text in document.full)
    short = InShort.of(runs).table
    assert short is not None
    assert [row.display for row in short.rows] == ["Taylor", "Taylor + SAM"]
    assert "Taylor + SAM" in markdown(runs, title="Both")
    assert "Taylor" in document.words


def test_it_is_named_alone_too_and_stands_beside_the_papers_own_name() -> None:
    zeros = with_sam.replace(budget={"name": "pooled", "sparsity": 0.49})
    runs = told_apart([run(zeros)])
    assert {line[2] for line in beside(runs, Rows.from_records(runs))} <= {"Taylor + SAM"}


VARIANTS: dict[str, tuple[list[Method], list[str | None]]] = {
    "seeds": ([safe, safe], [None, None]),
    "a number": (
        [safe, steppe.methods.safe(sparsity=0.4, penalty=0.3)],
        [None, "SAFE, penalty 0.3"],
    ),
    "two numbers": (
        [steppe.methods.safe(sparsity=0.4, rho=rho) for rho in (0.05, 0.2)],
        ["SAFE, rho 0.05", "SAFE, rho 0.2"],
    ),
    "one for each sparsity": (
        [steppe.methods.safe(sparsity=s, penalty=s) for s in (0.4, 0.5)],
        [None, None],
    ),
    "none": (
        [safe, safe.replace(perturb="none"), safe.replace(perturb="asam")],
        [None, "SAFE without perturbation", "SAFE with ASAM"],
    ),
    "score": (
        [taylor, taylor.replace(score="l2"), steppe.methods.taylor(sparsity=0.4, variant="mean")],
        [None, "Taylor, score l2", "Taylor, variant mean"],
    ),
    "in a phase": (
        [steppe.methods.adasap(sparsity=0.4, rho_max=r) for r in (2.0, 0.1)],
        [None, "AdaSAP, rho_max 0.1"],
    ),
    "language": ([safe.for_language()] * 2, [None, None]),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_names(case: str) -> None:
    methods, expected = VARIANTS[case]
    assert labels(*methods) == expected


def test_a_run_of_an_earlier_version_is_the_same_method_unless_its_steps_were_others() -> None:
    old_safe, old_taylor = run(safe), run(with_sam)
    for record in (old_safe, old_taylor):
        del record["parts"]["perturb"]["on"]
    runs = [run(safe), old_safe, run(with_sam), old_taylor]
    assert [r.get("label") for r in told_apart(runs)] == [
        *(None, None, "Taylor + SAM"),
        "Taylor + SAM, steps of an earlier version",
    ]


def test_what_has_a_label_keeps_it_and_records_may_lack_anything() -> None:
    odd = [run(safe, label="mine"), {"method": "safe"}, {}, {"method": "safe", "recipe": "x"}]
    assert [r.get("label") for r in told_apart(odd)] == ["mine", None, None, None]
    assert told_apart(told_apart([run(with_sam), run(taylor)]))[0]["label"] == "Taylor + SAM"


def elsa(lr: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    recipe = {"train": {"lr": lr, "tokens": 2_000_000} | more, "seed": seed, "data": {"text": "a"}}
    method = steppe.methods.elsa(sparsity=0.5)
    return run(method, seed=seed, recipe=recipe | {"model": {"name": f"/{lr}/m"}})


def test_runs_of_one_seed_that_differ_in_their_recipe_are_rows() -> None:
    """As `steppe sweep` leaves them: never are settings averaged as if they were seeds."""
    runs = [elsa(lr, seed) for lr in (0.002, 0.0002) for seed in (0, 1)]
    rows = Rows.from_records(told_apart(runs)).rows
    assert [(r.display, r.seeds) for r in rows] == [("ELSA, lr 0.002", 2), ("ELSA, lr 0.0002", 2)]
    assert not any("different recipes" in text for text in Document.of(runs, title="t").full)
    (one, other) = told_apart([elsa(0.1), elsa(0.1, tokens=50_000, warmup=None)])
    assert one["label"] == "ELSA, tokens 2M"
    assert other["label"] == "ELSA, tokens 50k"


def test_runs_of_other_seeds_stay_one_row_whatever_their_recipes() -> None:
    runs = [elsa(0.002, 0), elsa(0.0002, 1)]
    assert [r.get("label") for r in told_apart(runs)] == [None, None]
    assert any("different recipes" in text for text in Document.of(runs, title="t").full)


def test_files_of_one_name_and_long_lists_with_the_same_ends_are_two_rows() -> None:
    texts = [elsa(0.1), elsa(0.1)]
    for record, folder in zip(texts, ("/one", "/other"), strict=True):
        record["recipe"]["data"]["text"] = f"{folder}/text.txt"
    assert [r["label"] for r in told_apart([*texts, texts[0]])] == [
        *("ELSA, text text.txt", "ELSA, text text.txt (2)", "ELSA, text text.txt")
    ]


def test_wrong_labels_are_no_other_method() -> None:
    noisy = [
        run(safe, recipe={"data": {"name": "d", "label_noise": {"rate": rate}}})
        for rate in (0.25, 0.5)
    ]
    assert [r.get("label") for r in told_apart(noisy)] == [None, None]


def test_lists_and_booleans_are_short() -> None:
    budget = {"name": "evopress", "sparsity": 0.5}
    wanda = steppe.methods.wanda(sparsity=0.5)
    several = [wanda.replace(budget=budget | {"survivors": s}) for s in ((8, 2, 1), (4, 2, 1))]
    assert labels(*several) == ["Wanda, survivors 8/2/1", "Wanda, survivors 4/2/1"]
    held = steppe.methods.elsa(sparsity=0.5)
    loose = held.replace(coupling=held.coupling.to_dict() | {"held": False})
    assert labels(held, loose) == [None, "ELSA, not held"]


def after(pruned: dict[str, Any], method: str, shown: str) -> dict[str, Any]:
    """What was pruned, recovered or trained further."""
    recipe = {"model": {"name": "runs/pruned"}, "method": {"name": method}, "seed": 0}
    more = {"recipe": recipe, "pruning": pruned, "method_display": shown, "sparsity_asked": 0.5}
    return {"method": method, "seed": 0, "sparse": {"perplexity": 20.0}} | more


def pruned_by(method: Method, **more: Any) -> dict[str, Any]:
    recipe = {"model": {"name": "models/dense"}, "method": method.to_dict(), "seed": 0}
    figures = {"sparse": {"perplexity": 30.0}, "dense": {"perplexity": 10.0}}
    return run(method, recipe=recipe | more) | figures


def test_what_was_recovered_stands_beside_what_it_was_made_from() -> None:
    wanda, alps = (getattr(steppe.methods, name)(sparsity=0.5) for name in ("wanda", "alps"))
    runs = [pruned_by(wanda), pruned_by(alps)]
    runs += [after(runs[0], "recover", "Wanda, recovered")]
    runs += [after(runs[1], "recover", "ALPS, recovered")]
    runs += [after(runs[0], "dense", "Wanda, then dense")]
    document = Document.of(runs, title="All")
    assert "dense" in document.about
    assert [(r.display, r.seeds) for r in document.tables[0][1].rows] == [
        ("dense", 1),
        *((name, 1) for name in ("Wanda", "ALPS", "Wanda, recovered", "ALPS, recovered")),
        ("Wanda, then dense", 1),
    ]


def test_recoveries_of_what_was_pruned_otherwise_are_told_apart() -> None:
    wanda = steppe.methods.wanda(sparsity=0.5)
    started = [pruned_by(wanda, calibration={"samples": n}) for n in (8, 128)]
    runs = [after(one, "recover", "Wanda, recovered") for one in started]
    assert [r["label"] for r in told_apart(runs)] == [
        "Wanda, recovered, pruning samples 8",
        "Wanda, recovered, pruning samples 128",
    ]


def removed(method: str = "halp", seed: int = 0, **more: Any) -> dict[str, Any]:
    recipe = {"method": {"name": method} | more, "seed": seed}
    run = {"method": method, "seed": seed, "sparsity_asked": 0.4, "recipe": recipe}
    return run | {"label": f"{display(*told_apart([run]))}, removed"}


def test_what_steppe_remove_made_is_told_apart_like_the_runs() -> None:
    """Else two methods of one name are averaged, as their labels are the same."""
    plain, other, again = removed(), removed(every=5), removed(seed=1)
    assert plain["label"] == other["label"]
    labels = [r["label"] for r in told_apart([plain, other, again])]
    assert labels == ["HALP, removed", "HALP, every 5, removed", "HALP, removed"]
    own = removed() | {"label": "mine, removed"}
    assert told_apart([own, other])[0]["label"] == "mine, removed"


def test_a_table_of_layers_is_what_it_says_not_where_it_lies() -> None:
    def by(path: str, dense: float) -> dict[str, Any]:
        recipe = {"method": {"name": "halp"}, "channels": {"target": "latency", "table": path}}
        cost = {"target": "ms", "cost": [dense, 5.0]}
        run = {"method": "halp", "seed": 0, "sparsity_asked": 0.4, "recipe": recipe}
        return run | {"removed": cost}

    one, same, other = by("a.json", 8.0), by("b/c.json", 8.0), by("a.json", 9.0)
    assert [r.get("label") for r in told_apart([one, same])] == [None, None]
    assert [r["label"] for r in told_apart([one, other])] == [
        "HALP, table of 8 ms",
        "HALP, table of 9 ms",
    ]
    (remark,) = notes([one, same])
    assert "seed 0 is there 2 times" in remark, "no word of a path"
    assert "channels.table" in " ".join(notes([one, other | {"seed": 1}]))


def test_a_dense_run_for_each_seed_is_no_remark() -> None:
    def start(seed: int, weights: str) -> dict[str, Any]:
        recipe = {"name": f"run {seed}", "model": {"weights": weights}, "seed": seed}
        return {"method": "halp", "seed": seed, "recipe": recipe}

    assert notes([start(0, "dense-0"), start(1, "dense-1")]) == []
    (remark,) = notes([start(0, "a"), start(1, "a"), start(2, "b")])
    assert "model.weights" in remark


def test_a_run_and_its_copy_without_channels_are_called_alike() -> None:
    copy = removed(every=5)
    run, other = ({k: v for k, v in r.items() if k != "label"} for r in (copy, removed()))
    labels = [r.get("label") for r in told_apart([run, other, copy])]
    assert labels == ["HALP, every 5", None, "HALP, every 5, removed"]
