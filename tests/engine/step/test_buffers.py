"""Buffers are put back, of whatever module, changed in place or replaced."""

import pytest
import torch
from torch import nn

from steppe.engine.step import buffers
from steppe.engine.step.buffers import Buffers, restored_buffers


class Stateful(nn.Module):
    """Moves a buffer in each of the ways that are seen in public code."""

    def __init__(self, how, size=3):
        super().__init__()
        self.how = how
        self.register_buffer("seen", torch.zeros(size))
        self.register_buffer("late", None)

    def forward(self, x):
        if self.how == "in place":
            self.seen += x.mean()
        elif self.how == "data":  # leaves torch's version counter alone
            self.seen.data.add_(x.mean())
        elif self.how == "replaced":
            self.seen = self.seen + x.mean()
        elif self.how == "resized":
            self.seen.resize_(5).fill_(1.0)
        elif self.how == "late":
            self.late = x.mean()
        elif self.how == "new":
            self.register_buffer("another", x.mean())
        return x


def state(model):
    return {n: t.clone() for n, t in model.named_buffers()}


@pytest.mark.parametrize("how", ["in place", "data", "replaced", "resized", "late", "new"])
@pytest.mark.parametrize("size", [3, buffers.LARGE + 1])
def test_what_a_pass_did_is_undone(how, size):
    model = Stateful(how, size)
    kept, x, same = Buffers(), torch.ones(4), model.seen
    for _ in range(3):
        before = state(model)
        with kept.kept(model):
            model(x)
        after = state(model)
        assert list(after) == list(before)
        assert all(torch.equal(before[n], after[n]) for n in before)
        assert model.seen is same


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm2d(3),
        lambda: nn.InstanceNorm2d(3, track_running_stats=True),
        lambda: torch.ao.quantization.FakeQuantize(),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 1)),
    ],
    ids=["batch", "instance", "observer", "spectral"],
)
def test_modules_of_torch(make):
    model, x = make(), torch.randn(4, 3, 5, 5)
    model(x)
    before = state(model)
    assert before
    with restored_buffers(model):
        normal = model(x * 3)
    after = state(model)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert torch.equal(model(x * 3), normal), "not what training computes"
    moved = state(model)
    assert any(not torch.equal(before[n], moved[n]) for n in before)


def test_an_error_within_puts_them_back_too():
    model = nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="2D or 3D"), restored_buffers(model):
        model(torch.randn(4, 2)) + model(torch.randn(4))
    assert int(model.num_batches_tracked) == 0


def test_a_large_buffer_that_rests_is_not_copied_until_it_moves():
    model = Stateful("nothing", buffers.LARGE + 1)
    kept = Buffers()

    def copied():
        with kept.kept(model):
            model(torch.ones(4))
        return len(kept._backup)

    assert [copied(), copied()] == [1, 0]
    model.how = "in place"
    model(torch.ones(4))  # the first pass of a step
    before = model.seen.clone()
    assert [copied(), copied()] == [1, 1]
    assert torch.equal(model.seen, before)


def inference():
    with torch.inference_mode():
        return torch.ones(3)


ODD = {
    "sparse": lambda: torch.eye(300).to_sparse(),
    "rows": lambda: torch.eye(300).to_sparse_csr(),
    "expanded": lambda: torch.ones(1).expand(5),
    "inference": inference,
    "conjugate": lambda: torch.ones(3, dtype=torch.cfloat).conj(),
    "transposed": lambda: torch.ones(4, 5).t(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "empty": lambda: torch.empty(0),
    "meta": lambda: torch.empty(3, device="meta"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_buffers_of_any_kind(kind):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Identity())
    odd = ODD[kind]()
    model[1].register_buffer("odd", odd)
    before = state(model[0])
    kept = Buffers()
    for _ in range(2):
        with kept.kept(model):
            model(torch.randn(4, 2))
            model[1].odd = None
    assert model[1].odd is odd
    assert all(torch.equal(before[n], t) for n, t in model[0].named_buffers())


def test_a_conjugate_buffer_is_put_back():
    model = nn.Identity()
    model.register_buffer("odd", torch.tensor([1 + 2j]).conj())
    with restored_buffers(model):
        model.odd.mul_(2)
    assert model.odd.tolist() == [1 - 2j]


def test_a_large_buffer_that_moves_after_it_rested_is_put_back():
    model = nn.Module()
    model.register_buffer("codes", torch.zeros(buffers.LARGE + 1))
    keeper = Buffers()
    for moves in (False, False, True, True, False, True):
        with keeper.kept(model):
            if moves:
                model.codes.add_(1.0)
        assert not model.codes.any()
