"""Kronecker factors beside sums over single samples, and however the same loss is put together."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import steppe
from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.prunable import prunable
from steppe.core.statistic import STATISTICS
from steppe.score.kfac import kronecker
from steppe.score.kfac.kronecker import KfacColumns, KfacMean, KfacRows, patches


class Conv1D(nn.Module):
    """As transformers' Conv1D: known by its name, the weight stored inputs first."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def gather(model, *losses, kinds=(KfacRows, KfacColumns)):
    """name -> (factor of the first dimension, factor of the others) after one step."""
    layers, weights = prunable(model)
    modules = dict(model.named_modules())
    statistics = [kind() for kind in kinds]
    for s in statistics:
        s.prepare({x.name: (x, modules[x.name.rpartition(".")[0]]) for x in layers})
        s.active(True)
    model.zero_grad()
    for loss in losses:
        (loss() / len(losses)).backward()
    for s in statistics:
        s.active(False)
        s.observe({}, {n: w.grad for n, w in weights.items()})
    return {n: tuple(s.values[n] for s in statistics) for n in statistics[0].values}


def double(*modules):
    return nn.Sequential(*modules).double()


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def close(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bias", [True, False])
def test_sums_over_single_samples(bias):
    model, x = double(nn.Linear(3, 2, bias=bias)), drawn(7, 3)

    def loss(part):
        return model(part).square().sum(1).mean()

    (gathered,) = gather(model, lambda: loss(x)).values()
    inputs = torch.cat([x, torch.ones(7, 1)], 1) if bias else x
    a = sum(torch.outer(v, v) for v in inputs) / 7
    g = 0
    for sample in x:
        out = model(sample[None])
        (d,) = torch.autograd.grad(out.square().sum(), out)
        g = g + torch.outer(d[0], d[0]) / 7
    close(gathered, (g[None], a[None]))


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 9)),
    "2d": (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (2, 4, 7, 6)),
    "3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 4, 3)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    "same": (nn.Conv2d(4, 6, (2, 3), padding="same"), (2, 4, 5, 5)),
    "valid": (nn.Conv2d(4, 6, 2, padding="valid"), (2, 4, 5, 5)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 5, 5)),
    "circular": (nn.Conv2d(4, 6, 3, padding=(1, 0), padding_mode="circular"), (2, 4, 5, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_patches_are_what_the_kernel_meets(kind):
    conv, shape = CONVOLUTIONS[kind]
    conv, x = copy.deepcopy(conv).double(), drawn(*shape)
    out = conv(x)
    kernel = conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1)
    made = torch.einsum("ngc,goc->ngo", patches(x, conv), kernel).flatten(1) + conv.bias
    torch.testing.assert_close(made, out.movedim(1, -1).reshape(made.shape))


def test_a_convolution_is_a_linear_layer_on_its_patches(monkeypatch):
    conv = double(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    x = drawn(5, 3, 7, 6)
    unfolded = functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2)  # [batch, T, columns]
    linear = double(nn.Linear(27, 4))
    linear[0].load_state_dict({"weight": conv[0].weight.flatten(1), "bias": conv[0].bias})
    expected = gather(linear, lambda: linear(unfolded).cos().sum((1, 2)).mean())["0.weight"]

    def loss():
        return conv(x).cos().sum((1, 2, 3)).mean()

    close(gather(conv, loss)["0.weight"], expected)
    # KFC: inputs are summed over the 12 positions, gradients averaged
    whole = functional.pad(unfolded.flatten(0, 1), (0, 1), value=1.0)
    torch.testing.assert_close(expected[1][0], whole.T @ whole / 5)
    monkeypatch.setattr(kronecker, "_PIECE", 1)
    close(gather(conv, loss)["0.weight"], expected)


def test_groups_are_layers_of_their_own():
    conv = double(nn.Conv2d(4, 6, 2, groups=2))
    x = drawn(3, 4, 4, 4)
    rows, columns = gather(conv, lambda: conv(x).square().sum((1, 2, 3)).mean())["0.weight"]
    for i, half in enumerate(x.split(2, dim=1)):
        part = double(nn.Conv2d(2, 3, 2))
        kernel = conv[0].weight[3 * i : 3 * i + 3].detach()
        part[0].load_state_dict({"weight": kernel, "bias": conv[0].bias[3 * i : 3 * i + 3]})
        one = gather(part, lambda p=part, h=half: p(h).square().sum((1, 2, 3)).mean())["0.weight"]
        close((rows[i], columns[i]), (one[0][0], one[1][0]))


def test_a_weight_stored_inputs_first_turns_the_factors():
    turned, plain = double(Conv1D(4, 3)), double(nn.Linear(3, 4))
    plain[0].load_state_dict({"weight": turned[0].weight.T, "bias": turned[0].bias})
    x = drawn(5, 2, 3)
    first, second = gather(turned, lambda: turned(x).square().sum((1, 2)).mean())["0.weight"]
    rows, columns = gather(plain, lambda: plain(x).square().sum((1, 2)).mean())["0.weight"]
    close((first, second), (columns, rows))
    assert first.shape == (1, 4, 4)  # three inputs and the bias


def test_calls_of_one_module_are_positions():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head((self.shared(x[:, 0]) * self.shared(x[:, 1])).tanh())

    class Once(Twice):
        def forward(self, x):
            return self.head(self.shared(x).prod(1).tanh())

    twice, x = Twice().double(), drawn(6, 2, 3)
    once = Once().double()
    once.load_state_dict(twice.state_dict())
    a = gather(twice, lambda: twice(x).square().sum(1).mean())
    b = gather(once, lambda: once(x).square().sum(1).mean())
    for name in a:
        close(a[name], b[name])


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4)
    ).double()


def cross(model, x, y):
    return functional.cross_entropy(model(x), y)


def test_micro_batches_are_one_batch():
    x, y = drawn(8, 2, 3, 3), torch.randint(4, (8,))
    model = network()
    whole = gather(model, lambda: cross(model, x, y))
    parts = gather(model, lambda: cross(model, x[:4], y[:4]), lambda: cross(model, x[4:], y[4:]))
    for name in whole:
        close(parts[name], whole[name])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_count_once(reentrant):
    x, y = drawn(8, 2, 3, 3).requires_grad_(), torch.randint(4, (8,))
    model = network()
    plain = gather(model, lambda: cross(model, x, y))

    def through(part):
        return checkpoint(model, part, use_reentrant=reentrant)

    again = gather(model, lambda: cross(through, x, y))
    for name in plain:
        close(again[name], plain[name])


def test_a_pass_without_gradient_counts_for_nothing():
    x, y = drawn(8, 2, 3, 3), torch.randint(4, (8,))
    model = network()
    plain = gather(model, lambda: cross(model, x, y))

    def loss():
        with torch.no_grad():
            model(3 * x)
        return cross(model, x, y)

    again = gather(model, loss)
    for name in plain:
        close(again[name], plain[name])


@pytest.mark.parametrize("how", ["scaler", "sam"])
def test_neither_loss_scaling_nor_a_second_pass_is_seen(how):
    batches = [(drawn(8, 2, 3, 3).float(), torch.randint(4, (8,))) for _ in range(4)]

    def run(perturb, scaler):
        model = network().float()
        method = Method(
            score="kfac",
            budget={"name": "pooled", "sparsity": 0.5},
            schedule="one_shot",
            perturb=perturb,
        )
        # the weights stand still, so that both runs see the same
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sparsifier = steppe.sparsify(model, optimizer, method, 5, scaler=scaler)
        for x, y in batches:
            sparsifier.step(lambda x=x, y=y: cross(model, x, y))
        return sparsifier.state_dict()["statistics"]

    # the scale doubles on the way
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    given = {"scaler": ("none", scaler), "sam": ("sam", None)}[how]
    plain, other = run("none", None), run(*given)
    for need, values in plain.items():
        for name, value in values.items():
            torch.testing.assert_close(other[need][name], value)


def test_half_precision_is_summed_in_full():
    model = nn.Sequential(nn.Linear(3, 2)).bfloat16()
    x = torch.randn(6, 3).bfloat16()
    (gathered,) = gather(model, lambda: model(x).float().square().mean()).values()
    assert all(f.dtype == torch.float32 for f in gathered)


def test_the_mean_eigenvalue_of_the_network():
    x, y = drawn(8, 4, 3, 3), torch.randint(4, (8,))
    model = double(nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(), nn.Flatten(), Conv1D(4, 24))
    factors = gather(model, lambda: cross(model, x, y))
    values = [
        torch.outer(torch.linalg.eigvalsh(r), torch.linalg.eigvalsh(c)).flatten()
        for rows, columns in factors.values()
        for r, c in zip(rows, columns, strict=True)
    ]
    mean = torch.cat(values).mean()
    assert sum(len(v) for v in values) == 2 * 3 * 9 + 25 * 4
    gathered = gather(model, lambda: cross(model, x, y), kinds=(KfacMean,))
    assert gathered.keys() == factors.keys()
    for (value,) in gathered.values():
        torch.testing.assert_close(value**2, mean[None])


def test_stacked_experts_are_refused():
    layer = Layer("experts.weight", (2, 4, 3), stacked=True)
    with pytest.raises(SteppeError, match=r"exclude experts\.weight"):
        KfacRows().prepare({layer.name: (layer, nn.Module())})


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)], ids=str)
def test_shapes_are_as_announced(shape):
    module = nn.Linear(3, 4, bias=False) if len(shape) == 2 else nn.Conv2d(3, 4, 2, bias=False)
    model = nn.Sequential(module)
    gathered = gather(model, lambda: model(torch.randn(2, *shape[1:])).square().mean())["0.weight"]
    announced = [STATISTICS[n].shape(shape) for n in ("kfac_rows", "kfac_columns")]
    assert [tuple(f.shape) for f in gathered] == announced
