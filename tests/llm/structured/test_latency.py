"""Times predicted from a table; the times themselves are formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steppe import SteppeError
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape

WHOLE = Shape(
    blocks=24,
    neurons=64,
    heads=4,
    queries_per_key=2,
    head_size=8,
    hidden=64,
    vocabulary=5000,
    per_neuron=192,
    per_head=3000,
    per_block=128,
    outside=320_000,
    width=4,
    cuts=("blocks", "heads", "neurons"),
)
CACHE = 200_000  # bytes: 5 blocks of 98,816 bytes are twice as much
AXES = {"neurons": [8, 16, 32, 48, 64], "heads": [1, 2, 3, 4]}
# what a part takes at a width; no straight lines
NEURONS = {8: 2.0, 16: 3.0, 32: 3.5, 48: 6.0, 64: 7.0}
HEADS = {1: 1.0, 2: 2.0, 3: 5.0, 4: 5.5}
START, HEAD = 3.0, 11.0


def taken(shape: Shape, whole: bool) -> float:
    """Milliseconds of a token with a model; those of a prompt are ten times as many."""
    block = 0.5 + NEURONS[shape.neurons] + HEADS[shape.heads]
    return START + HEAD * whole + shape.blocks * block


def table(path: Path | None = None, whole: Shape = WHOLE) -> GenerationTable:
    conditions = {"device": "abacus", "threads": 2, "dtype": "float32", "cache": CACHE}
    made = GenerationTable(conditions, 256, 64, whole, AXES, path=path)
    for name, shape, every_word in made.wanted():
        token = taken(shape, every_word)
        made.points[name] = {"prompt": [10 * token], "token": [token]}
    return made


@pytest.mark.parametrize("blocks", [1, 3, 4, 24])
def test_times_are_exact_at_measured_widths_and_add_up(blocks: int) -> None:
    """Of all pairs of widths, of which only those with one whole part were measured."""
    times = table()
    for neurons in NEURONS:
        for heads in HEADS:
            shape = WHOLE.resized(blocks=blocks, neurons=neurons, heads=heads)
            found = times.times(shape)
            assert found.token == pytest.approx(taken(shape, True))
            assert found.prompt == pytest.approx(10 * taken(shape, True))
            assert found.total == pytest.approx(found.prompt + 63 * found.token)


def test_times_between_widths_lie_on_a_straight_line() -> None:
    times = table()
    token = times.times(WHOLE.resized(neurons=36)).token
    ends = [times.times(WHOLE.resized(neurons=n)).token for n in (32, 48)]
    assert token == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_what_is_measured_fills_the_cache_twice_and_no_more_is_needed() -> None:
    made = table()
    assert made.stacked(WHOLE) == 5
    assert made.stacked(WHOLE.resized(blocks=3)) == 3
    assert made.stacked(WHOLE.resized(neurons=8)) == 8
    wanted = {name: shape for name, shape, _ in made.wanted()}
    for shape in wanted.values():
        size = shape.blocks * shape.block * shape.width
        assert size < 2 * CACHE + shape.block * shape.width
        narrowest = shape.neurons == 8 and shape.heads == 1
        assert size >= 2 * CACHE or narrowest or shape.resized(blocks=24) == WHOLE
    # whole, four narrower neurons, three fewer heads, three other depths, one and two narrow
    # blocks, every word
    assert len(wanted) == len(made.wanted()) == 1 + 4 + 3 + 3 + 2 + 1


def test_few_blocks_of_a_small_model_may_be_faster_than_their_share() -> None:
    """Those that stay in the cache where all do not: exact at the depths that were measured."""
    small = WHOLE.resized(blocks=4)
    times = table(whole=small)
    for blocks, token in {1: 20.0, 2: 30.0, 3: 45.0, 4: 60.0}.items():
        times.points[f"{blocks} blocks, 64 neurons, 4 heads"]["token"] = [START + token]
    times.points["4 blocks, 64 neurons, 4 heads, whole vocabulary"]["token"] = [START + HEAD + 60.0]
    for blocks, token in {1: 20.0, 2: 30.0, 3: 45.0, 4: 60.0}.items():
        found = times.times(small.resized(blocks=blocks)).token
        assert found == pytest.approx(START + HEAD + token)
    deep, shallow = (times.times(small.resized(blocks=n, heads=1)).token for n in (4, 2))
    assert (deep - START - HEAD) / 60 == pytest.approx((shallow - START - HEAD) / 30)


def test_one_block_and_another_machine_than_the_one_that_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = WHOLE.resized(blocks=1)
    assert table(whole=one).times(one).token == pytest.approx(taken(one, True))
    monkeypatch.setattr("steppe.core.processor.last_level_cache", lambda: 10**9)
    assert table().times(WHOLE).token == pytest.approx(taken(WHOLE, True))


def test_the_median_of_the_passes_counts() -> None:
    times = table()
    for point in times.points.values():
        point["token"] = [point["token"][0], 9.0 * point["token"][0], point["token"][0]]
    assert times.times(WHOLE).token == pytest.approx(taken(WHOLE, True))
    assert times.spread == pytest.approx(8.0)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = table(tmp_path / "t.json")
    written.write()
    assert GenerationTable.read(tmp_path / "t.json") == written


def broken(**changes: Any) -> dict[str, Any]:
    """What a file holds, with changes."""
    made = table()
    plain = {k: v for k, v in vars(made).items() if k != "path"}
    return plain | {"shape": vars(WHOLE)} | changes


@pytest.mark.parametrize(
    "stored",
    [
        "no json",
        "[]",
        json.dumps(broken(shape={})),
        json.dumps(broken(other=1)),
        json.dumps(broken(points={"a": {"prompt": [1.0], "token": [0.0]}})),
        json.dumps(broken(points={"a": {"prompt": [1.0], "token": ["1"]}})),
    ],
)
def test_what_is_no_table_is_refused(stored: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(stored)
    with pytest.raises(SteppeError, match=r"steppe latency MODEL --out"):
        GenerationTable.read(path)


def test_widths_and_models_that_were_not_measured_are_refused() -> None:
    times = table()
    with pytest.raises(SteppeError, match=r"7 neurons, measured: 8 to 64"):
        times.times(WHOLE.resized(neurons=7))
    with pytest.raises(SteppeError, match="of the model whose time is predicted"):
        times.check_model(WHOLE.resized(blocks=12))
    times.points.popitem()
    with pytest.raises(SteppeError, match="which goes on where it was"):
        times.times(WHOLE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conditions": {"device": "another", "threads": 2}}, "for the device"),
        ({"conditions": {"device": "abacus", "threads": 1}}, "for the threads"),
        ({"prompt": 128}, "a prompt of 256 and 64 tokens in the table, a prompt of 128"),
        ({"axes": {"neurons": [64], "heads": [4]}}, "for the widths"),
    ],
)
def test_a_table_of_other_conditions_is_refused(change: dict[str, Any], said: str) -> None:
    other = table()
    for name, value in change.items():
        setattr(other, name, value)
    with pytest.raises(SteppeError, match=said):
        table().check(other)
    table().check(table())
