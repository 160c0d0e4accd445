"""Targets, and the shapes that meet them, beside all shapes that there are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from steppe import SteppeError
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, accepted_heads, shapes

WHOLE = Shape(
    blocks=4,
    neurons=24,
    heads=4,
    queries_per_key=1,
    head_size=4,
    hidden=16,
    vocabulary=100,
    per_neuron=48,
    per_head=256,
    per_block=32,
    outside=1616,
    cuts=("blocks", "heads", "neurons"),
)
ALL = ("neurons", "heads", "blocks")


def table(whole: Shape = WHOLE) -> GenerationTable:
    """A block takes 1 ms, 0.1 ms for each neuron and 1 for each head; the rest 4 ms."""
    conditions = {"device": "abacus", "threads": 2, "dtype": "float16", "cache": 10**6}
    axes = {"neurons": [3, 12, 24], "heads": [1, 2, 4]}
    made = GenerationTable(conditions, 256, 11, whole, axes)
    for name, shape, every_word in made.wanted():
        token = 3.0 + every_word + shape.blocks * (1.0 + shape.neurons / 10 + shape.heads)
        made.points[name] = {"prompt": [5 * token], "token": [token]}
    return made


def every_shape(multiple: int = 1) -> list[Shape]:
    numbers = range(1, 5), range(1, 5), [*range(multiple, 24, multiple), 24]
    return [WHOLE.resized(blocks=b, heads=h, neurons=n) for b, h, n in itertools.product(*numbers)]


def more(a: Shape, b: Shape) -> bool:
    """Whether a shape has as much of all as another, and more of something."""
    return a != b and all(getattr(a, kind) >= getattr(b, kind) for kind in ALL)


@pytest.mark.parametrize("text", ["parameters=0.6", "bytes=0.35", "parameters=5000", "bytes=15e3"])
@pytest.mark.parametrize("multiple", [1, 5])
def test_all_shapes_that_meet_it_and_can_have_no_more(text: str, multiple: int) -> None:
    target = Target.parse(text)
    allowed = target.allowed(WHOLE)
    meet = [s for s in every_shape(multiple) if target.cost(s) <= allowed]
    best = [s for s in meet if not any(more(other, s) for other in meet)]
    found = shapes(target, WHOLE, ALL, multiple=multiple)
    assert sorted(map(repr, found)) == sorted(map(repr, best))
    evenness = [min(getattr(s, k) / getattr(WHOLE, k) for k in ALL) for s in found]
    assert evenness == sorted(evenness, reverse=True)
    assert evenness[0] == max(min(getattr(s, k) / getattr(WHOLE, k) for k in ALL) for s in meet)


def test_a_target_in_time_is_met_by_the_table() -> None:
    times = table()
    whole = times.times(WHOLE)
    assert whole.token == pytest.approx(33.6)
    assert whole.prompt == pytest.approx(168.0)
    for text, most in (("latency=0.71", 0.71 * whole.total), ("latency=401ms", 401.0)):
        met = [s for s in every_shape() if s.neurons >= 3 and times.times(s).total <= most]
        best = [s for s in met if not any(more(other, s) for other in met)]
        found = shapes(Target.parse(text), WHOLE, ALL, table=times)
        assert sorted(map(repr, found)) == sorted(map(repr, best))
    fast = Target.parse("latency=35tokens_per_second")
    (narrow,) = shapes(fast, WHOLE, ["neurons"], table=times)
    assert narrow.neurons == 11  # 4 ms, and for each of 4 blocks 5 ms and 0.1 for each neuron


def test_only_what_may_go_goes() -> None:
    target = Target.parse("parameters=0.8")
    (only,) = shapes(target, WHOLE, ["neurons"])
    assert (only.blocks, only.heads) == (4, 4)
    found = shapes(target, WHOLE, ["neurons", "heads"], heads=[1, 2, 4])
    assert {s.heads for s in found} <= {1, 2, 4}
    assert {s.blocks for s in found} == {4}


@pytest.mark.parametrize(
    ("text", "kinds", "said"),
    [
        ("parameters=0.3", ["heads"], r"the least is .* 24 neurons, 1 head.*parameters=0\.706"),
        ("parameters=100", ALL, r"100 parameters at most.*--target parameters=0\.[0-9]+"),
        ("parameters=1M", ALL, "less than the whole model; got 10,"),
        ("latency=0.5", ALL, "needs the times of blocks here"),
        ("parameters=0.5", ["neurons", "layers"], "layers of a model"),
    ],
)
def test_what_cannot_be_met_is_one_line(text: str, kinds: list[str], said: str) -> None:
    with pytest.raises(SteppeError, match=said) as raised:
        shapes(Target.parse(text), WHOLE, kinds)
    assert "\n" not in str(raised.value)


def test_the_nearest_that_is_said_can_be_had() -> None:
    with pytest.raises(SteppeError) as raised:
        shapes(Target.parse("parameters=0.3"), WHOLE, ["heads"])
    nearest = raised.value.way_out.split()[1].rstrip(",")
    (found,) = shapes(Target.parse(nearest), WHOLE, ["heads"])
    assert found.heads == 1


def test_a_time_below_the_measured_widths_is_not_asked_for() -> None:
    found = shapes(Target.parse("latency=0.3"), WHOLE, ALL, table=table())
    assert min(s.neurons for s in found) >= 3


def test_a_table_of_another_model_is_refused() -> None:
    other = table(WHOLE.resized(blocks=3))
    with pytest.raises(SteppeError, match="of the model whose time is predicted"):
        shapes(Target.parse("latency=0.5"), WHOLE, ALL, table=other)


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("parameters=.5", 0.5, None),
        ("parameters=350M", 350.0, "M"),
        ("bytes=1e9", 1e9, ""),
        ("latency=800ms", 800.0, "ms"),
        ("latency=0.5ms", 0.5, "ms"),
    ],
)
def test_targets_as_text(text: str, number: float, unit: str | None) -> None:
    parsed = Target.parse(text)
    assert (parsed.number, parsed.unit) == (number, unit)
    assert parsed.limits == text.partition("=")[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.5",
        "flops=0.5",
        "parameters=0",
        "parameters=-1",
        "parameters=nan",
        "parameters=0.5 0.5",
        "latency=5",
        "latency=1",
        "bytes=3ms",
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(SteppeError, match="a target limits parameters, bytes or latency"):
        Target.parse(text)


def test_heads_that_a_config_accepts() -> None:
    """A Llama's heads must divide its hidden size; a Mistral's need not."""
    sizes: dict[str, Any] = {"vocab_size": 48, "hidden_size": 24, "intermediate_size": 20}
    sizes |= {
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "model_type": "llama",
    }
    from steppe.llm.skeleton import config_of

    whole = Shape.of(config_of(sizes))
    assert accepted_heads(sizes, whole) == [1, 2, 3, 4, 6]
    assert accepted_heads(sizes, whole, "mistral") == [1, 2, 3, 4, 5, 6]


def test_times_are_of_what_was_measured() -> None:
    """Of fewer experts a table of neurons and heads knows nothing."""
    whole = replace(WHOLE, experts=4, top_k=2, cuts=(*WHOLE.cuts, "experts"))
    for kinds in (["experts"], ["neurons", "experts"]):
        with pytest.raises(SteppeError, match=r"got experts, measured: blocks, heads, neurons"):
            shapes(Target.parse("latency=0.7"), whole, kinds, table=table(whole))
