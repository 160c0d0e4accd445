"""Every figure of README and docs is what a record, a rule of the code or a named source gives."""

import pytest
from pages import check, page, registry
from pages.cells import Table, cell, half_range
from pages.registry import Bound, Cited, Claims, Near, Rule

registry.load()


@pytest.mark.parametrize("name", page.pages())
def test_every_figure_has_its_source(name):
    faults = list(check.faults(name, page.read(name)))
    assert not faults, "python benchmarks/results_page.py writes what the records give"


def test_every_table_and_claim_is_about_a_page():
    assert not check.unused(page.pages())


TABLE = Table(
    ["method", "zeros", "accuracy, %"],
    [
        ["safe", "95 %", half_range([0.9812, 0.9832], 2, 100)],
        ["admm", "95 %", half_range([0.951, 0.953], 2, 100)],
    ],
)
TEXT = """# Title

## Study

<!-- table: study -->

| method | zeros | accuracy, % |
|---|---|---|
| safe | 95 % | 98.22 ± 0.10 |
| admm | 95 % | 95.20 ± 0.10 |

<!-- end -->

SAFE is 3.0 points ahead at 95 %, with 98.2 %.
"""


@pytest.fixture
def study(monkeypatch):
    """A page of its own with one table and one claim."""

    def said():
        gap = TABLE["safe 95 %", "accuracy"] - TABLE["admm 95 %", "accuracy"]
        yield "SAFE is {} points ahead at 95 %", gap

    monkeypatch.setattr(check, "TABLES", {"study": lambda: TABLE})
    monkeypatch.setattr(check, "CLAIMS", [Claims("study.md", "Study", (), said)])
    monkeypatch.setattr(check, "WHOLE", ("study.md",))
    monkeypatch.setattr(check, "RESULTS", ("study.md",))
    return lambda text: list(check.faults("study.md", text))


def test_a_page_as_its_records_say_is_without_fault(study):
    assert study(TEXT) == []
    assert check.fill("study.md", TEXT) == TEXT


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("98.22 ± 0.10", "98.42 ± 0.10", "a table is not what its record gives"),
        ("3.0 points", "3.4 points", "study.md:14: 3.4 should be 3.02"),
        ("98.2 %", "98.1 %", "study.md:14: no source for 98.1"),
        ("with 98.2 %", "2 of 7 cells", "no source for 7"),
        ("with 98.2 %", "by two points", "no source for two"),
        ("with 98.2 %", "in 40 s", "no source for 40"),
        ("with 98.2 %", "at 40 %", "no source for 40"),
        ("is 3.0 points", "leads by 3.0 points", "0 times in 'Study', where a claim says"),
        ("## Study", "## Other", "claims about a section that is not there: 'Study'"),
    ],
)
def test_a_figure_without_source_is_named(study, was, now, said):
    assert was in TEXT
    assert any(said in fault for fault in study(TEXT.replace(was, now)))


def test_filling_writes_tables_and_figures(study):
    stale = TEXT.replace("98.22 ± 0.10", "97.00 ± 0.10").replace("3.0 points", "1.8 points")
    assert check.fill("study.md", stale) == TEXT


def test_a_figure_whose_sign_has_changed_is_left_to_the_writer(study, monkeypatch):
    monkeypatch.setattr(
        check, "CLAIMS", [Claims("study.md", "Study", (), lambda: [("is {} points", -0.5)])]
    )
    assert check.fill("study.md", TEXT) == TEXT
    assert any("should be -0.5" in fault for fault in study(TEXT))


def test_a_statement_in_words_that_is_no_longer_so_is_named(study, monkeypatch):
    def said():
        yield "SAFE is {} points ahead at 95 %", 3.02
        assert TABLE["admm 95 %", "accuracy"] > 98, "the page says: level"

    monkeypatch.setattr(check, "CLAIMS", [Claims("study.md", "Study", (), said)])
    assert study(TEXT) == ["study.md:3: no longer so in 'Study': the page says: level"]


@pytest.mark.parametrize(
    ("shown", "value", "same"),
    [
        ("0.07", 0.0712, True),
        ("0.07", 0.0751, False),
        ("12,800", 12800, True),
        ("1e-4", 1.04e-4, True),
        ("1e-4", 2e-4, False),
        ("−0.2", -0.21, True),
        ("0.2", -0.21, False),
        ("four", 4.4, True),
        ("four", 4.6, False),
        ("2", Bound(1.2, above=True), True),
        ("1", Bound(1.2, above=True), False),
        ("3", Bound(1.2, above=True), False),
        ("ten", Bound(10.4, above=False), True),
        ("nine", Bound(10.4, above=False), False),
        ("50", Near(47.0, 0.1), True),
        ("50", Near(44.0, 0.1), False),
        ("1.05", Rule("src/steppe/core/speed.py", "LEAST = 1.05"), True),
        ("1.05", Rule("src/steppe/core/speed.py", "LEAST = 2.05"), False),
        ("200", Cited("the paper, section 5"), True),
    ],
)
def test_a_number_is_a_value_rounded_as_it_is_shown(shown, value, same):
    assert check.shows(shown, value) == same


def test_names_code_and_seeds_are_no_figures():
    text = "ResNet-20 in `rho=0.3`, Table 7, seed 4, l2, 2:4, [a](b.md#c-5), 1/255, <!-- 6 -->\n"
    assert not list(page.sections(text)[0].tokens())


def test_a_table_knows_its_cells():
    own = Table(["a", "b, %", "b2"], [["x", cell("{:.1f} ({:.0f})", 1.25, 7), "label"]])
    assert own.markdown() == "| a | b, % | b2 |\n|---|---|---|\n| x | 1.2 (7) | label |"
    assert own["x label", "b, %"] == 1.25
    assert own["x label", "b, %", 1] == 7
    with pytest.raises(AssertionError, match="0 rows 'y'"):
        own["y", "b, %"]


def test_times_of_detectors_reach_the_results_page(monkeypatch):
    """What the study measures with --time has a row; a network that was not timed has none."""
    from pages.sections import detection

    def run(name, seed, own):
        measured = {"dense_ms": 20.0, "sparse_ms": own, "ratio": 20.0 / own}
        times = {"predicted_ms": [18.0, own - 1], "measured": measured}
        return {"name": f"{name}-seed{seed}", "times": times}

    rows = [run("halp-0.4", 0, 10.0), run("halp-0.4", 1, 12.5)]
    rows += [{"name": f"{name}-seed0", "times": {}} for name in ("dense", "adasap-0.4")]
    monkeypatch.setattr(detection, "record", lambda name: rows)
    made = detection.speed.__wrapped__()  # it is kept once made, by whatever test came before
    assert len(made.rows) == 1
    shown = dict(
        zip(made.head, map(str, made.markdown().splitlines()[2].split("|")[1:]), strict=False)
    )
    assert shown["predicted, ms"].strip() == "10.25 ± 1.25"
    assert shown["measured, dense ms"].strip() == "20.00 ± 0.00"
    assert shown["measured, ms"].strip() == "11.25 ± 1.25"
    assert shown["measured, x"].strip() == "1.80 ± 0.20"
    assert shown["seeds"].strip() == "2"
