"""The rare options: one place, and the keywords of before."""

import pytest
import torch
from torch import nn

import steppe
from steppe import StepOptions, methods


def sparsify(**given):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return steppe.sparsify(model, optimizer, methods.safe(sparsity=0.5), 2, **given)


def test_a_former_keyword_means_its_option():
    with pytest.warns(DeprecationWarning, match=r"StepOptions\(sync=") as seen:
        former = sparsify(sync="local")
    assert seen[0].filename == __file__
    assert former._passes._rank_local
    assert sparsify(options=StepOptions(sync="local"))._passes._rank_local
    assert not sparsify()._passes._rank_local


def test_what_was_never_a_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="did you mean include"):
        sparsify(includes=["*"])


def test_known_statistics_are_not_gathered():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    known = {"activation_square": {"weight": torch.tensor([[4.0, 3.0, 2.0, 1.0]])}}
    method = methods.safe_plus(sparsity=0.5)
    s = steppe.sparsify(model, optimizer, method, 1, options=StepOptions(statistics=known))
    s.step(lambda: model(torch.ones(3, 4)).square().mean())
    assert torch.equal(
        s.state_dict()["statistics"]["activation_square"]["weight"],
        known["activation_square"]["weight"],
    )


def test_losses_that_are_parts_of_the_steps_loss_are_added():
    """Micro-batches of unequal size: shares of one mean, as language models' tokens are."""
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    shares = [slice(0, 2), slice(2, 6)]

    def run(micro_batches, parts):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = StepOptions(micro_batches=micro_batches)
        s = steppe.sparsify(model, optimizer, methods.safe(sparsity=0.5), 2, options=options)
        closures = [lambda rows=r: (model(x[rows]) - y[rows]).square().sum() / 12 for r in parts]
        return s.step(*closures), model.weight.detach()

    whole = run("mean", [slice(0, 6)])
    for added, together in zip(run("sum", shares), whole, strict=True):
        torch.testing.assert_close(added, together)
