"""What every coupling fulfils: it ends exactly sparse, and its state can be written down."""

import pytest
import torch

from looped import looped
from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import AnyCoupling, Coupling
from steppe.core.serialization import load_state, save_state
from steppe.core.step_context import StepContext
from steppe.engine.step.selector import Selector

# those that solve a layer at once have a contract of their own, test_layer_solver.py
STEPPING = [n for n in AnyCoupling.registry if issubclass(AnyCoupling.registry[n], Coupling)]
COUPLINGS = [n for n in STEPPING if AnyCoupling.registry[n].prunes]
LAYERS = [Layer("a", (6, 5)), Layer("b", (4, 3, 2, 2))]
STEPS = 40


def drawn(levels=None):
    weights = {x.name: torch.randn(x.shape) for x in LAYERS}
    if levels:
        weights = {n: (w * levels).round() / levels for n, w in weights.items()}
    return weights


class Run:
    """A coupling with made-up gradients, no model."""

    def __init__(self, name, weights, schedule="cubic", sparsity=0.7):
        self.method = Method(
            budget={"name": "pooled", "sparsity": sparsity}, coupling=name, schedule=schedule
        )
        self.coupling = self.method.coupling
        self.made_from = self.coupling.parametrization
        self.trained = self.made_from.split_all(weights) if self.made_from else weights
        self.selector = Selector(self.method, LAYERS)
        start = self.method.schedule.sparsity(0.0, sparsity)
        self.state = {}
        self.state = self.coupling.init(self.context(-1, start, due=True))

    def context(self, step, sparsity, due):
        return StepContext(
            step=step,
            total=STEPS,
            sparsity=sparsity,
            due=due,
            weights=self.trained,
            project=self.selector,
            state=self.state,
        )

    @property
    def weights(self):
        return self.made_from.join_all(self.trained) if self.made_from else self.trained

    def steps(self, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            schedule = self.method.schedule
            sparsity = schedule.after(step, STEPS, self.method.sparsity)
            context = self.context(step, sparsity, schedule.due(step, STEPS))
            if self.coupling.needs_step_sizes:
                context.step_sizes = {n: torch.tensor(0.1) for n in self.trained}
            for name, w in self.trained.items():
                context.grads[name] = torch.randn(w.shape, generator=generator)
            self.coupling.add_gradient(context)
            for name, w in self.trained.items():
                w -= 0.1 * context.grads[name]
            context.moved = frozenset(self.trained)
            self.coupling.after_step(context)

    def finish(self):
        return self.coupling.finish(self.context(STEPS, self.method.sparsity, due=True))


@looped(schedule=["constant", "cubic", "one_shot"])
@looped(levels=[None, 2])
@pytest.mark.parametrize("name", COUPLINGS)
def test_ends_exactly_sparse(name, levels, schedule):
    run = Run(name, drawn(levels), schedule)
    run.steps(0, STEPS)
    masks = run.finish()
    assert masks.keys() == run.weights.keys()
    masked = sum(int((~m).sum()) for m in masks.values())
    expected = round(0.7 * sum(x.numel for x in LAYERS))
    assert masked == expected
    for n, w in run.weights.items():
        assert not w[~masks[n]].any()
        assert torch.equal(torch.signbit(w[~masks[n]]), torch.zeros_like(w[~masks[n]]).bool())


@pytest.mark.parametrize("name", COUPLINGS)
def test_finishing_twice_changes_nothing(name):
    run = Run(name, drawn())
    run.steps(0, STEPS)
    masks = run.finish()
    weights = {n: w.clone() for n, w in run.weights.items()}
    again = run.finish()
    assert all(torch.equal(masks[n], again[n]) for n in masks)
    assert all(torch.equal(weights[n], run.weights[n]) for n in weights)


@pytest.mark.parametrize("name", COUPLINGS)
def test_state_can_be_written_down(name, tmp_path):
    run = Run(name, drawn())
    run.steps(0, STEPS // 2)
    save_state(tmp_path / "state", {"state": run.state, "trained": run.trained})

    read = load_state(tmp_path / "state")
    other = Run(name, drawn())
    other.trained, other.state = read["trained"], read["state"]
    for each in (run, other):
        each.steps(STEPS // 2, STEPS)
        each.finish()
    assert all(torch.equal(run.weights[n], other.weights[n]) for n in run.weights)


@pytest.mark.parametrize("name", COUPLINGS)
def test_kept_weights_are_not_changed_by_finish(name):
    run = Run(name, drawn())
    run.steps(0, STEPS)
    before = {n: w.clone() for n, w in run.weights.items()}
    masks = run.finish()
    assert all(torch.equal(run.weights[n][masks[n]], before[n][masks[n]]) for n in before)


@pytest.mark.parametrize("name", COUPLINGS)
def test_no_sparsity_asked_none_made(name):
    run = Run(name, drawn(), sparsity=0.0)
    run.steps(0, STEPS)
    assert all(m.all() for m in run.finish().values())


@pytest.mark.parametrize("name", [n for n in STEPPING if n not in COUPLINGS])
def test_what_prunes_nothing_refuses_a_sparsity(name):
    with pytest.raises(SteppeError, match=f"coupling {name} prunes nothing; got a sparsity of 0.7"):
        Method(budget={"name": "pooled", "sparsity": 0.7}, coupling=name)
    run = Run(name, drawn(), sparsity=0.0)
    run.steps(0, 3)
    assert all(m.all() for m in run.finish().values())


SHORT = {"growing_reg": {"delta": 1.0, "update_every": 1, "hold": 0}}


@pytest.mark.parametrize("name", COUPLINGS)
def test_what_it_holds_at_zero_whatever_the_gradient_it_says(name):
    """A perturbation, its norm and its radius are counted on the rest."""
    run = Run({"name": name} | SHORT.get(name, {}), drawn(), schedule="constant")
    run.steps(0, 3)
    alive = run.coupling.alive(run.trained, run.state)
    assert alive.keys() <= run.trained.keys()
    context = run.context(3, 0.7, due=False)
    if run.coupling.needs_step_sizes:
        context.step_sizes = {n: torch.tensor(0.1) for n in run.trained}
    context.grads = {n: torch.zeros_like(w) for n, w in run.trained.items()}
    run.coupling.add_gradient(context)
    zeros = {n: (w == 0).flatten().nonzero()[:4, 0] for n, w in run.trained.items()}
    for n, w in run.trained.items():
        w.flatten()[zeros[n]] += 1e6
    context.moved = frozenset(run.trained)
    run.coupling.after_step(context)
    for n, w in run.trained.items():
        mask = alive.get(n, torch.ones_like(w, dtype=torch.bool))
        assert (mask.dtype, mask.shape) == (torch.bool, w.shape)
        assert not w[~mask].any()
        assert torch.equal(w.flatten()[zeros[n]] == 0, ~mask.flatten()[zeros[n]]), n


class Half:
    """A projection in whose tensors only some entries are of units that can go."""

    fixed = {"a": torch.arange(30).view(6, 5) % 3 == 0, "n.weight": torch.arange(6) % 3 == 0}

    def __call__(self, weights, sparsity, within=None):
        gone = {n: torch.arange(w.numel()).view(w.shape) % 3 == 1 for n, w in weights.items()}
        return {n: ~mask if sparsity else torch.ones_like(mask) for n, mask in gone.items()}

    def cut(self, masks):
        return masks


PULLS = {
    "admm": [{}, {"penalty": 0.3, "interval": 1}],
    "growing_reg": [SHORT["growing_reg"], {"pick": "grown", "update_every": 1, "recover": -0.1}],
    "l1": [{"alpha": 0.5}, {"alpha": 0.5, "step": "subgradient"}],
    "polarisation": [{"penalty": 0.5, "initial": 0.5}],
}


@pytest.mark.parametrize("name", [n for n in COUPLINGS if not Run(n, drawn()).made_from])
def test_what_can_never_go_is_pulled_by_nothing(name):
    """A norm over channels some of which are excluded, for example."""
    for options in PULLS.get(name, [{}]):
        coupling = AnyCoupling.make({"name": name, **options})
        weights = {n: torch.randn(m.shape) + 2.0 for n, m in Half.fixed.items()}
        before = {n: w.clone() for n, w in weights.items()}
        state = {}
        for step in range(-1, 4):
            context = StepContext(
                step=step,
                total=9,
                sparsity=0.3,
                due=step == 1,
                weights=weights,
                project=Half(),
                state=state,
                grads={n: torch.zeros_like(w) for n, w in weights.items()},
                step_sizes={n: torch.tensor(0.1) for n in weights},
                fixed=Half.fixed,
                moved=frozenset(weights),
            )
            if step < 0:
                state = coupling.init(context)
                continue
            coupling.add_gradient(context)
            for n, w in weights.items():
                w -= 0.1 * context.grads[n]
            coupling.after_step(context)
        for n, w in weights.items():
            assert torch.equal(w[Half.fixed[n]], before[n][Half.fixed[n]]), options
        assert not torch.equal(weights["n.weight"], before["n.weight"])
