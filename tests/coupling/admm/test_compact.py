"""One tensor and a bit per weight: the same bits as z and u apart, at half the memory."""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import steppe
from looped import looped
from steppe import methods
from steppe.core.curves import curve
from steppe.core.layer import Layer
from steppe.core.serialization import load_state, save_state
from steppe.core.step_context import StepContext
from steppe.coupling.admm import Admm, automatic, compact
from steppe.engine.step.selector import Selector

LAYERS = [Layer("a", (6, 5)), Layer("b", (4, 3, 2, 2)), Layer("c", (5, 7))]
STEPS = 48


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Also the signs of zeros."""
    kinds = {4: torch.int32, 2: torch.int16}
    kind = kinds[one.element_size()]
    return one.dtype == other.dtype and torch.equal(one.view(kind), other.view(kind))


class Apart:
    """The rule with two tensors: z and u, as they were kept before."""

    def __init__(self, weights: dict[str, Tensor], project: Any, options: dict[str, Any]) -> None:
        self.project, self.options = project, options
        masks = project(weights, 0.6)
        self.z = {n: torch.where(masks[n], w, torch.zeros_like(w)) for n, w in weights.items()}
        self.u = {n: torch.zeros_like(w) for n, w in weights.items()}
        self.still = dict.fromkeys(weights, 0)
        self.rest = {n: torch.zeros_like(w) for n, w in weights.items()}
        self.unit = torch.tensor(automatic.unit_of(10.0, "cosine", STEPS), dtype=torch.float64)

    def gap(self, n: str, x: Tensor) -> Tensor:
        return (x - self.z[n]) + self.u[n]

    def add(self, step: int, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        if self.options["penalty"] != "auto":
            lam = self.options["penalty"] * curve("cosine", step / STEPS)
            for n, x in weights.items():
                grads[n].add_(self.gap(n, x), alpha=lam)

    def after(self, step: int, weights: dict[str, Tensor], moved: set[str]) -> None:
        interval = self.options["interval"]
        if self.options["penalty"] == "auto":
            share = math.expm1(-float(self.unit * curve("cosine", (step + 1) / STEPS)))
            for n in moved:
                if weights[n].dtype == torch.float32:
                    weights[n].add_(self.gap(n, weights[n]), alpha=share)
                    continue
                exact = weights[n].float() + self.rest[n].float()
                exact.add_(self.gap(n, exact), alpha=share)
                weights[n].copy_(exact)
                self.rest[n] = (exact - weights[n]).to(weights[n].dtype)
        self.still = {n: 0 if n in moved else self.still[n] + 1 for n in weights}
        if (step + 1) % interval:
            return
        v = {n: self.u[n] + x for n, x in weights.items()}
        masks = self.project(v, 0.6)
        for n in v:
            self.z[n] = torch.where(masks[n], v[n], torch.zeros_like(v[n]))
            if self.still[n] < interval:
                self.u[n] = v[n] - self.z[n]


class Pair:
    """The coupling and the transcription on their own copies of the same weights."""

    def __init__(self, dtype: torch.dtype, **options: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = {x.name: torch.randn(x.shape, generator=generator).to(dtype) for x in LAYERS}
        drawn["a"][0, :3] = torch.tensor([0.0, -0.0, 0.0])
        method = methods.admm(sparsity=0.6).replace(coupling={"name": "admm", **options})
        assert isinstance(method.coupling, Admm)
        self.coupling, self.project = method.coupling, Selector(method, LAYERS)
        self.ours, self.theirs = copy.deepcopy(drawn), copy.deepcopy(drawn)
        self.apart = Apart(self.theirs, self.project, options)
        self.state: dict[str, dict[str, Tensor]] = {}
        self.state = self.coupling.init(self.context(-1))

    def context(self, step: int) -> StepContext:
        return StepContext(
            step=step,
            total=STEPS,
            sparsity=0.6,
            due=False,
            weights=self.ours,
            project=self.project,
            state=self.state,
        )

    def step(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step + 1)
        grads = {n: torch.randn(w.shape, generator=generator).to(w) for n, w in self.ours.items()}
        # one rests for a while in the middle, as an expert that nobody asks, and moves again
        moved = {n for n in self.ours if n != "b" or step % 24 >= 12}
        context = self.context(step)
        context.grads, context.moved = copy.deepcopy(grads), frozenset(moved)
        self.coupling.add_gradient(context)
        self.apart.add(step, self.theirs, grads)
        for n in moved:
            self.ours[n] -= 0.1 * context.grads[n]
            self.theirs[n] -= 0.1 * grads[n]
        self.coupling.after_step(context)
        self.apart.after(step, self.theirs, moved)

    def assert_same(self) -> None:
        seen = self.coupling.readable(self.state)
        for n in self.ours:
            assert same_bits(self.ours[n], self.theirs[n])
            assert same_bits(seen["z"][n], self.apart.z[n])
            assert same_bits(seen["u"][n], self.apart.u[n])


@pytest.mark.parametrize("penalty", ["auto", 0.3])
@looped(dtype=[torch.float32, torch.bfloat16])
@looped(interval=[1, 5])
def test_the_bits_of_z_and_u_apart(
    interval: int, dtype: torch.dtype, penalty: Any, tmp_path: Any
) -> None:
    pair = Pair(dtype, penalty=penalty, interval=interval)
    for step in range(STEPS):
        pair.step(step)
        pair.assert_same()
        if step in (8, 20):  # within a rest and after it
            save_state(tmp_path / "state", pair.state)
            pair.state = load_state(tmp_path / "state")
    assert any(u.any() for u in pair.apart.u.values())


def stored(state: dict[str, dict[str, Tensor]]) -> int:
    """Bytes of all tensors of a state, each storage once."""
    tensors = [t.untyped_storage() for named in state.values() for t in named.values()]
    return sum({s.data_ptr(): s.nbytes() for s in tensors}.values())


@pytest.mark.parametrize(
    ("build", "bytes_per_weight"),
    [
        (methods.safe, 4.125),
        (lambda **o: methods.admm(penalty=1e-3, interval=2, **o), 4.125),
        (methods.elsa, 4.125),
        (lambda **o: methods.elsa(state_dtype="bfloat16", **o), 2.125),
    ],
)
def test_bytes_per_weight(build: Any, bytes_per_weight: float) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sparsifier = steppe.sparsify(model, optimizer, build(sparsity=0.9), 8)
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    for _ in range(5):
        sparsifier.step(lambda: model(torch.randn(4, 64)).square().mean())
        state = sparsifier.state_dict()["coupling"]
        counters = stored({"run": state.get("run", {})})
        assert stored(state) - counters == bytes_per_weight * weights


def go(sparsifier: steppe.Sparsifier, model: nn.Module, steps: int) -> None:
    x, y = torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    for _ in range(steps):
        sparsifier.step(lambda: F.cross_entropy(model(x), y))


def begun(method: steppe.Method) -> tuple[nn.Module, steppe.Sparsifier]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, steppe.sparsify(model, optimizer, method, 20)


@pytest.mark.parametrize("penalty", ["auto", 0.1])
def test_a_state_of_before_goes_on_bit_for_bit(penalty: Any) -> None:
    method = methods.safe(sparsity=0.5, penalty=penalty, interval=3)
    model, sparsifier = begun(method)
    go(sparsifier, model, 10)
    state, weights = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(model.state_dict())
    go(sparsifier, model, 10)
    sparsifier.finish()

    again, resumed = begun(method)
    again.load_state_dict(weights)
    kept = state["coupling"]
    seen = {key: dict(value) for key, value in method.coupling.readable(kept).items()}
    assert "v" in kept
    state["coupling"] = {k: v for k, v in seen.items() if k not in ("v", "kept")}
    for option in ("start", "held", "update_first", "state_dtype", "seed"):
        del state["method"]["coupling"][option]
    resumed.load_state_dict(state)
    go(resumed, again, 10)
    resumed.finish()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_multiplier_that_lies_under_the_sparse_copy_is_taken_up_too() -> None:
    z, u = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 3.0, 0.0])
    state = compact.compacted({"z": {"w": z, "o": z}, "u": {"w": u, "o": u * (z == 0)}})
    assert set(state["u"]) == {"w"}
    for name, multiplier in (("w", u), ("o", u * (z == 0))):
        assert torch.equal(compact.sparse_copy(state, name), z)
        assert torch.equal(compact.multiplier(state, name), multiplier)
        x = torch.tensor([0.1, 0.2, 0.3])
        assert torch.equal(compact.apart(state, name, x), x - z + multiplier)


def test_what_one_looks_at_are_copies() -> None:
    model, sparsifier = begun(methods.admm(sparsity=0.5))
    assert sparsifier.state == {}
    go(sparsifier, model, 2)
    assert set(sparsifier.state["z"]) == {"0.weight", "2.weight"}
    assert len(sparsifier.state["u"]) == 2
    before = sparsifier.state["z"]["0.weight"].clone()
    sparsifier.state["z"]["0.weight"].zero_()
    assert torch.equal(sparsifier.state["z"]["0.weight"], before)


def test_in_16_bits_a_run_resumes_bit_for_bit_and_ends_near_that_in_32() -> None:
    def coarse(**options: Any) -> steppe.Method:
        part = {"name": "admm", "penalty": 0.1, "interval": 2, "state_dtype": "bfloat16"}
        return methods.admm(sparsity=0.5).replace(coupling=part | options)

    model, sparsifier = begun(coarse())
    go(sparsifier, model, 10)
    state, weights = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(model.state_dict())
    assert all(v.dtype == torch.bfloat16 for v in state["coupling"]["v"].values())
    go(sparsifier, model, 10)
    again, resumed = begun(coarse())
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    go(resumed, again, 10)
    ends = [model, again]
    for options in ({"seed": 1}, {"state_dtype": None}):
        other, apart = begun(coarse(**options))
        go(apart, other, 20)
        ends.append(other)
    first, second, seeded, exact = (
        torch.nn.utils.parameters_to_vector(m.parameters()) for m in ends
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, seeded)
    assert 0 < float((first - exact).norm()) < 0.01 * float(exact.norm())


def test_rescaling_keeps_the_copy_and_scales_the_multiplier() -> None:
    pair = Pair(torch.float32, penalty=0.3, interval=5)
    for step in range(15):
        pair.step(step)
    seen = pair.coupling.readable(pair.state)
    z, u = ({n: t.clone() for n, t in seen[key].items()} for key in ("z", "u"))
    compact.rescale(pair.context(15), 0.7, compact.Rounding(None, 0))
    for n in z:
        assert torch.equal(seen["z"][n], z[n])
        assert torch.equal(seen["u"][n], u[n] * 0.7)


class Peak(TorchDispatchMode):
    """The most bytes at a time of what operations made and somebody still holds."""

    def __init__(self, before: list[Tensor]) -> None:
        super().__init__()
        self.before = {t.untyped_storage().data_ptr() for t in before}
        self.made: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            held = result.untyped_storage()
        if isinstance(result, Tensor) and held.data_ptr() not in self.before:
            self.made[held.data_ptr()] = (weakref.ref(result), held.nbytes())
        alive = {at: (ref, size) for at, (ref, size) in self.made.items() if ref() is not None}
        self.made, self.most = alive, max(self.most, sum(size for _, size in alive.values()))
        return result


@pytest.mark.parametrize("options", [{"penalty": 0.1, "interval": 2}, {"penalty": "auto"}])
def test_a_step_holds_copies_of_one_weight_at_a_time(options: dict[str, Any]) -> None:
    coupling = Admm(**options)
    weights = {f"{i}": torch.randn(64, 64) for i in range(30)}
    state: dict[str, dict[str, Tensor]] = {}
    context = StepContext(
        step=-1,
        total=10**5,
        sparsity=0.5,
        due=False,
        weights=weights,
        project=lambda weights, sparsity: {n: w > 0 for n, w in weights.items()},  # type: ignore[arg-type]
        grads={n: torch.randn_like(w) for n, w in weights.items()},
        moved=frozenset(weights),
    )
    context.state = state = coupling.init(context)
    context.step = 0
    before = [*weights.values(), *context.grads.values()]
    before += [t for named in state.values() for t in named.values()]
    with Peak(before) as peak:
        coupling.add_gradient(context)
        coupling.after_step(context)
    assert 0 < peak.most <= 4 * 4 * 64 * 64
    assert state["v"]["0"].numel() == 64 * 64
