"""Micro-batches that come in several calls, as accelerate accumulates them."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from torch import nn
from torch.nn import functional as F

import steppe
from looped import looped
from steppe import SteppeError, methods
from steppe.engine.step.micro_batches import bound, check_same

XS = torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(1))
YS = torch.randint(0, 4, (6, 16), generator=torch.Generator().manual_seed(2))
METHODS = {
    "dense": methods.dense(),
    "flat": methods.dense(rho=0.3),
    "safe": methods.safe(sparsity=0.5, rho=0.1, penalty=0.1, interval=1),
    "safe_plus": methods.safe_plus(sparsity=0.5, penalty=0.1, interval=1),
    "msam": methods.gmp(sparsity=0.5, every=1).replace(perturb="msam"),
    "gmp": methods.gmp(sparsity=0.5, every=1),
    "mlprune": methods.mlprune(sparsity=0.5, at=0.5),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(autouse=True)
def _alone():
    """accelerate's gradient state is one for the whole process."""
    yield
    GradientState._reset_state()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4)
    )


def vector(model):
    return torch.cat([t.detach().flatten() for t in model.state_dict().values()])


def joined(method, of):
    """All micro-batches of a step in one call."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, 6 // of, clip_grad_norm=1.0)
    torch.manual_seed(1)
    for start in range(0, 6, of):
        rows = range(start, start + of)
        sparsifier.step(*[lambda i=i: F.cross_entropy(model(XS[i]), YS[i]) for i in rows])
    sparsifier.finish()
    return vector(model)


def accumulated(method, of, closure, first=False):
    """One call for each micro-batch, inside ``accelerator.accumulate``; sparsified first or not."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=of)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    if first:
        sparsifier = steppe.sparsify(model, optimizer, method, 6 // of, clip_grad_norm=1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    if not first:
        sparsifier = steppe.sparsify(model, optimizer, method, 6 // of, clip_grad_norm=1.0)
    torch.manual_seed(1)
    for i in range(6):
        x, y = XS[i], YS[i]
        with accelerator.accumulate(model):
            sparsifier.step(closure(model, lambda: (x, y)))  # noqa: B023
        assert sparsifier.steps_done == (i + 1) // of
    sparsifier.finish()
    return vector(model)


def late(model, batch):
    """Reads its variables when it is called, which for a second pass is too late."""
    return lambda: F.cross_entropy(model(batch()[0]), batch()[1])


@each_method
@looped(of=[2, 3])
def test_as_all_in_one_call(method, of):
    assert torch.equal(accumulated(method, of, late), joined(method, of))
    assert torch.equal(accumulated(method, of, late, first=True), joined(method, of))


def test_gradients_by_outputs_are_kept_over_calls():
    method = methods.dense().replace(perturb={"name": "functional_sam", "rho": 0.3})

    def run(calls):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3 if calls > 1 else 1)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        model, optimizer = accelerator.prepare(model, optimizer)
        s = steppe.sparsify(model, optimizer, method, 2)
        torch.manual_seed(1)

        def closure(x, y):
            outputs = model(x)
            return s.loss(F.cross_entropy(outputs, y), outputs=outputs)

        for start in (0, 3):
            parts = [
                lambda i=i: closure(XS[i], YS[i])  # one call for all, or one for each
                for i in range(start, start + 3)
            ]
            for part in [parts] if calls == 1 else [[p] for p in parts]:
                with accelerator.accumulate(model):
                    s.step(*part)
        assert s.steps_done == 2
        return vector(model)

    assert torch.equal(run(1), run(3))
    assert not torch.equal(run(1), joined(methods.dense(rho=0.3), 3))


def test_a_window_that_ends_early_is_divided_as_accelerate_does():
    """Five micro-batches by two: the last step has one, and half of its gradient."""

    def run(ours):
        GradientState._reset_state()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        loader = torch.utils.data.DataLoader([*zip(XS[:5], YS[:5], strict=True)], batch_size=None)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        sparsifier = steppe.sparsify(model, optimizer, methods.dense(), 6) if ours else None
        torch.manual_seed(1)
        for _ in range(2):
            for x, y in loader:
                with accelerator.accumulate(model):
                    if sparsifier is not None:
                        sparsifier.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
                        continue
                    accelerator.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    optimizer.zero_grad()
        return vector(model)

    assert torch.equal(run(True), run(False))


def test_an_accumulation_that_another_loop_left_open_is_not_ours():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    with accelerator.accumulate(nn.Linear(1, 1)):
        pass
    assert not accelerator.sync_gradients
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    sparsifier = steppe.sparsify(model, optimizer, METHODS["gmp"], 3)
    sparsifier.step(lambda: F.cross_entropy(model(XS[0]), YS[0]))
    assert sparsifier.steps_done == 1


def test_saving_half_a_step_is_told():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(
        made := network(), torch.optim.SGD(made.parameters(), lr=0.3)
    )
    sparsifier = steppe.sparsify(model, optimizer, METHODS["gmp"], 3)
    with accelerator.accumulate(model):
        sparsifier.step(lambda: F.cross_entropy(model(XS[0]), YS[0]))
    with pytest.warns(UserWarning, match="1 micro-batches of the next step"):
        sparsifier.state_dict()


class Batch:
    x = y = None


def test_a_closure_that_moved_on_is_refused():
    def of_an_object(model, batch):
        Batch.x, Batch.y = batch()
        return lambda: F.cross_entropy(model(Batch.x), Batch.y)

    with pytest.raises(SteppeError, match="the same loss again"):
        accumulated(METHODS["safe"], 2, of_an_object)
    accumulated(METHODS["gmp"], 2, of_an_object)  # has no second pass


def test_a_call_that_fails_leaves_nothing_behind():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    sparsifier = steppe.sparsify(model, optimizer, METHODS["safe"], 4)
    torch.manual_seed(0)
    before = vector(model)
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return F.cross_entropy(model(XS[0]), YS[0])

    with pytest.raises(MemoryError):
        sparsifier.step(fails)
    assert torch.equal(vector(model)[:72], before[:72])
    other = network()
    other.load_state_dict(model.state_dict())
    fresh = steppe.sparsify(other, torch.optim.SGD(other.parameters(), lr=0.3), METHODS["safe"], 4)
    for m, s in ((model, sparsifier), (other, fresh)):
        torch.manual_seed(1)
        s.step(lambda m=m: F.cross_entropy(m(XS[1]), YS[1]))
    assert torch.equal(vector(model), vector(other))


def test_bound_keeps_what_a_function_reads():
    values = [1]

    def inner():
        return values[0] + number

    number = 2
    kept = bound(lambda extra=5: inner() + number + extra)
    number, values = 100, [100]
    assert kept() == 1 + 2 + 2 + 5
    assert bound(print) is print


def test_bound_goes_round_in_circles():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert bound(even)(10)


def test_the_same_loss_up_to_rounding():
    check_same(torch.tensor(1.0), torch.tensor(1.00001))
    with pytest.raises(SteppeError):
        check_same(torch.tensor(1.0), torch.tensor(1.01))
