"""Tables of measured times; the timer is a formula, so that nothing depends on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steppe import SteppeError
from steppe.core.group import Group, Slice
from steppe.removal.latency_table import (
    LatencyTable,
    axis,
    build_layer,
    key_of,
    measure_table,
    network_key,
    pairs,
    with_batch,
)
from steppe.removal.shapes import GroupWidth, Width, layer_shapes

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 64, 5),
    ).eval()


def groups(multiple: int = 1) -> list[Group]:
    each = torch.arange(16)[:, None]
    names = [("0.weight", 0, "output"), ("1.weight", 0, "norm"), ("3.weight", 0, "output")]
    slices = [Slice(n, d, each, r) for n, d, r in [*names, ("4.weight", 1, "input")]]
    return [Group("0.weight", tuple(slices), multiple)]


class Timer:
    """Counts what it is asked; a layer takes its parameters in ms, a network 10 000."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked: list[tuple[nn.Module, Any]] = []
        self.fails_after = fails_after

    def __call__(self, module: nn.Module, inputs: Any) -> tuple[float, float, float]:
        if len(self.asked) == self.fails_after:
            raise KeyboardInterrupt
        assert not module.training
        module(inputs)  # what it is called with fits
        self.asked.append((module, inputs))
        if len(list(module.children())) > 2:
            return 10_000.0, 11_000.0, 1.0
        took = float(sum(p.numel() for p in module.parameters()))
        return took, took + 1, 0.5


def table(path: Path | None = None, **options: Any) -> LatencyTable:
    given: dict[str, Any] = {"batches": (2,), "timer": Timer(), "path": path, **options}
    return measure_table(network(), EXAMPLE, groups(), **given)


def test_every_layer_over_its_widths() -> None:
    timer = Timer()
    measured = table(timer=timer, passes=1)
    shapes = {key_of(s, 2): s for s in layer_shapes(network(), EXAMPLE, groups())}
    assert list(measured.layers) == list(shapes)
    conv, norm, depthwise, one, linear = measured.layers.values()
    ends = [1, 3, 6, 9, 12, 15, 16]
    assert conv["grids"] == [{"in": [3], "out": ends}]
    assert conv["points"]["3x9"] == [3 * 9 * 9, 3 * 9 * 9 + 1, 0.5, 1]
    assert list(norm["points"]) == [f"{w}x{w}" for w in ends]
    assert list(depthwise["points"]) == [f"{w}x{w}" for w in ends]
    assert one["grids"] == [{"in": ends, "out": [8]}]
    assert list(linear["points"]) == ["512x5"]
    assert list(measured.networks.values()) == [{"2": [10_000.0, 11_000.0, 1.0, 1]}]
    assert len(timer.asked) == 4 * 7 + 2
    assert all(inputs.shape[0] == 2 for _, inputs in timer.asked)


def test_the_quickest_pass_counts() -> None:
    class Slower(Timer):
        def __call__(self, module: nn.Module, inputs: Any) -> tuple[float, float, float]:
            timing = super().__call__(module, inputs)
            # of three passes of 30 the second is undisturbed
            calm = 30 < len(self.asked) <= 60
            return timing if calm else (timing[0] + 7, 0.0, 9.0)

    measured = table(timer=Slower())
    assert measured.layers == {
        key: {
            "grids": entry["grids"],
            "points": {p: [*point[:3], 3] for p, point in entry["points"].items()},
        }
        for key, entry in table(passes=1).layers.items()
    }


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    first = table(path, passes=1)
    assert LatencyTable.read(path) == first
    timer = Timer()
    assert table(path, timer=timer, passes=1) == first
    assert timer.asked == []
    more = table(path, timer=timer, batches=(2, 3), passes=1)
    assert len(timer.asked) == 30
    assert more.batches == [2, 3]


@pytest.mark.parametrize("after", [0, 3, 29, 30, 47])
def test_an_interrupted_measurement_goes_on(tmp_path: Path, after: int) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        table(path, timer=Timer(after), passes=2)
    rest = Timer()
    measured = table(path, timer=rest, passes=2)
    assert len(rest.asked) == 60 - after
    whole = table(passes=2)
    assert (measured.layers, measured.networks) == (whole.layers, whole.networks)


def test_model_and_random_numbers_are_left_as_they_were() -> None:
    model = network().train()
    state = torch.get_rng_state()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measure_table(model, EXAMPLE, groups(), (1,), timer=Timer(), passes=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_other_conditions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table(path, passes=1)
    stored = json.loads(path.read_text())
    others = {"device": "Abacus", "threads": 99, "dtype": "int1", "layout": "by row", "torch": "0"}
    for name, other in others.items():
        changed = {**stored, "conditions": {**stored["conditions"], name: other}}
        path.write_text(json.dumps(changed))
        with pytest.raises(SteppeError, match=rf"{name}.*got {other}.*Way out") as refused:
            table(path)
        assert "\n" not in str(refused.value)


def test_channels_last_is_measured_so_and_is_another_table(tmp_path: Path) -> None:
    path, timer = tmp_path / "table.json", Timer()
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    measure_table(model, EXAMPLE, groups(), (2,), timer=timer, passes=1, path=path)
    assert LatencyTable.read(path).conditions["layout"] == "channels last"
    images = [x for _, x in timer.asked if x.ndim == 4 and x.shape[1] > 1]
    assert images
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in images)
    kernels = [p for m, _ in timer.asked for p in m.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    with pytest.raises(SteppeError, match=r"layout.*channels last.*--channels-last"):
        table(path)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "5", '{"layers": {}}'])
def test_what_is_no_table(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    # a file that is there, and is none, cannot be gone on with
    out = path if text is None else "OTHER.json"
    with pytest.raises(SteppeError, match=f"steppe latency MODEL --batch 1 --out {out}"):
        LatencyTable.read(path)


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"batches": (0,)}, {"passes": 0}])
def test_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(SteppeError, match="1 or more"):
        table(**wrong)


def test_not_measured() -> None:
    measured = table(passes=1)
    layer = layer_shapes(network(), EXAMPLE, groups())[0]
    with pytest.raises(
        SteppeError, match=r"0: conv2d 3x3.*batch 5.*steppe latency MODEL --batch 5"
    ):
        measured.grid(layer, 5)
    narrower = measure_table(network(), EXAMPLE, groups(8), (2,), timer=Timer(), passes=1)
    with pytest.raises(SteppeError, match=r"1\.\.16"):
        narrower.grid(layer, 2)


def test_of_several_grids_the_closest() -> None:
    measured = measure_table(network(), EXAMPLE, groups(8), (2,), timer=Timer(), passes=1)
    measured = LatencyTable(measured.conditions, measured.layers, measured.networks)
    layer = layer_shapes(network(), EXAMPLE, groups(8))[0]
    measured.layers[key_of(layer, 2)]["grids"].insert(0, {"in": [1, 3], "out": [1, 16]})
    assert measured.grid(layer, 2)[:2] == ([3], [8, 10, 12, 14, 16])


@pytest.mark.parametrize(
    ("full", "least", "round_to", "expected"),
    [
        (16, 16, 1, [16]),
        (16, 8, 8, [8, 16]),
        (20, 1, 8, [1, 8, 16, 20]),
        (512, 8, 8, [8, 64, 128, 192, 256, 320, 384, 448, 512]),
    ],
)
def test_axis(full: int, least: int, round_to: int, expected: list[int]) -> None:
    assert axis(Width(full, (GroupWidth("a", full, least, 1),)), round_to) == expected


def test_layers_are_built_alike() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, "valid", dilation=2, groups=2),
        nn.GroupNorm(4, 8),
        nn.Flatten(2),
        nn.LayerNorm(9),
        nn.Linear(9, 6, bias=False),
        nn.BatchNorm1d(8),
    )
    sides = {"0": (6, 4), "1": (6, 6), "3": (7, 7), "4": (7, 2), "5": (3, 3)}
    for layer in layer_shapes(net, torch.zeros(2, 4, 10, 10), []):
        inputs, outputs = sides[layer.name]
        made = build_layer(layer, inputs, outputs)
        last = layer.name in "34"
        shape = (2, *layer.features, inputs) if last else (2, inputs, *layer.features)
        given = torch.zeros(shape)
        assert not made.training
        assert made(given).shape[-1 if last else 1] == outputs
        assert pairs(layer, [2], [2]) == [[2, 2]]


def test_keys_tell_layers_apart() -> None:
    nets: list[nn.Module] = [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.GroupNorm(4, 4),
    ]
    shapes = [layer_shapes(net, torch.zeros(1, 4, 8, 8), []) for net in nets]
    assert len({key_of(s[0], 1) for s in shapes}) == len(nets)
    assert len({network_key(s) for s in shapes}) == len(nets)
    smaller = layer_shapes(nets[0], torch.zeros(1, 4, 6, 6), [])
    assert key_of(smaller[0], 1) != key_of(shapes[0][0], 1)


def test_resized() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert with_batch(x, 3).tolist() == [[1, 2]] * 3
    again = with_batch({"x": x, "more": (x, None)}, 1)
    assert again["x"].tolist() == [[1, 2]]
    assert again["more"][0].shape == (1, 2)
    assert again["more"][1] is None


def test_a_table_in_a_running_network_of_any_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    given = {"x": torch.zeros(1, 3), "y": torch.zeros(1, 5)}
    measured = measure_table(Two(), given, [], (4,), timer=lambda m, x: (1.0, 1.0, 0.0), passes=1)
    assert list(measured.layers) == ["linear bias on 1 batch 4"]
    assert list(measured.layers["linear bias on 1 batch 4"]["points"]) == ["3x4", "5x4"]


@pytest.mark.parametrize(
    "change",
    [
        {"networks": {"a": {"1": None}}},
        {"networks": {"a": {"1": {}}}},
        {"networks": {"a": {"1": [1.0, 2.0]}}},
        {"networks": {"a": {"1": ["x", 1, 2, 3]}}},
        {"layers": {"a": {"points": {"1x1": [1.0]}, "grids": []}}},
        {"layers": {"a": {"points": {}, "grids": [{"in": [], "out": [1]}]}}},
        {"layers": []},
        {"conditions": 7},
    ],
)
def test_a_table_with_other_values_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = {"conditions": {}, "layers": {}, "networks": {"a": {"1": [1.0, 2.0, 0.1, 3]}}}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(whole))
    assert LatencyTable.read(path).batches == [1]
    path.write_text(json.dumps(whole | change))
    with pytest.raises(SteppeError, match="steppe latency wrote"):
        LatencyTable.read(path)
