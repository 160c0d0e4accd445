"""Networks with the same decisions are as robust, or it is said that the figure is none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steppe.robustness.attacks import pgd, pgd_probed
from steppe.robustness.attacks.linf import Linf
from steppe.robustness.draws import Draws
from steppe.robustness.image_loss import ImageLoss
from steppe.robustness.second_look import SecondLook, Worst, search

EPS = 8 / 255


class Changed(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net, x)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.rand(100, 3, 4, 4)
    with torch.no_grad():
        y = net(x).argmax(1)
    worst = float(pgd(Changed(net, lambda net, x: 10 * net(x)), x, y, eps=EPS).right.float().mean())
    return net, x, y, worst


@torch.inference_mode()
def without_gradient(net, x):
    return net(x)


MENDED = {
    "times 1e3": lambda net, x: net(x) * 1e3,
    "times 1e5": lambda net, x: net(x) * 1e5,
    "times 1e30": lambda net, x: net(x) * 1e30,
    "times 1e-20": lambda net, x: net(x) * 1e-20,
    "softmax": lambda net, x: (net(x) * 1e5).softmax(1),
    "log_softmax": lambda net, x: F.log_softmax(net(x) * 1e5, 1),
    "argmax": lambda net, x: F.one_hot(net(x).argmax(1), 4).float(),
    "rounded pixels": lambda net, x: net((x * 255).round() / 255),
    "cast": lambda net, x: net((x * 255 + 0.5).to(torch.uint8).float() / 255),
    "some channels rounded": lambda net, x: net(
        torch.cat([(x[:, :1] * 255).round() / 255, x[:, 1:]], 1)
    ),
    "detached": lambda net, x: net(x.detach()),
}
DOUBTED = {
    "numpy": lambda net, x: net(torch.from_numpy(x.numpy())),
    "inference mode": without_gradient,
    "comparisons": lambda net, x: net(
        sum((x > t).float() for t in torch.linspace(0.02, 0.98, 49)) / 49
    ),
    "noise": lambda net, x: net(x + 0.02 * torch.sin(3e3 * x)),
}


@pytest.mark.parametrize("name", MENDED)
def test_masked_gradients_are_seen_through(case, name):
    net, x, y, worst = case
    with pytest.warns(RuntimeWarning, match="gradient"):
        attacked = pgd(Changed(net, MENDED[name]), x, y, eps=EPS)
    assert float(attacked.right.float().mean()) == pytest.approx(worst, abs=0.021)
    assert not attacked.probed.doubt
    assert attacked.probed.notes


@pytest.mark.parametrize("name", DOUBTED)
def test_what_cannot_be_seen_through_is_said(case, name):
    net, x, y, worst = case
    with pytest.warns(RuntimeWarning, match="cannot be trusted") as said:
        attacked = pgd(Changed(net, DOUBTED[name]), x, y, eps=EPS)
    assert all("\n" not in str(one.message) for one in said)
    assert any(attacked.probed.doubt in str(one.message) for one in said)
    assert float(attacked.right.float().mean()) > worst + 0.05
    # gradients apart, random squares fool some
    assert int(attacked.right.sum()) < int(attacked.clean.sum()) - 2
    size = (attacked.images - x).abs().max()
    assert float(size) <= EPS + 1e-6


def test_where_nothing_is_masked_nothing_is_said_or_changed(case):
    net, x, y, _ = case
    for norm, eps in (("linf", EPS), ("l2", 0.5)):
        attacked = pgd_probed(net, x, y, norm=norm, eps=eps)
        assert attacked.probed.lines() == []
        assert attacked.probed.notes == []
        assert attacked.probed.agreement > 0.9
        assert not attacked.vanishing.any()


def test_the_share_of_vanishing_gradients_is_each_images(case):
    net, x, y, _ = case

    def some(net, x):
        z = net(x)
        return torch.where((x.flatten(1).mean(1) > 0.5)[:, None], z.detach(), z)

    bright = x.flatten(1).mean(1) > 0.53
    dark = x.flatten(1).mean(1) < 0.47
    attacked = pgd_probed(Changed(net, some), x, y, eps=0.01)
    assert (attacked.vanishing[bright] == 1).all()
    assert (attacked.vanishing[dark] == 0).all()


def test_a_small_gradient_does_not_vanish(case):
    """Its loss is saturated, so the margin is climbed too; by its definition nothing vanishes."""
    net, x, y, _ = case

    def far_apart(net, x):
        z = net(x)
        return z + 18 * F.one_hot(z.argmax(1), 4)

    attacked = pgd_probed(Changed(net, far_apart), x, y, eps=0.001)
    assert not attacked.vanishing.any()
    assert attacked.probed.saturated > 90


def test_one_logit(case):
    _, x, _, _ = case
    torch.manual_seed(1)
    head = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    with torch.no_grad():
        z = head(x)[:, 0]
    slope = head[1].weight.abs().sum()
    y = (z > 0).long()
    inside = ((x > 0.01) & (x < 0.99)).flatten(1).all(1)
    for model in (head, nn.Sequential(head, nn.Flatten(0)), nn.Sequential(head, nn.Sigmoid())):
        right = pgd(model, x, y.float(), eps=0.01).right
        robust = z.abs() > 0.01 * slope
        assert torch.equal(right[inside], robust[inside])
        assert int(right.sum()) < len(x)


def test_nan_under_attack_is_wrong_and_said(case):
    net, x, y, _ = case

    def breaks(net, x):
        moved = (x - images).abs().flatten(1).amax(1) > 0.5 * EPS
        return torch.where(moved[:, None], torch.nan, net(x))

    images = x
    attacked = pgd_probed(Changed(net, breaks), x, y, eps=EPS)
    assert not attacked.right.any()
    assert "NaN" in " ".join(attacked.probed.notes)


def test_counts_of_batches_add_up():
    one = SecondLook(images=60, blind=1, untrusted=1, agreement=0.9)
    assert one.doubt
    both = one + SecondLook(images=60, agreement=0.8)
    assert (both.images, both.untrusted, both.agreement) == (120, 1, 0.8)
    assert not both.doubt
    assert "other network" in SecondLook(images=50, transferred=3).doubt
    assert SecondLook().lines() == []


def test_the_search_finds_the_corner_of_a_linear_network():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x, y = torch.full((5, 3, 2, 2), 0.5), torch.zeros(5, dtype=torch.long)
    loss = ImageLoss(head, y, lambda m, x: m(x).detach())
    radius = torch.full((5, 1, 1, 1), 0.1)
    worst = Worst(x, radius, Linf(), x.clone(), *loss(x))
    before = loss.margins(x)
    search(worst, loss, Draws(0, "squares", range(5)), queries=300)
    slope = (head[1].weight[1] - head[1].weight[0]).abs().sum() * 0.1
    gained = loss.margins(worst.points) - before
    assert (gained > 0.7 * slope).all()
    assert (gained <= slope * 1.001).all()
