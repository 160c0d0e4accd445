"""Selection is exact: every result equals a stable sort's, whatever the data, dtype or layout."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from looped import looped
from steppe.core import ranking
from steppe.core.errors import SteppeError
from steppe.core.selection import (
    apportion,
    count,
    keep_largest,
    keep_largest_per_row,
    threshold,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def drop_by_sorting(values: np.ndarray, prune: int) -> np.ndarray:
    """Mask of one sequence by a stable sort; of equal values the last are dropped first."""
    order = np.argsort(-np.abs(values), kind="stable")
    mask = np.ones(len(values), dtype=bool)
    mask[order[len(values) - prune :]] = False
    return mask


def check(tensors: dict[str, Tensor], prune: int) -> None:
    """Compare masks and threshold with brute force."""
    names = sorted(tensors)
    values = np.concatenate([tensors[n].double().reshape(-1).numpy() for n in names])
    masks = keep_largest(tensors, prune)
    assert list(masks) == list(tensors)
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == tensors[name].shape
        assert mask.is_contiguous()
    got = np.concatenate([masks[n].reshape(-1).numpy() for n in names])
    np.testing.assert_array_equal(got, drop_by_sorting(values, prune))
    if prune:
        v, less = threshold([tensors[n] for n in names], prune)
        sizes = np.abs(values)
        assert v == np.partition(sizes, prune - 1)[prune - 1]
        assert less == np.count_nonzero(sizes < v)


@pytest.fixture(params=["small", "sampled", "radix"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on each way to the threshold, with pieces small enough to have many."""
    if request.param != "small":
        monkeypatch.setattr(ranking, "SMALL", 0)
        monkeypatch.setattr(ranking, "PIECE_CPU", 64)
        monkeypatch.setattr(ranking, "THREADED", 500)
    if request.param == "radix":
        monkeypatch.setattr(ranking, "_bracket", lambda pool, k: (-1, 0))
        monkeypatch.setattr(ranking, "_count_equal", lambda pool, key: 0)
    return str(request.param)


@looped(dtype=DTYPES)
@looped(levels=[0, 3, 40])
def test_masks_and_threshold_equal_a_stable_sort(
    path: str, dtype: torch.dtype, levels: int
) -> None:
    g = torch.Generator().manual_seed(levels)
    tensors = {}
    for name, shape in {"b": (30, 11), "a": (7,), "d": (), "c": (4, 3, 5, 5), "e": (0, 3)}.items():
        x = torch.randn(shape, generator=g)
        tensors[name] = ((x * levels).round() / levels if levels else x).to(dtype)
    n = sum(t.numel() for t in tensors.values())
    for prune in (0, 1, 2, n // 3, n // 2, n - 20, n - 1, n):
        check(tensors, prune)


def test_mixed_dtypes_are_compared_by_exact_value(path: str) -> None:
    # 1 + 2**-30 is above 1 in float64 only; rounding it down would make a tie and keep "a".
    tensors = {
        "a": torch.tensor([1.0, -(2.0**-24)], dtype=torch.float16),
        "b": torch.tensor([1 + 2.0**-30], dtype=torch.float64),
        "c": torch.tensor([-(1 + 2.0**-7), 1.0], dtype=torch.bfloat16),
        "d": torch.tensor([1 + 2.0**-23, 0.5], dtype=torch.float32),
    }
    for prune in range(8):
        check(tensors, prune)
    assert not keep_largest(tensors, 4)["c"][1]


def test_result_does_not_depend_on_the_order_of_the_mapping(path: str) -> None:
    tensors = {f"t{i}": torch.ones(5 + 40 * i) for i in range(9)}
    reference = keep_largest(tensors, 123)
    backwards = keep_largest(dict(reversed(tensors.items())), 123)
    assert all(torch.equal(backwards[n], m) for n, m in reference.items())


@looped(value=[0.0, -0.0, 2.5, math.inf])
def test_all_equal_keeps_the_earliest(path: str, value: float) -> None:
    tensors = {"b": torch.full((10, 30), value), "a": torch.full((50,), -value)}
    for prune in (0, 1, 299, 300, 301, 350):
        masks = keep_largest(tensors, prune)
        flat = torch.cat([masks["a"], masks["b"].view(-1)])
        assert flat.tolist() == [True] * (350 - prune) + [False] * prune


def test_positive_and_negative_zero_are_equal(path: str) -> None:
    assert keep_largest({"a": torch.tensor([-0.0, 0.0, -0.0, 0.0])}, 2)["a"].tolist() == [
        *(True, True),
        *(False, False),
    ]


def test_subnormal_numbers_are_ranked(path: str) -> None:
    x = torch.tensor([3e-45, -1e-45, 0.0, 1e-44])
    assert keep_largest({"a": x}, 2)["a"].tolist() == [True, False, False, True]


def test_one_element_and_nothing(path: str) -> None:
    assert threshold([torch.tensor(-3.0)], 1) == (3.0, 0)
    assert keep_largest({"a": torch.tensor(-3.0)}, 0)["a"].item() is True
    assert keep_largest({"a": torch.tensor(-3.0)}, 1)["a"].item() is False
    assert keep_largest({}, 0) == {}
    assert keep_largest({"a": torch.empty(0, 3)}, 0)["a"].shape == (0, 3)


@looped(dtype=DTYPES)
def test_infinity_ranks_largest(path: str, dtype: torch.dtype) -> None:
    x = torch.randn(200).to(dtype)
    x[3], x[150] = math.inf, -math.inf
    for prune in (1, 100, 198, 199):
        check({"a": x}, prune)
    assert threshold([x], 199) == (math.inf, 198)


@looped(dtype=DTYPES)
def test_nan_is_refused_by_name(path: str, dtype: torch.dtype) -> None:
    x = torch.randn(300).to(dtype)
    x[170] = math.nan
    for prune in (0, 5, 299, 300):
        with pytest.raises(SteppeError, match="NaN in head"):
            keep_largest({"body": torch.ones(9), "head": -x}, prune)
    with pytest.raises(SteppeError, match=r"tensors\[1\]"):
        threshold([torch.ones(3), x], 4)
    with pytest.raises(SteppeError, match="NaN"):
        keep_largest_per_row(x.view(-1, 4), 2)


def test_wrong_arguments_are_refused() -> None:
    x = torch.ones(4)
    for k in (0, 5, -1):
        with pytest.raises(SteppeError, match="rank"):
            threshold([x], k)
    for prune in (-1, 5):
        with pytest.raises(SteppeError, match="prune"):
            keep_largest({"a": x}, prune)
    with pytest.raises(SteppeError, match="int64"):
        keep_largest({"a": x.long()}, 1)
    with pytest.raises(SteppeError, match="sparsity"):
        count(95, 100)
    with pytest.raises(SteppeError, match="negative"):
        count(0.5, -1)


def test_layout_does_not_matter(path: str) -> None:
    base = (torch.randn(24, 30, 10) * 4).round()
    views = [
        base.permute(2, 0, 1),
        base[::2, 1::3],
        base.transpose(0, 1),
        base[:, :, 0],
        base[:1].expand(5, -1, -1),
        base.view(6, 4, 30, 10).to(memory_format=torch.channels_last),
        torch.nn.Parameter(base),
    ]
    for view in views:
        x = view.detach()
        check({"a": x, "b": base}, (x.numel() + base.numel()) // 2)
        flat = x.clone(memory_format=torch.contiguous_format)
        masks = [keep_largest({"a": t}, x.numel() // 2)["a"] for t in (view, flat)]
        assert torch.equal(*masks)


def test_inputs_are_left_as_they_were(path: str) -> None:
    x = torch.randn(40, 10)
    before = x.clone()
    keep_largest({"a": x}, 200)
    keep_largest_per_row(x, 3)
    assert torch.equal(x, before)


LARGE: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "heavy tails": lambda x: x / torch.rand(len(x), generator=torch.Generator().manual_seed(1)),
    "tiny range": lambda x: 1 + x * 1e-7,
    "quantised": lambda x: (x * 8).round() / 8,
    "two values": lambda x: (x > 1).float(),
    "95 % zeros": lambda x: x * (x.abs() > 1.96),
    "ascending": lambda x: x.abs().sort().values,
    "descending": lambda x: x.abs().sort(descending=True).values,
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double() * (1 + 1e-12 * x.double()),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_inputs_equal_a_stable_sort(kind: str) -> None:
    x = torch.randn(1_100_003, generator=torch.Generator().manual_seed(0))
    x = LARGE[kind](x)
    values = np.abs(x.double().numpy())
    order = np.argsort(-values, kind="stable")
    n = len(values)
    for sparsity in (0.5, 0.95, 0.99):
        prune = count(sparsity, n)
        v, less = threshold([x[:400_000], x[400_000:]], prune)
        assert v == values[order[n - prune]]
        assert less == np.count_nonzero(values < v)
        mask = np.ones(n, dtype=bool)
        mask[order[n - prune :]] = False
        masks = keep_largest({"b": x[400_000:], "a": x[:400_000].view(400, 1000)}, prune)
        np.testing.assert_array_equal(masks["a"].view(-1).numpy(), mask[:400_000])
        np.testing.assert_array_equal(masks["b"].numpy(), mask[400_000:])


def test_data_built_against_the_sample_is_still_exact() -> None:
    """All entries the seeded sample looks at are zero, so the bracket misses altogether."""
    x = torch.randn(1_100_000)
    pool = ranking.pool_of({"x": x})
    seen: list[np.ndarray] = []
    original = ranking._keys_at

    def spy(t: Tensor, index: np.ndarray, dtype: torch.dtype) -> np.ndarray:
        seen.append(index)
        return original(t, index, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_keys_at", spy)
        ranking._bracket(pool, 1)
    x[torch.from_numpy(seen[0])] = 0
    for k in (15_000, 900_000):
        value = threshold([x], k)[0]
        assert value == x.abs().kthvalue(k).values.item()
        assert value > 0


def test_bracket_that_collects_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(200_000)
    monkeypatch.setattr(ranking, "_bracket", lambda pool, k: (-1, pool.infinity + 1))
    assert threshold([x], 150_000)[0] == x.abs().kthvalue(150_000).values.item()
    pool = ranking.pool_of({"x": x})
    _, inside, keys, _ = ranking._scan(pool, -1, pool.infinity + 1)
    assert inside == 200_000
    assert len(keys) == 0


def test_random_state_is_untouched_and_the_result_repeats() -> None:
    x = torch.randn(300_000)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = threshold([x], 1000)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert threshold([x], 1000) == first


MEMORY = """
import sys, torch
from steppe.core.selection import threshold
x = torch.randn(25_000_000)
if sys.argv[1] == "zeros":
    x[1_250_000:] = 0
threshold([x[:2_000_000]], 1_900_000)
def status(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key))
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")
before = status("VmRSS")
for p in (0.5, 0.96):
    threshold([x], int(p * x.numel()))
print((status("VmHWM") - before) / (4 * x.numel()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize("kind", ["normal", "zeros"])
def test_extra_memory_stays_below_a_fifth_of_the_weights(kind: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=False
    )
    if "clear_refs" in out.stderr:
        pytest.skip("this system does not let a process reset its peak memory")
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) < 0.2


def per_row_by_sorting(scores: Tensor, prune: list[int]) -> np.ndarray:
    rows = scores.double().numpy()
    return np.stack([drop_by_sorting(row, k) for row, k in zip(rows, prune, strict=True)])


@looped(dtype=DTYPES)
@looped(cols=[1, 2, 4, 8, 16, 17, 64, 300])
@looped(levels=[0, 2])
def test_rows_equal_a_stable_sort(dtype: torch.dtype, cols: int, levels: int) -> None:
    g = torch.Generator().manual_seed(cols)
    x = torch.randn(60, cols, generator=g)
    x = ((x * levels).round() if levels else x).to(dtype)
    budgets = torch.randint(0, cols + 1, (60,), generator=g)
    for prune in (0, 1, cols // 2, cols):
        got = keep_largest_per_row(x, prune).numpy()
        np.testing.assert_array_equal(got, per_row_by_sorting(x, [prune] * 60))
    got = keep_largest_per_row(x, budgets).numpy()
    np.testing.assert_array_equal(got, per_row_by_sorting(x, budgets.tolist()))


@pytest.mark.parametrize("cols", [4, 50])
def test_many_rows_in_pieces_and_any_layout(monkeypatch: pytest.MonkeyPatch, cols: int) -> None:
    x = (torch.randn(cols, 999) * 2).round().t()
    reference = keep_largest_per_row(x.contiguous(), 3)
    monkeypatch.setattr("steppe.core.selection.PIECE_CPU", 7 * cols)
    monkeypatch.setattr(ranking, "THREADED", 1)
    assert torch.equal(keep_largest_per_row(x, 3), reference)
    assert (~reference).sum(1).eq(3).all()


def test_rows_refuse_wrong_arguments() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(SteppeError, match="two dimensions"):
        keep_largest_per_row(x[0], 1)
    for prune in (torch.tensor([1, 2]), torch.tensor([1.0, 1.0, 1.0]), torch.ones(3, 1).long()):
        with pytest.raises(SteppeError, match="prune must be an integer"):
            keep_largest_per_row(x, prune)
    for number in (-1, 5, torch.tensor([0, 5, 1])):
        with pytest.raises(SteppeError, match=r"0\.\.4"):
            keep_largest_per_row(x, number)
    assert keep_largest_per_row(torch.empty(0, 4), 1).shape == (0, 4)


@pytest.mark.parametrize(
    ("sparsity", "n", "expected"),
    [(0.0, 7, 0), (1.0, 7, 7), (0.5, 5, 2), (0.5, 7, 4), (0.95, 270_656, 257_123)],
)
def test_count_rounds_half_to_even(sparsity: float, n: int, expected: int) -> None:
    assert count(sparsity, n) == expected


layers = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.floats(0, 1e6) | st.just(0.0) | st.integers(0, 50), st.integers(0, 200)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(layers, st.floats(0, 1))
def test_apportion_is_exact_within_sizes_and_order_free(
    drawn: dict[str, tuple[float, int]], part: float
) -> None:
    shares = {n: s for n, (s, _) in drawn.items()}
    sizes = {n: z for n, (_, z) in drawn.items()}
    total = round(part * sum(sizes.values()))
    result = apportion(shares, sizes, total)
    assert sum(result.values()) == total
    assert all(0 <= result[n] <= sizes[n] for n in sizes)
    backwards = apportion(dict(reversed(shares.items())), sizes, total)
    assert backwards == result
    assert list(result) == list(shares)
    # Of two names below their sizes the larger share never gets less.
    free = sorted((shares[n], result[n]) for n in sizes if result[n] < sizes[n])
    assert all(a[1] <= b[1] for a, b in pairwise(free) if a[0] < b[0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.integers(1, 10**6))
def test_apportion_stays_within_one_of_the_quota(weights: list[int], total: int) -> None:
    shares = {f"{i:02}": float(w) for i, w in enumerate(weights)}
    if not sum(weights):
        return
    result = apportion(shares, dict.fromkeys(shares, total), total)
    for name, share in shares.items():
        assert abs(result[name] - share * total / sum(weights)) < 1 + 1e-6


def test_apportion_examples() -> None:
    assert apportion({"b": 1, "a": 1, "c": 1}, {"a": 9, "b": 9, "c": 9}, 4) == {
        "b": 1,
        "a": 2,
        "c": 1,
    }
    assert apportion({"a": 90, "b": 5, "c": 5}, {"a": 10, "b": 50, "c": 50}, 50) == {
        "a": 10,
        "b": 20,
        "c": 20,
    }
    assert apportion({"a": 1, "b": 0, "c": 0}, {"a": 3, "b": 4, "c": 8}, 6) == {
        "a": 3,
        "b": 1,
        "c": 2,
    }
    assert apportion({"a": 0.1 * 3 * 10, "b": 0.7 * 10}, {"a": 10, "b": 10}, 10) == {"a": 3, "b": 7}
    assert apportion({}, {}, 0) == {}


def test_apportion_refuses_wrong_arguments() -> None:
    for shares, sizes, total in (
        ({"a": 1.0}, {"b": 1}, 0),
        ({"a": -1.0}, {"a": 1}, 0),
        ({"a": math.nan}, {"a": 1}, 0),
        ({"a": math.inf}, {"a": 1}, 0),
        ({"a": 1.0}, {"a": 1}, 2),
        ({"a": 1.0}, {"a": 1}, -1),
    ):
        with pytest.raises(SteppeError):
            apportion(shares, sizes, total)


@looped(cols=[1, 4, 8, 40])
@looped(dtype=[torch.float32, torch.bfloat16])
def test_rows_that_lie_column_by_column(cols, dtype):
    scores = torch.randint(-3, 4, (70, cols)).to(dtype)
    for prune in (cols // 2, torch.arange(70) % (cols + 1)):
        mask = keep_largest_per_row(scores, prune)
        turned = keep_largest_per_row(scores.t().contiguous().t(), prune)
        assert torch.equal(mask, turned)
        dropped = (~mask).sum(1)
        assert torch.equal(dropped, torch.as_tensor(prune).expand(70))
    scores[3, -1] = float("nan")
    with pytest.raises(SteppeError, match="NaN in scores"):
        keep_largest_per_row(scores.t().contiguous().t(), 0)
