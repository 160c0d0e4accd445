"""Distillation: the formula by hand, the teacher, and what is refused."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import steppe
from steppe import SteppeError
from steppe.core.batch import Batch
from steppe.objective.distillation import Distillation


def test_the_formula_by_hand():
    student, teacher = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3)
    temperature, weight, task = 3.0, 0.3, torch.tensor(0.7)
    t = (teacher.double() / temperature).exp()
    t = t / t.sum(1, keepdim=True)
    s = (student / temperature).exp()
    s = s / s.sum(1, keepdim=True)
    divergence = (t * (t / s).log()).sum(1).mean()
    expected = (1 - weight) * task + weight * temperature**2 * divergence
    objective = Distillation(temperature=temperature, weight=weight)
    loss = objective.loss(Batch(task_loss=task, outputs=student, reference_outputs=teacher))
    torch.testing.assert_close(loss, expected.float(), atol=1e-6, rtol=1e-5)


def test_its_ends():
    student, teacher, task = torch.randn(4, 3), torch.randn(4, 3), torch.tensor(0.7)
    batch = Batch(task_loss=task, outputs=student, reference_outputs=teacher)
    assert torch.equal(Distillation(weight=0.0).loss(batch), task)
    same = Batch(task_loss=task, outputs=teacher, reference_outputs=teacher)
    assert float(Distillation(weight=1.0).loss(same)) == 0.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": math.inf}, "finite"),
        ({"weight": 1.5}, r"\[0, 1\]"),
        ({"weight": -0.1}, "0"),
    ],
)
def test_what_is_refused(options, expected):
    with pytest.raises(SteppeError, match=expected):
        Distillation(**options)


X, Y = torch.randn(16, 6), torch.randint(0, 3, (16,))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def loop(model, method, total):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, total)

    def closure():
        outputs = model(X)
        return sparsifier.loss(F.cross_entropy(outputs, Y), outputs=outputs, inputs=X)

    return sparsifier, closure


def test_the_teacher_follows_the_model_to_another_type():
    model = network()
    method = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
    sparsifier, _ = loop(model, method, 2)
    model.to(torch.float64)

    def closure():
        outputs = model(X.double())
        return sparsifier.loss(F.cross_entropy(outputs, Y), outputs=outputs, inputs=X.double())

    assert sparsifier.step(closure).dtype == torch.float64


def test_a_network_that_cannot_be_copied_is_said():
    model = nn.utils.weight_norm(nn.Linear(6, 3))
    model(X)  # its hook keeps a tensor with a graph
    method = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
    with pytest.raises(SteppeError, match="before the first forward pass"):
        method.objective.reference(model)


@pytest.mark.parametrize("name", ["gmp", "safe", "spred"])
def test_the_teacher_is_the_network_at_its_start(name):
    model = network()
    dense = copy.deepcopy(model).eval()
    method = steppe.methods.make(name, sparsity=0.5).replace(
        objective={"name": "distillation", "weight": 1.0, "temperature": 2.0}
    )
    sparsifier, closure = loop(model, method, 4)
    for _ in range(3):
        sparsifier.step(closure)
    outputs, teacher = model(X), dense(X)
    expected = F.kl_div((outputs / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none")
    given = sparsifier.loss(F.cross_entropy(outputs, Y), outputs=outputs, inputs=X)
    torch.testing.assert_close(given, 4 * expected.sum(1).mean())


def test_weight_0_is_the_task_bit_for_bit():
    a, b = network(), network()
    plain = steppe.methods.safe(sparsity=0.5)
    for model, method in ((a, plain), (b, plain.replace(objective=Distillation(weight=0.0)))):
        sparsifier, closure = loop(model, method, 5)
        for _ in range(5):
            sparsifier.step(closure)
        sparsifier.finish()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_it_goes_on_with_the_same_teacher():
    method = steppe.methods.safe(sparsity=0.5).replace(objective="distillation")
    whole = network()
    sparsifier, closure = loop(whole, method, 6)
    for _ in range(6):
        sparsifier.step(closure)
    sparsifier.finish()

    first = network()
    sparsifier, closure = loop(first, method, 6)
    for _ in range(3):
        sparsifier.step(closure)
    state, weights = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(first.state_dict())

    again = network()  # the loop loads the weights before it makes the sparsifier
    again.load_state_dict(weights)
    sparsifier, closure = loop(again, method, 6)
    sparsifier.load_state_dict(state)
    for _ in range(3):
        sparsifier.step(closure)
    sparsifier.finish()
    ours, theirs = again.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_outputs_that_never_came_are_refused():
    model = network()
    method = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
    sparsifier, _ = loop(model, method, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SteppeError, match=r"more than the task's loss.*outputs=.*inputs="):
        sparsifier.step(lambda: F.cross_entropy(model(X), Y))
    with pytest.raises(SteppeError, match=r"objective distillation needs more of a batch.*inputs"):
        sparsifier.step(lambda: sparsifier.loss(F.cross_entropy(model(X), Y), outputs=model(X)))
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[n], before[n]) for n in parameters)


def test_of_a_language_model_it_is_the_mean_over_positions_also_in_parts(monkeypatch):
    from steppe.core import positions

    student, teacher = torch.randn(2, 5, 7, requires_grad=True), torch.randn(2, 5, 7)
    batch = Batch(task_loss=torch.tensor(0.0), outputs=student, reference_outputs=teacher)
    objective = Distillation(temperature=1.0, weight=1.0)
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean()
    (gradient,) = torch.autograd.grad(expected, student)
    for most in (1 << 22, 15):
        monkeypatch.setitem(positions.AT_ONCE, "cpu", most)
        loss = objective.loss(batch)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, student)[0], gradient)


def test_a_teacher_of_other_classes_is_one_line():
    batch = Batch(
        task_loss=torch.tensor(0.0), outputs=torch.randn(2, 3), reference_outputs=torch.randn(2, 4)
    )
    with pytest.raises(SteppeError, match=r"own classes.*\[2, 4\] to \[2, 3\]"):
        Distillation().loss(batch)


def test_a_teacher_may_be_given_and_is_not_saved():
    model, teacher = network(), network().eval().requires_grad_(False)
    with torch.no_grad():
        teacher[0].weight.mul_(2)
    method = steppe.methods.gmp(sparsity=0.5).replace(
        objective={"name": "distillation", "weight": 1.0, "temperature": 1.0}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = steppe.StepOptions(reference=teacher)
    sparsifier = steppe.sparsify(model, optimizer, method, 2, options=options)
    outputs = model(X)
    loss = sparsifier.loss(F.cross_entropy(outputs, Y), outputs=outputs, inputs=X)
    expected = F.kl_div(outputs.log_softmax(1), teacher(X).softmax(1), reduction="batchmean")
    torch.testing.assert_close(loss, expected)
    assert sparsifier.state_dict()["reference"] is None
    with pytest.raises(SteppeError, match=r"a teacher belongs.*objective task.*distillation"):
        steppe.sparsify(model, optimizer, steppe.methods.gmp(sparsity=0.5), 2, options=options)
