"""What shall go shrinks to nothing before it is removed; what is chosen stays chosen."""

import pytest
import torch

from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.step_context import StepContext
from steppe.coupling.growing_reg import GrowingReg
from steppe.engine.step.selector import Selector

BUDGET = {"name": "pooled", "sparsity": 0.5}


def channels(**options):
    return Method(
        structure="channel",
        score="l1",
        budget=BUDGET,
        coupling={"name": "growing_reg", "update_every": 2, "hold": 20, **options},
    )


class Quadratic:
    """f = sum h (w - a)^2 / 2 by plain gradient descent, single weights."""

    def __init__(self, coupling, weight, curvature, lr=0.1):
        method = Method(budget=BUDGET, coupling=coupling)
        self.coupling, self.lr, self.step = coupling, lr, 0
        self.w, self.a, self.h = {"w": weight.clone()}, weight.clone(), curvature
        self.select = Selector(method, [Layer("w", tuple(weight.shape))])
        self.state = {}
        self.state = coupling.init(self.context(-1))

    def context(self, step):
        return StepContext(
            step=step,
            total=1000,
            sparsity=0.5,
            due=True,
            weights=self.w,
            project=self.select,
            state=self.state,
        )

    def go(self, steps):
        for _ in range(steps):
            context = self.context(self.step)
            context.grads = {"w": self.h * (self.w["w"] - self.a)}
            self.coupling.add_gradient(context)
            self.w["w"] -= self.lr * context.grads["w"]
            self.coupling.after_step(context)
            self.step += 1
        return self.w["w"]


def test_the_penalty_grows_as_written_and_stops():
    coupling = GrowingReg(update_every=5, delta=0.1, ceiling=0.45, hold=10)
    run = Quadratic(coupling, torch.tensor([[1.0, 2.0]]), torch.ones(1, 2))
    for expected in (0.1, 0.2, 0.3, 0.4, 0.45, 0.45):
        run.go(5)
        torch.testing.assert_close(run.state["reg"]["w"], torch.tensor([[expected, 0.0]]))
    assert "gone" not in run.state
    run.go(10)  # 5 updates of 5 steps, and 10 steps more
    assert "gone" in run.state
    assert run.w["w"][0, 0] == 0.0
    assert run.w["w"][0, 1] == 2.0


def test_grown_picks_what_the_loss_holds_least():
    """The larger weight is in the flatter direction: L1 keeps it, GReg-2 does not."""
    weight, curvature = torch.tensor([[1.0, 1.5]]), torch.tensor([[4.0, 0.05]])
    now = Quadratic(GrowingReg(update_every=1), weight, curvature)
    assert now.state["mask"]["w"].tolist() == [[False, True]]
    options = {"update_every": 1, "pick_delta": 0.01, "pick_ceiling": 0.2}
    grown = Quadratic(GrowingReg(pick="grown", **options), weight, curvature)
    grown.go(19)
    assert "mask" not in grown.state
    torch.testing.assert_close(grown.state["reg"]["w"], torch.full((1, 2), 0.19))
    grown.go(1)
    assert "mask" in grown.state
    late = {"pick_ceiling": 2.0, "pick_delta": 0.01, "update_every": 1}
    grown = Quadratic(GrowingReg(pick="grown", **late), weight, curvature)
    grown.go(200)
    assert grown.state["mask"]["w"].tolist() == [[True, False]]


def test_recovery_pushes_what_stays_away_from_zero():
    coupling = GrowingReg(update_every=1, recover=-0.1)
    run = Quadratic(coupling, torch.tensor([[1.0, 2.0]]), torch.ones(1, 2))
    assert float(run.go(200)[0, 1]) == pytest.approx(2.0 / 0.9, rel=1e-3)
    assert GrowingReg().recover == 0.0


def test_channels_are_near_zero_before_they_are_removed(grouped):
    method = channels(delta=0.05, hold=1000)
    torch.manual_seed(0)
    net, sparsifier = grouped.train(method, steps=300, lr=0.05)
    masks = sparsifier.state["mask"]
    weights = dict(net.named_parameters())
    for name, mask in masks.items():
        if not mask.all():
            assert weights[name].detach()[~mask].abs().max() < 1e-3, name
            assert weights[name].detach()[mask].abs().mean() > 1e-2, name
    x, _ = grouped.data()
    before = net.eval()(x).detach()
    done = sparsifier.finish()
    assert done.units_zeroed == 7
    assert all(torch.equal(done.masks[n], masks[n]) for n in masks)
    torch.testing.assert_close(net(x).detach(), before, atol=1e-2, rtol=0)


def test_the_kept_set_is_constant(grouped):
    import steppe

    torch.manual_seed(0)
    net = grouped.Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = channels(delta=0.2, hold=4)
    sparsifier = steppe.sparsify(net, optimizer, method, 40, groups=grouped.groups())
    seen = []
    for _ in range(40):
        sparsifier.step(lambda: grouped.loss(net))
        seen.append({n: m.clone() for n, m in sparsifier.state["mask"].items()})
    assert all(torch.equal(seen[0][n], later[n]) for later in seen for n in later)
    # removed before the end: exact zeros that stay
    assert not net.conv1.weight.detach()[~seen[0]["conv1.weight"]].any()


def test_wrong_options():
    for wrong in ({"update_every": 0}, {"delta": 0.0}, {"ceiling": -1.0}, {"hold": -1}):
        with pytest.raises(SteppeError, match="growing_reg needs"):
            GrowingReg(**wrong)
    with pytest.raises(SteppeError, match="pushed away"):
        GrowingReg(recover=0.1)
    with pytest.raises(SteppeError, match="pick"):
        GrowingReg(pick="later")
