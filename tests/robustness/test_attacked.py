"""Accuracy under attack, beside single attacks."""

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.attacked import accuracy_under_attack
from steppe.robustness.attacks import pgd


def test_accuracy_by_hand_and_in_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    x = torch.rand(25, 3, 8, 8)
    y = model(x).argmax(1)
    y[:5] = (y[:5] + 1) % 4
    radii = {"linf": [0.0, 0.01], "l2": [0.2]}
    result = accuracy_under_attack(model, x, y, radii=radii, batch_size=9, steps=5, seed=2)
    assert result["clean"] == pytest.approx(20 / 25)
    assert (result["attack"], result["steps"], result["restarts"]) == ("PGD", 5, 1)
    assert result["accuracy"]["linf"]["0.0"] == pytest.approx(20 / 25)
    for norm, eps in (("linf", 0.01), ("l2", 0.2)):
        one = pgd(model, x, y, norm=norm, eps=eps, steps=5, seed=2)
        assert result["accuracy"][norm][str(eps)] == pytest.approx(float(one.right.float().mean()))
        assert result["accuracy"][norm][str(eps)] < 20 / 25
    with pytest.raises(SteppeError, match="at least one radius"):
        accuracy_under_attack(model, x, y, radii={"linf": []})
    with pytest.raises(SteppeError, match="did you mean autoattack"):
        accuracy_under_attack(model, x, y, radii=radii, attack="auto_attack")


def test_masked_gradients_stand_in_the_result_and_a_siblings_images_help():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    x = torch.rand(30, 3, 8, 8)
    y = net(x).argmax(1)

    class Numpy(nn.Module):
        def forward(self, x):
            return net(torch.from_numpy(x.numpy()))

    radii = {"linf": [0.02]}
    true = accuracy_under_attack(net, x, y, radii=radii)
    assert true["vanishing"]["linf"]["0.02"] == 0.0
    assert true["probes"]["linf"]["0.02"]["doubt"] == ""
    alone = accuracy_under_attack(Numpy(), x, y, radii=radii, batch_size=11)
    assert alone["vanishing"]["linf"]["0.02"] == 1.0
    probe = alone["probes"]["linf"]["0.02"]
    assert "vanish" in probe["doubt"] or "do not tell" in probe["doubt"]
    assert alone["accuracy"]["linf"]["0.02"] > true["accuracy"]["linf"]["0.02"]
    beside = accuracy_under_attack(Numpy(), x, y, radii=radii, sibling=net)
    assert beside["accuracy"]["linf"]["0.02"] == pytest.approx(true["accuracy"]["linf"]["0.02"])
    assert beside["probes"]["linf"]["0.02"]["transferred"] > 0
