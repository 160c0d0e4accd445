"""What is prunable, and how a weight is seen as a matrix."""

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.core.layer import Layer
from steppe.core.prunable import prunable

LAYERS = [
    Layer("linear", (6, 4)),
    Layer("transposed", (4, 6), transposed=True),
    Layer("conv1d", (6, 4, 3)),
    Layer("conv2d", (6, 4, 3, 2)),
    Layer("conv3d", (6, 4, 1, 2, 3)),
    Layer("bilinear", (6, 4, 5)),
    Layer("transposed convolution", (4, 6, 3, 2), transposed=True),
]
each = pytest.mark.parametrize("layer", LAYERS, ids=lambda x: x.name)


@each
def test_there_and_back(layer):
    weight = torch.randn(layer.shape)
    for there, back in ((layer.flat, layer.unflat), (layer.matrix, layer.unmatrix)):
        seen = there(weight)
        assert seen.shape == (layer.rows, layer.columns) == (6, layer.columns)
        assert torch.equal(back(seen), weight)
    assert layer.numel == weight.numel() == layer.rows * layer.columns
    assert layer.inputs == 4


@each
def test_rows_are_outputs_and_neighbours_are_inputs(layer):
    output, of_input = torch.zeros(layer.shape), torch.zeros(layer.shape)
    for o in range(6):
        (output[:, o] if layer.transposed else output[o]).fill_(o)
    for i in range(4):
        (of_input[i] if layer.transposed else of_input[:, i]).fill_(i)
    for seen in (layer.flat(output), layer.matrix(output)):
        assert torch.equal(seen, torch.arange(6.0)[:, None].expand_as(seen))
    columns = torch.arange(4.0).repeat(layer.columns // 4)
    assert torch.equal(layer.matrix(of_input), columns.expand(6, -1))


def test_what_is_prunable():
    model = nn.ModuleDict(
        {
            "conv1": nn.Conv1d(2, 4, 3),
            "conv2": nn.Conv2d(2, 4, 3, groups=2),
            "conv3": nn.Conv3d(2, 4, 1),
            "fc": nn.Linear(4, 2),
            "norm": nn.BatchNorm2d(4),
            "layer_norm": nn.LayerNorm(4),
            "embed": nn.Embedding(5, 4),
            "activation": nn.PReLU(4),
        }
    )
    layers, weights = prunable(model)
    assert [x.name for x in layers] == list(weights)
    assert list(weights) == ["conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"]
    assert all(layer.shape == weights[layer.name].shape for layer in layers)
    assert weights["fc.weight"] is model["fc"].weight


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["conv*"], [], ["conv1.weight", "conv2.weight"]),
        (["*.weight"], ["conv?"], ["fc.weight"]),
        (["fc.weight"], [], ["fc.weight"]),
        ([], ["fc", "conv1.weight"], ["conv2.weight"]),
    ],
)
def test_patterns_name_weights_or_modules(include, exclude, expected):
    model = nn.ModuleDict(
        {"conv1": nn.Conv1d(2, 4, 3), "conv2": nn.Conv2d(2, 4, 3), "fc": nn.Linear(4, 2)}
    )
    assert list(prunable(model, include, exclude)[1]) == expected


def test_nothing_left():
    with pytest.raises(SteppeError, match="something must be prunable"):
        prunable(nn.Linear(2, 2), exclude=["*"])
    with pytest.raises(SteppeError, match="something must be prunable"):
        prunable(nn.LayerNorm(2))
    with pytest.raises(SteppeError, match="fc2"):
        prunable(nn.ModuleDict({"fc": nn.Linear(2, 2)}), include=["fc", "fc2"])


def test_a_single_module_has_a_name():
    layers, _ = prunable(nn.Linear(2, 2))
    assert [x.name for x in layers] == ["weight"]


def test_only_transformers_conv1d_is_stored_inputs_first():
    class Conv1D(nn.Module):
        def __init__(self, nf, nx):
            super().__init__()
            self.nf, self.weight = nf, nn.Parameter(torch.empty(nx, nf))

    (layer,), _ = prunable(nn.Sequential(Conv1D(6, 4)))
    assert (layer.rows, layer.inputs, layer.transposed) == (6, 4, True)
    (layer,), _ = prunable(nn.Sequential(nn.Conv1d(4, 6, 1)))
    assert (layer.rows, layer.inputs, layer.transposed) == (6, 4, False)


def test_a_grouped_transposed_convolution_has_its_groups_outputs_one_after_the_other():
    module = nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False)
    (layer,), _ = prunable(module)
    assert (layer.rows, layer.inputs, layer.columns) == (6, 2, 6)
    weight = torch.randn(layer.shape)
    for there, back in ((layer.flat, layer.unflat), (layer.matrix, layer.unmatrix)):
        assert torch.equal(back(there(weight)), weight)
    with torch.no_grad():
        for output in range(6):
            rows = torch.zeros(6, 6)
            rows[output] = 1.0
            module.weight.copy_(layer.unflat(rows))
            y = module(torch.rand(1, 4, 5) + 1.0)
            assert (y[0, output] != 0).all(), "a row computes an output"
            assert not y[0, [i for i in range(6) if i != output]].any()
            # and neighbours in a row are inputs: every second column is the first input's
            rows = torch.zeros(6, 3, 2)
            rows[output, :, 0] = 1.0
            module.weight.copy_(layer.unmatrix(rows.reshape(6, 6)))
            first = output // 3 * 2
            x = torch.zeros(1, 4, 5)
            x[0, first] = 1.0
            assert (module(x)[0, output] != 0).all()
            x = 1.0 - x
            assert not module(x)[0, output].any()
