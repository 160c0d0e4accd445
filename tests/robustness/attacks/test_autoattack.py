"""AutoAttack through the toolbox: inside its ball, judged by ourselves, repeatable."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.attacked import accuracy_under_attack
from steppe.robustness.attacks import NORMS, pgd
from steppe.robustness.attacks.autoattack import AutoAttack

LIGHT = AutoAttack(steps=20, queries=30)


@pytest.fixture
def library():
    pytest.importorskip(
        "art.attacks.evasion", reason="autoattack needs pip install 'steppe[attacks]'"
    )


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(8 * 64, 5),
    ).eval()  # fmt: skip


def data(model, count=24, wrong=4):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 8, 8, generator=g)
    y = model(x).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % 5
    return x, y


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("linf", 0.2), ("l2", 0.1), ("l2", 2.0)])
def test_within_the_ball_and_judged_by_ourselves(norm, eps, library):
    model = network()
    x, y = data(model)
    given = x.clone()
    attacked = LIGHT(model, x, y, norm=norm, eps=eps)
    assert torch.equal(x, given)
    assert (NORMS[norm]().size(attacked.images - x) <= eps * (1 + 1e-5) + 1e-6).all()
    assert float(attacked.images.min()) >= 0.0
    assert float(attacked.images.max()) <= 1.0
    with torch.no_grad():
        out = model(attacked.images)
    assert torch.equal(attacked.right, out.argmax(1) == y)
    torch.testing.assert_close(attacked.loss, nn.functional.cross_entropy(out, y, reduction="none"))
    assert attacked.clean.tolist() == [False] * 4 + [True] * 20
    assert not (attacked.right & ~attacked.clean).any()
    assert int(attacked.right.sum()) <= int(
        pgd(model, x, y, norm=norm, eps=eps, steps=20).right.sum()
    )


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_falls_where_it_must_and_only_there(norm, dual, library):
    torch.manual_seed(0)
    head = nn.Linear(3 * 64, 3)
    model = nn.Sequential(nn.Flatten(), head)
    x = torch.full((30, 3, 8, 8), 0.5) + 0.2 * torch.randn(30, 3, 8, 8).clamp(-1, 1)
    out = model(x).detach()
    y = out.argmax(1)
    slopes = (head.weight[y][:, None] - head.weight[None]).norm(dual, dim=2).detach()
    reach = (out.max(1, keepdim=True).values - out) / slopes
    reach[torch.arange(30), y] = torch.inf
    # the ball never meets the box, so this is the distance to the nearest wrong answer
    distance = reach.min(1).values
    eps = float(distance.median())
    assert eps < 0.3 or norm == "l2"
    attacked = LIGHT(model, x, y, norm=norm, eps=eps)
    assert not attacked.right[distance < 0.97 * eps].any()
    assert attacked.right[distance > 1.0001 * eps].all()


def test_repeatable_and_without_a_trace(library):
    model = network().train()
    x, y = data(network())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    np.random.seed(5)
    random.seed(5)
    first = LIGHT(model, x, y, norm="linf", eps=0.02, seed=1)
    after = np.random.rand(), random.random()
    again = LIGHT(model, x, y, norm="linf", eps=0.02, seed=1)
    assert torch.equal(first.images, again.images)
    other = LIGHT(model, x, y, norm="linf", eps=0.02, seed=2)
    assert not torch.equal(first.images, other.images)
    np.random.seed(5)
    random.seed(5)
    assert after == (np.random.rand(), random.random())
    assert model.training
    assert model[4].training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_in_the_table_of_accuracies(library):
    model = network()
    x, y = data(model)
    radii = {"linf": [0.0, 0.02]}
    result = accuracy_under_attack(model, x, y, radii=radii, attack="autoattack", steps=5)
    assert result["attack"].startswith("AutoAttack (APGD-CE")
    assert (result["steps"], result["restarts"], result["queries"]) == (5, 1, 5000)
    assert result["library"].startswith("adversarial-robustness-toolbox 1")
    assert result["clean"] == result["accuracy"]["linf"]["0.0"] == pytest.approx(20 / 24)
    assert result["accuracy"]["linf"]["0.02"] < 20 / 24


@pytest.mark.parametrize(
    ("shape", "classes", "text"), [((3, 8, 8), 2, "2 classes"), ((3, 4, 4), 3, "a square of 5")]
)
def test_what_its_parts_cannot_do(shape, classes, text):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
    with pytest.raises(SteppeError, match=f"{text}.*--attack pgd"):
        LIGHT(model, torch.rand(4, *shape), torch.zeros(4).long(), norm="linf", eps=0.1)
    with pytest.raises(SteppeError, match="steps, restarts and queries; got 0"):
        AutoAttack(steps=0)


def test_without_the_library_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "art", None)
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    model = network()
    with pytest.raises(SteppeError, match=r"pip install 'steppe\[attacks\]'"):
        LIGHT(model, *data(model), norm="linf", eps=0.1)


@pytest.mark.parametrize("kind", ["saturated", "softmax", "detached", "numpy"])
def test_masked_gradients_are_seen_through_or_said(library, kind):
    model = network()
    x, y = data(model, 12, 0)
    changes = {
        "saturated": lambda x: model(x) * 1e5,
        "softmax": lambda x: (model(x) * 1e5).softmax(1),
        "detached": lambda x: model(x.detach()),
        "numpy": lambda x: model(torch.from_numpy(x.numpy())),
    }

    class Masked(nn.Module):
        def forward(self, x):
            return changes[kind](x)

    true = LIGHT(model, x, y, norm="linf", eps=0.02)
    assert not true.probed.lines()
    masked = LIGHT(Masked(), x, y, norm="linf", eps=0.02)
    if kind == "numpy":
        assert "cannot be trusted" in masked.probed.lines()[0]
    else:
        assert int(masked.right.sum()) <= int(true.right.sum()) + 1
