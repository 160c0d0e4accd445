"""ADMM on a layer's quadratic problem."""

import itertools

import pytest
import torch

import steppe
from steppe import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import Score, Structure
from steppe.core.selection import keep_largest
from steppe.coupling.layer_admm import LayerAdmm
from steppe.coupling.obs_update import ObsUpdate


def layer(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(4 * columns, columns // 4, generator=generator)
    inputs = low @ torch.randn(columns // 4, columns, generator=generator) / (columns / 4) ** 0.5
    inputs += 0.3 * torch.randn(inputs.shape, generator=generator)
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / len(inputs)


def posed(weight, gram, prune, form="unstructured", score="magnitude", notes=None):
    structure = Structure.make(form)

    def choose(saliency, number):
        kept = structure.select({"": saliency})
        return keep_largest({"": saliency}, number)[""] if kept is None else kept[""]

    return LayerProblem(
        name="layer.weight",
        weight=weight,
        statistics={"gram": gram, "activation_square": gram.diagonal()[None]},
        prune=prune,
        choose=choose,
        score=Score.make(score),
        multiple=structure.columns,
        note=(lambda text: None) if notes is None else notes.append,
    )


def error(new, weight, gram, damping=0.0):
    """tr(D G D') / tr(W G W')."""
    gram = gram.double() + damping * gram.diagonal().mean() * torch.eye(len(gram))
    change, weight = new.double() - weight.double(), weight.double()
    return float(((change @ gram) * change).sum() / ((weight @ gram) * weight).sum())


CASES = list(
    itertools.product([0, 1], [(0.5, "unstructured"), (0.7, "unstructured"), (0.5, "2:4")])
)


@pytest.mark.parametrize(("seed", "case"), CASES)
@pytest.mark.parametrize("shape", [(64, 96), (128, 64)])
def test_error_is_below_the_sweeps(shape, seed, case):
    sparsity, form = case
    weight, gram = layer(*shape, seed)
    prune = round(sparsity * weight.numel())
    ours, _ = LayerAdmm().solve(posed(weight, gram, prune, form))
    sweep, _ = ObsUpdate().solve(posed(weight, gram, prune, form, score="obs"))
    assert error(ours, weight, gram) < error(sweep, weight, gram)


def together(rows, columns, tokens):
    """Inputs that almost all go along few directions, as behind the activation of an MLP."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(tokens, 40, generator=generator) * torch.logspace(-0.5, 0, 40)
    inputs = few @ torch.randn(40, columns, generator=generator)
    inputs += 1e-2 * torch.randn(tokens, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / tokens


@pytest.mark.parametrize("tokens", [4, 64, 4000])
def test_rounding_does_not_count_where_the_gram_is_ill_conditioned(tokens, monkeypatch):
    """Beside the same iterations with an inverse in float64; 40 of 512 directions hold all."""
    weight, gram = together(32, 512, tokens)
    problem = posed(weight, gram, round(0.6 * weight.numel()))
    ours, _ = LayerAdmm().solve(problem)

    def exactly(matrix, out):
        return out.copy_(torch.linalg.inv(matrix.double()))

    monkeypatch.setattr("steppe.coupling.layer_admm.definite_inverse", exactly)
    exact, _ = LayerAdmm().solve(problem)
    ours, exact = (error(w, weight, gram, damping=0.01) for w in (ours, exact))
    assert ours == pytest.approx(exact, rel=0.02)


def test_never_worse_than_its_first_projection(monkeypatch):
    """Whatever goes wrong on the way."""
    weight, gram = layer(32, 64)
    prune, notes = weight.numel() // 2, []

    def astray(self, problem, hessian, target, mean):
        mask = problem.select(problem.saliency(-1.0 / target), prune)
        return 100.0 * target * mask, mask

    monkeypatch.setattr(LayerAdmm, "_admm", astray)
    new, mask = LayerAdmm(refine=0).solve(posed(weight, gram, prune, notes=notes))
    assert "first projection" in notes[0]
    scale = gram.diagonal() + 0.01 * gram.diagonal().mean()
    largest = keep_largest({"": weight * scale.sqrt()}, prune)[""]
    assert torch.equal(mask, largest)
    torch.testing.assert_close(new, weight * largest)


def test_refinement_never_makes_it_worse():
    weight, gram = layer(48, 64)
    problem = posed(weight, gram, weight.numel() // 2)
    errors, masks = [], []
    for steps in (0, 1, 2, 4, 8, 30):
        new, mask = LayerAdmm(refine=steps, tolerance=0.0).solve(problem)
        errors.append(error(new, weight, gram, damping=0.01))
        masks.append(mask)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(errors)), errors


def test_refinement_ends_at_the_least_squares_solution():
    weight, gram = layer(6, 24)
    new, mask = LayerAdmm(refine=100, tolerance=0.0).solve(posed(weight, gram, 72))
    hessian = gram.double() + 0.01 * gram.diagonal().double().mean() * torch.eye(24).double()
    for row in range(6):
        kept = mask[row].nonzero()[:, 0]
        right = hessian[kept] @ weight[row].double()
        exact = torch.linalg.solve(hessian[kept][:, kept], right)
        torch.testing.assert_close(new[row, kept].double(), exact, rtol=1e-3, atol=1e-4)


def test_scale_of_the_inputs_does_not_matter():
    """Powers of four scale the Hessian without rounding, and E by powers of two."""
    weight, gram = layer(16, 32)
    plain = LayerAdmm().solve(posed(weight, gram, 256))
    scaled = LayerAdmm().solve(posed(weight, gram * 16, 256))
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


def test_uncorrelated_inputs_of_any_scale_leave_wanda():
    """H is diagonal then, and |w_ij| ||x_j|| decides."""
    weight, scale = torch.randn(8, 20), torch.rand(20) + 0.1
    gram = torch.diag(scale.square())
    damped = scale.square() + 0.01 * scale.square().mean()
    new, mask = LayerAdmm().solve(posed(weight, gram, 80))
    assert torch.equal(mask, keep_largest({"": weight * damped.sqrt()}, 80)[""])
    torch.testing.assert_close(new, weight * mask)


def test_more_damping_is_told():
    weight, gram = layer(4, 16)
    gram = gram - (torch.linalg.eigvalsh(gram)[0] + 0.03 * gram.diagonal().mean()) * torch.eye(16)
    notes = []
    new, _ = LayerAdmm().solve(posed(weight, gram, 32, notes=notes))
    assert new.isfinite().all()
    assert len(notes) == 1
    assert "layer.weight" in notes[0]
    assert "damping 0.1" in notes[0]


@pytest.mark.parametrize("broken", ["indefinite", "nan", "infinite"])
def test_a_hopeless_gram_is_named(broken):
    weight, gram = layer(4, 16)
    if broken == "indefinite":
        gram = gram - 100 * gram.diagonal().mean() * torch.ones(16, 16)
        gram.diagonal().abs_()
    else:
        gram[3, 7] = gram[7, 3] = float(broken[:3])
    notes = []
    with pytest.raises(SteppeError, match=r"layer\.weight"):
        LayerAdmm().solve(posed(weight, gram, 32, notes=notes))
    assert len(notes) == 4
    assert "float64" in notes[-1]


def test_the_method_reads_back():
    alps = steppe.methods.make("alps", sparsity=0.5, structure="unstructured")
    assert steppe.Method.from_yaml(alps.to_yaml()) == alps


@pytest.mark.parametrize(
    "options", [{"start": 0.0}, {"start": 2.0}, {"damping": 0.0}, {"levels": 0}, {"refine": -1}]
)
def test_options_are_checked(options):
    with pytest.raises(SteppeError, match="layer_admm"):
        LayerAdmm(**options)


@pytest.mark.parametrize("tokens", [1, 16])
def test_a_few_calibration_tokens_are_enough_to_be_sound(tokens):
    """Behind an activation; the error was 1e13, or the scores NaN."""
    generator = torch.Generator().manual_seed(0)
    columns = 704
    inputs = torch.nn.functional.gelu(torch.randn(tokens, columns, generator=generator)) + 0.5
    weight, gram = torch.randn(16, columns, generator=generator), inputs.T @ inputs / tokens
    new, _ = LayerAdmm().solve(posed(weight, gram, round(0.6 * weight.numel())))
    assert error(new, weight, gram, damping=0.01) < 0.01


def test_the_layer_is_named_where_rounding_takes_the_damping_away():
    """Equal inputs: the gram is of rank one, and so small a damping is lost in float32."""
    problem = posed(torch.randn(8, 256), torch.ones(256, 256), 1000)
    with pytest.raises(SteppeError, match=r"the input gram of .* must be positive definite"):
        LayerAdmm(damping=1e-10).solve(problem)
    assert LayerAdmm(damping=0.01).solve(problem)[0].isfinite().all()
