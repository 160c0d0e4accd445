"""What every objective fulfils: the loss of a batch, its reference, where a block starts."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.core.batch import Batch
from steppe.core.calibration_statistics import CALIBRATION
from steppe.core.protocols import LayerSolver, Objective

VOCABULARY, IDS = 5, torch.randint(0, 5, (2, 6), generator=torch.Generator().manual_seed(0))
FIELDS = {field.name for field in dataclasses.fields(Batch)}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Dropout(), nn.Linear(4, VOCABULARY))


def made(name):
    coupling = "obs_update" if Objective.registry[name].scope == "layer" else "hard_mask"
    budget = {"name": "uniform", "sparsity": 0.5}
    return Method(budget=budget, objective=name, coupling=coupling)


def batch_of(objective):
    """Everything that a loss may look at, as numbers for each token."""
    torch.manual_seed(2)
    outputs = torch.randn(2, 6, VOCABULARY, requires_grad=True)
    task = objective.scope == "task"
    return Batch(
        task_loss=F.cross_entropy(outputs.flatten(0, 1), IDS.flatten()),
        outputs=outputs,
        inputs=IDS if task else torch.randn(2, 6, 4),
        targets=IDS if task else torch.randn(2, 6, VOCABULARY),
        reference_outputs=torch.randn(2, 6, VOCABULARY),
    )


@pytest.mark.parametrize("name", list(Objective.registry))
def test_it_is_part_of_a_method(name):
    method = made(name)
    assert Method.from_yaml(method.to_yaml()) == method
    assert method.objective.name == name
    assert method.objective.scope in {"task", "block", "layer"}
    assert method.objective.stages in {"block", "children", "sublayers"}


@pytest.mark.parametrize("name", list(Objective.registry))
def test_the_loss_is_a_function_of_what_it_reads(name):
    objective = Objective.make(name)
    assert objective.reads
    assert set(objective.reads) <= FIELDS
    whole = batch_of(objective)
    loss = objective.loss(whole)
    assert loss.shape == ()
    assert bool(loss.isfinite())
    (gradient,) = torch.autograd.grad(loss, whole.outputs, retain_graph=True)
    assert bool(gradient.any()), "it moves what is trained"
    read = {field: getattr(whole, field) for field in objective.reads}
    assert torch.equal(objective.loss(Batch(**read)), loss)


@pytest.mark.parametrize("name", list(Objective.registry))
def test_blocks_and_layers_are_done_when_they_are_as_the_dense_ones(name):
    objective = Objective.make(name)
    if objective.scope == "task":
        assert objective.starts_from is None
        return
    whole = batch_of(objective)
    assert float(objective.loss(dataclasses.replace(whole, outputs=whole.targets))) == 0.0
    assert objective.starts_from is None or isinstance(objective.starts_from, LayerSolver)
    assert set(objective.start_needs) <= set(CALIBRATION)


@pytest.mark.parametrize("name", list(Objective.registry))
def test_a_reference_is_a_network_of_its_own(name):
    objective, model = Objective.make(name), network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    reference = objective.reference(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert (reference is not None) == ("reference_outputs" in objective.reads)
    if reference is None:
        return
    assert not any(module.training for module in reference.modules())
    assert not any(p.requires_grad for p in reference.parameters())
    own = {p.data_ptr() for p in reference.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", list(Objective.registry))
def test_a_training_loop_gives_it_what_it_reads(name):
    method, model = made(name), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if method.objective.scope != "task":
        return  # the walk over the blocks gives them outputs and targets
    sparsifier = steppe.sparsify(model, optimizer, method, total_steps=2)
    reads_more = method.objective.reads != ("task_loss",)

    def plain():
        return F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten())

    def closure():
        outputs = model(IDS)
        task_loss = F.cross_entropy(outputs.flatten(0, 1), IDS.flatten())
        return sparsifier.loss(task_loss, outputs=outputs, inputs=IDS, targets=IDS)

    assert bool(sparsifier.step(closure).isfinite())
    if reads_more:
        before = [p.clone() for p in model.parameters()]
        with pytest.raises(SteppeError, match=rf"objective {name}.*sparsifier\.loss\(") as refused:
            sparsifier.step(closure, plain)
        assert "\n" not in str(refused.value)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    else:
        assert bool(sparsifier.step(plain).isfinite())


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """The mean cross entropy of each token given those before it: the protocol fits it."""

    name = "next_token"
    reads = ("outputs", "inputs")

    def loss(self, batch):
        logits = batch.outputs[:, :-1].flatten(0, 1)
        return F.cross_entropy(logits, batch.inputs[:, 1:].flatten())


def test_the_loss_of_a_language_model_needs_no_task():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = Method(budget={"name": "uniform", "sparsity": 0.0}, objective=NextToken())
    sparsifier = steppe.sparsify(model, optimizer, method, total_steps=1)
    torch.manual_seed(3)
    loss = sparsifier.step(lambda: sparsifier.loss(outputs=model(IDS), inputs=IDS))
    model = network()
    torch.manual_seed(3)
    expected = F.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    assert torch.equal(loss, expected.detach())
