"""What every part does with every kind of layer that is linear algebra."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import steppe
from steppe.core.protocols import Coupling, LevelBudget, Score, Structure, UnitBudget
from steppe.core.statistic import STATISTICS
from steppe.engine.step.selector import OUTPUT
from steppe.score.of_experts import ExpertScore


class Kinds(nn.Module):
    """Recurrent, attention, transposed (grouped), bilinear and plain, and what stays dense."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 8, 2, groups=2)
        self.both = nn.Bilinear(8, 8, 8)
        self.made = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.out = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(tokens))
        x = self.cell(x.flatten(0, 1)).view(*tokens.shape, 8)
        x, _ = self.attention(x, x, x)
        x = self.up(x.transpose(1, 2)).transpose(1, 2).mean(1)
        return self.out(self.made(self.both(x, x)))


PRUNED = {
    *(f"lstm.weight_{p}_l{k}{d}" for p in ("ih", "hh") for k in "01" for d in ("", "_reverse")),
    *("cell.weight_ih", "cell.weight_hh", "attention.in_proj_weight", "attention.out_proj.weight"),
    *("up.weight", "both.weight", "out.weight"),
}
TRAINED = [n for n in Coupling.registry if issubclass(Coupling.registry[n], Coupling)]
COUPLINGS = [n for n in TRAINED if Coupling.registry[n].prunes]
BUDGETS = [
    n
    for n in UnitBudget.registry
    if issubclass(UnitBudget.registry[n], UnitBudget)
    and not issubclass(UnitBudget.registry[n], LevelBudget)  # for language models
]
COUPLED = {n for n in PRUNED if n.startswith(("lstm", "cell")) or n.endswith("in_proj_weight")}
OF_EXPERTS = {n for n in Score.registry if issubclass(Score.registry[n], ExpertScore)}
OF_EXPERTS |= {"norm_output"}  # of language models' dimensions
TOKENS = torch.arange(20).reshape(4, 5) % 6
LABELS = torch.arange(4)


def run(method: steppe.Method, steps: int = 4) -> tuple[nn.Module, steppe.Sparsifier]:
    torch.manual_seed(0)
    model = Kinds()
    # a statistic that is not gathered is one of Adam's
    adam = not all(STATISTICS[need].gathered for need in method.score.needs)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if not adam:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, steps, steps_per_epoch=2)

    def closure() -> tuple[Tensor, Tensor]:
        logits = model(TOKENS)
        return F.cross_entropy(logits, LABELS), (logits.argmax(-1) == LABELS).float().mean()

    for _ in range(steps):
        sparsifier.step(closure)
    return model, sparsifier


def zeroed(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A new model of the same weights, the masks multiplied by hand."""
    plain = Kinds()
    state = copy.deepcopy(model.state_dict())
    for name, mask in masks.items():
        state[name] = state[name] * mask
    plain.load_state_dict(state)
    return plain


def exact(model: nn.Module, sparsifier: steppe.Sparsifier) -> steppe.Finished:
    """Finish, and see that the zeros are exact and that the network computes with them."""
    finished = sparsifier.finish()
    weights = dict(model.named_parameters())
    for name, mask in finished.masks.items():
        assert not weights[name][~mask].any(), name
    expected = zeroed(model, finished.masks)
    assert torch.equal(model.eval()(TOKENS), expected.eval()(TOKENS))
    copy.deepcopy(model)  # nothing is left that cannot be copied
    assert finished.sparsity_of_all == finished.zeros / sum(p.numel() for p in model.parameters())
    return finished


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", COUPLINGS)
def test_every_coupling(name: str) -> None:
    method = steppe.methods.gmp(sparsity=0.75).replace(coupling=name)
    finished = exact(*run(method))
    assert set(finished.masks) == PRUNED
    assert finished.sparsity >= 0.7499


@pytest.mark.parametrize("name", [n for n in Score.registry if n not in OF_EXPERTS])
def test_every_score_prunes_a_layer_or_names_it(name: str) -> None:
    score = Score.make(name)
    if not score.reads(OUTPUT) or "obs_scale" in score.needs or score.calibrated:
        pytest.skip("a score of coupled channels, of solvers, or of calibrated layers")
    model, sparsifier = run(steppe.methods.gmp(sparsity=0.75).replace(score=name))
    finished = exact(model, sparsifier)
    named = " ".join(sparsifier.notes)
    assert all((n in finished.masks) != (n in named) for n in PRUNED), name
    assert finished.zeros == round(0.75 * finished.total)


@pytest.mark.parametrize("form", ["unstructured", "2:4", "block:4x4", "channel"])
def test_every_structure(form: str) -> None:
    assert form.partition(":")[0] in (*Structure.registry, "2")
    sparsity = 0.5
    model, sparsifier = run(steppe.methods.gmp(sparsity=sparsity).replace(structure=form))
    finished = exact(model, sparsifier)
    if form == "channel":  # gates, and queries with their keys, are no channels
        assert set(finished.masks) == PRUNED - COUPLED - {"out.weight"}
        assert "its outputs live and die together" in sparsifier.notes[-1]
    else:
        assert set(finished.masks) == PRUNED
    assert finished.units_zeroed == round(sparsity * finished.units)


@pytest.mark.parametrize("name", BUDGETS)
def test_every_budget(name: str) -> None:
    method = steppe.methods.gmp(sparsity=0.75)
    finished = exact(*run(method.replace(budget={"name": name, "sparsity": 0.75})))
    assert finished.zeros == round(0.75 * finished.total)


def test_what_is_left_out_is_named_with_its_share() -> None:
    _, sparsifier = run(steppe.methods.gmp(sparsity=0.5), steps=1)
    (note,) = sparsifier.notes
    assert "of the model's parameters; dense stay" in note
    assert "made.weight (Linear, made by weight_norm, " in note
    assert "embed.weight (Embedding, " in note
