"""The latency of widths that were and were not measured; the timer is a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.core.group import Group, Slice
from steppe.removal.cost import COSTS
from steppe.removal.cost.latency import Latency
from steppe.removal.latency_table import LatencyTable, measure_table

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3, bias=False)
    ).eval()


def groups() -> list[Group]:
    a, b = torch.arange(16)[:, None], torch.arange(24)[:, None]
    inner = [("0.weight", 0, "output"), ("1.weight", 0, "norm"), ("2.weight", 1, "input")]
    return [
        Group("0.weight", tuple(Slice(n, d, a, r) for n, d, r in inner)),
        Group("2.weight", (Slice("2.weight", 0, b, "output"),)),
    ]


def timer(whole: float) -> Any:
    """A layer takes its weights in ms, bilinear in its widths; the network so many."""

    def take(module: nn.Module, inputs: Any) -> tuple[float, float, float]:
        if len(list(module.children())) == 3:
            return whole, 0.0, 0.0
        return float(sum(p.numel() for p in module.parameters())), 0.0, 0.0

    return take


WEIGHTS = 3 * 16 * 9 + 2 * 16 + 16 * 24 * 9


def table(whole: float = WEIGHTS, batches: tuple[int, ...] = (2,), **options: Any) -> LatencyTable:
    model = network()
    return measure_table(model, EXAMPLE, groups(), batches, timer=timer(whole), passes=1, **options)


def cost(measured: LatencyTable, **options: Any) -> Latency:
    latency_cost = COSTS["latency"].of(network(), EXAMPLE, groups(), table=measured, **options)
    assert isinstance(latency_cost, Latency)
    return latency_cost


def widths(a: int, b: int) -> dict[str, int]:
    return {"0.weight": a, "2.weight": b}


@pytest.mark.parametrize(("a", "b"), [(16, 24), (1, 1), (5, 7), (10, 23)])
def test_interpolation_is_exact_where_time_is_bilinear(a: int, b: int) -> None:
    expected = 3 * a * 9 + 2 * a + a * b * 9
    assert cost(table()).total(widths(a, b)) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.5, 1.7])
@pytest.mark.parametrize(("a", "b"), [(16, 24), (5, 7)])
def test_layers_are_scaled_to_the_whole(share: float, a: int, b: int) -> None:
    expected = share * (3 * a * 9 + 2 * a + a * b * 9)
    assert cost(table(WEIGHTS * share)).total(widths(a, b)) == pytest.approx(expected)


def test_dense_is_what_was_measured_and_along_its_change() -> None:
    latency_cost = cost(table(9999.0))
    assert latency_cost.total({}) == pytest.approx(9999)
    assert latency_cost.unit == "ms"
    kept = widths(9, 20)
    changes = latency_cost.along(kept, "0.weight", [1, 9, 16])
    expected = [latency_cost.total(widths(a, 20)) - latency_cost.total(kept) for a in (1, 9, 16)]
    assert changes == pytest.approx(expected)
    assert changes[1] == 0


def test_the_batch() -> None:
    assert cost(table()).batch == 2
    several = table(batches=(1, 2))
    assert cost(several, batch=1).batch == 1
    with pytest.raises(SteppeError, match=r"a table of \[1, 2\]"):
        cost(several)
    with pytest.raises(SteppeError, match=r"with batch 1, 2 and not 3.*--batch 3 --out"):
        cost(several, batch=3)


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table(path=path)
    for given in (path, str(path)):
        assert cost(given).total({}) == pytest.approx(WEIGHTS)  # type: ignore[arg-type]
    with pytest.raises(SteppeError, match="steppe latency MODEL"):
        cost(tmp_path / "none.json")  # type: ignore[arg-type]
    with pytest.raises(SteppeError, match="no table"):
        COSTS["latency"].of(network(), EXAMPLE, groups())


@pytest.mark.parametrize("name", ["device", "threads", "dtype"])
def test_measured_elsewhere(name: str) -> None:
    measured = table()
    measured.conditions[name] = "another"
    with pytest.raises(SteppeError, match=rf"the {name} it was measured with; got another"):
        cost(measured)


def test_another_network_or_wider_groups() -> None:
    measured = table()
    said = r"another network, images of another size or another number.*--out OTHER.json, then"
    with pytest.raises(SteppeError, match=said):
        COSTS["latency"].of(network()[:1], EXAMPLE, [], table=measured)
    fixed = measure_table(network(), EXAMPLE, [], (2,), timer=timer(WEIGHTS), passes=1)
    with pytest.raises(SteppeError, match=r"widths 3\.\.3 -> 1\.\.16"):
        cost(fixed)
