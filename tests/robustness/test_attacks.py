"""Attacks stay in their ball and climb; on linear models the worst point is known."""

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.attacks import NORMS, Normalised, pgd


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(8 * 64, 5),
    )  # fmt: skip


def data(count=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=g), torch.randint(5, (count,), generator=g)


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("start", [True, False])
def test_within_the_ball_and_never_below_the_clean_loss(norm, start):
    model, (x, y) = network(), data()
    eps = torch.linspace(0.0, 0.4, len(x))
    attacked = pgd(model, x, y, norm=norm, eps=eps, steps=7, restarts=2, random_start=start)
    size = NORMS[norm]().size(attacked.images - x)
    assert (size <= eps * (1 + 1e-5) + 1e-6).all()
    assert float(attacked.images.min()) >= 0.0
    assert float(attacked.images.max()) <= 1.0
    with torch.no_grad():
        model.eval()
        clean = nn.functional.cross_entropy(model(x), y, reduction="none")
        now = nn.functional.cross_entropy(model(attacked.images), y, reduction="none")
        right = model(attacked.images).argmax(1) == y
    torch.testing.assert_close(now, attacked.loss)
    assert torch.equal(right, attacked.right)
    assert (now >= clean - 1e-6).all()
    assert not (attacked.right & ~attacked.clean).any()
    assert now[-1] > clean[-1] + 1e-3


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_worst_point_of_a_linear_model(norm, dual):
    torch.manual_seed(0)
    head = nn.Linear(3 * 64, 2)
    model = nn.Sequential(nn.Flatten(), head).double()
    x = torch.full((4, 3, 8, 8), 0.5, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1])
    eps = 0.2
    attacked = pgd(model, x, y, norm=norm, eps=eps, steps=60, step_size=0.05)
    slope = head.weight[1] - head.weight[0]
    margin = (model(x)[:, 1] - model(x)[:, 0]) * (1 - 2 * y)
    worst = nn.functional.softplus(margin + eps * slope.norm(dual))
    torch.testing.assert_close(attacked.loss.double(), worst.detach(), rtol=1e-3, atol=1e-4)


def test_more_budget_steps_and_restarts_never_help_the_network():
    model, (x, y) = network(1), data(40, 1)
    right = [
        int(pgd(model, x, y, eps=eps, steps=10, random_start=False).right.sum())
        for eps in (0.0, 0.02, 0.1)
    ]
    assert right[0] >= right[1] >= right[2]
    one = pgd(model, x, y, norm="l2", eps=0.3, steps=2, restarts=1)
    many = pgd(model, x, y, norm="l2", eps=0.3, steps=2, restarts=5)
    assert int(many.right.sum()) <= int(one.right.sum())
    assert (many.loss >= one.loss - 1e-6)[many.right == one.right].all()


def test_an_image_is_attacked_alike_in_any_batch():
    model, (x, y) = network(), data()
    whole = pgd(model, x, y, eps=0.1)
    part = pgd(model, x[5:], y[5:], eps=0.1, first=5)
    torch.testing.assert_close(whole.images[5:], part.images, rtol=0, atol=1e-6)


def test_the_model_is_left_as_it_was():
    model, (x, y) = network().train(), data()
    model[0].bias.requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    pgd(model, x, y, eps=0.1)
    assert model.training
    assert model[4].training
    assert [p.requires_grad for p in model.parameters()][:3] == [True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_normalisation_inside_means_pixels_outside():
    model, (x, y) = network(), data()
    whole = Normalised(model, [0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
    attacked = pgd(whole, x, y, eps=0.05)
    assert float((attacked.images - x).abs().max()) <= 0.05 + 1e-6
    expected = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.25]
    ).view(3, 1, 1)
    model.eval()
    torch.testing.assert_close(whole.eval()(x), model(expected))


class Random(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x.flatten(1), 0.5, training=True)[:, :5] * 9


@pytest.mark.parametrize(
    ("model", "x", "more", "text"),
    [
        (Random(), None, {}, "answer the same"),
        (network(), torch.rand(12, 3, 8, 8) * 3, {}, "values from"),
        (network(), torch.rand(11, 3, 8, 8), {}, "11 images, 12 labels"),
        (network(), None, {"eps": -0.1}, "eps -0.1"),
        (network(), None, {"norm": "l3"}, "did you mean"),
        (network(), None, {"restarts": 0}, "restarts 0"),
    ],
)
def test_what_cannot_be_attacked(model, x, more, text):
    images, y = data()
    with pytest.raises(SteppeError, match=text):
        pgd(model, images if x is None else x, y, **more)
