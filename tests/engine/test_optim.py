"""Any optimiser of torch.optim by its name, with its own options."""

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import steppe
from steppe import SteppeError
from steppe.engine.optim import lr_factor, optimizer, optimizers, options_of
from steppe.engine.train_config import TrainConfig
from steppe.experiment.recipe import TrainSpec

NAMES = [
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
]
CANNOT = {"LBFGS": "from gradients alone", "SparseAdam": "from dense gradients"}


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_every_one_of_torch_trains_or_is_refused_in_one_line(name):
    model = network()
    x, y = torch.randn(6, 1, 3, 3), torch.arange(6) % 3
    spec = TrainSpec(optimizer=name.lower(), lr=0.01).config()

    def train():
        made, _ = optimizers(spec.optimizer, model.parameters(), spec.lr, **spec.optimizer_options)
        s = steppe.sparsify(model, made, steppe.methods.gmp(sparsity=0.5), 4)
        for _ in range(4):
            s.step(lambda: nn.functional.cross_entropy(model(x), y))
        return s.finish()

    before = [p.detach().clone() for p in model.parameters()]
    if name in CANNOT:
        with pytest.raises(SteppeError, match=CANNOT[name]):
            train()
        return
    assert train().reached == 0.5
    for old, p in zip(before, model.parameters(), strict=True):
        assert not torch.equal(old, p.detach()), "every parameter is trained"


def test_an_optimizer_for_matrices_gets_the_matrices_and_adamw_the_rest():
    model = network()
    (muon, adamw), said = optimizers("muon", model.parameters(), 0.02, weight_decay=0.3)
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(3, 2)]
    assert len(adamw.param_groups[0]["params"]) == 5
    assert adamw.param_groups[0]["weight_decay"] == muon.param_groups[0]["weight_decay"] == 0.3
    assert said == [
        "optimizer muon is for matrices: it has 1 of 6 parameters, AdamW with the same learning "
        "rate has the rest"
    ]
    with pytest.raises(SteppeError, match="for matrices; got a network without one"):
        optimizers("muon", [nn.Parameter(torch.ones(2, 1, 3, 3))], 0.02)


def test_weight_decay_is_passed_where_it_can_be():
    usual = TrainSpec().config().optimizer_options
    assert usual == {"momentum": 0.9, "weight_decay": 1e-4}
    assert TrainSpec(optimizer="rprop").config().optimizer_options == {}
    assert TrainSpec(optimizer="adamw", weight_decay=None).config().optimizer_options == {}
    assert TrainSpec(optimizer="Adam", weight_decay=0).config().optimizer_options == {
        "weight_decay": 0
    }
    own = TrainSpec(optimizer="adam", optimizer_options={"weight_decay": 0.5})
    assert own.config().optimizer_options == {"weight_decay": 0.5}
    with pytest.raises(SteppeError, match=r"rprop has no weight decay; got .*0.01.*=null"):
        TrainSpec(optimizer="rprop", weight_decay=0.01).config()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"optimizer": "adm"}, r"unknown optimizer; got 'adm'.*did you mean adam"),
        (
            {"optimizer": "adam", "momentum": 0.9},
            "unknown option of optimizer adam; got 'momentum'",
        ),
        ({"optimizer_options": {"nestrov": True}}, "did you mean nesterov"),
        ({"optimizer_options": {"lr": 1.0}}, "unknown option of optimizer sgd; got 'lr'"),
    ],
)
def test_what_an_optimizer_does_not_have_is_refused_before_anything_is_read(options, rule):
    with pytest.raises(SteppeError, match=rule):
        TrainSpec(**options).config()
    recipe = {"data": "./nowhere", "method": {"name": "dense"}, "train": options}
    with pytest.raises(SteppeError, match=rule):
        steppe.train(recipe)


def test_a_value_that_cannot_be_is_named():
    for options, rule in (({"betas": [2.0, 0.9]}, "Invalid beta"), ({"betas": 3}, "subscriptable")):
        with pytest.raises(SteppeError, match=rule):
            optimizers("adam", network().parameters(), 0.1, **options)
    assert "betas" in options_of("ADAM")
    assert type(optimizer("Adam", network().parameters(), 0.1, betas=[0.5, 0.9])).__name__ == "Adam"


def test_schedules_end_where_they_should():
    assert lr_factor("linear", 0.0)(1.0) == 0.0
    assert lr_factor("constant", 0.5)(0.25) == 0.5


def test_steps_of_the_learning_rate_are_taken_at_their_epochs():
    config = TrainConfig(
        epochs=800, lr_schedule="step", warmup_epochs=50, lr_steps=((700, 0.125), (600, 0.375))
    )
    rate = config.learning_rate(10, 8000)
    found = [rate(step / 8000) for step in (0, 250, 500, 5999, 6000, 6999, 7000, 8000)]
    assert found == [0.0, 0.5, 1.0, 1.0, 0.375, 0.375, 0.125, 0.125]
    for schedule, steps in (("cosine", [(1, 0.5)]), ("step", [(1, 0.0)])):
        with pytest.raises(SteppeError, match="epochs with factors above 0, of lr_schedule step"):
            lr_factor(schedule, 0.0, steps)
