"""What every structure fulfils: its units are a partition of the weights."""

import dataclasses
import re

import pytest
import torch

from looped import looped
from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.patterns import matches
from steppe.core.protocols import Structure

EXAMPLES = {
    "nm": ["2:4", "1:4", "3:4", "1:2", "4:8"],
    "block": ["block:4x4", "block:2x8", "block:1x4", "block:8x1"],
    "units": ["neurons", "heads", "neurons+heads"],
    "depth_and_width": ["neurons+heads+layers"],
}
STRUCTURES = [form for name in Structure.registry for form in EXAMPLES.get(name, [name])]
LAYERS = [
    Layer("linear", (16, 24)),
    Layer("transposed", (24, 16), transposed=True),
    Layer("conv1d", (8, 16, 3)),
    Layer("conv2d", (8, 16, 3, 2)),
    Layer("conv3d", (8, 8, 2, 1, 3)),
    Layer("transposed convolution", (16, 8, 3), transposed=True),
    Layer("grouped transposed convolution", (32, 4, 3), transposed=True, groups=2),
    Layer("gates", (32, 8), coupled_outputs=True),
    Layer("down", (8, 16), reads="neurons"),
    Layer("output projection", (16, 8), reads="heads", unit=4),
    Layer("output projection, inputs first", (16, 8), transposed=True, reads="heads", unit=4),
]
EXPERTS = Layer("experts", (3, 8, 24), stacked=True, reads="neurons", unit=8)
each = pytest.mark.parametrize("structure", [Structure.make(s) for s in STRUCTURES], ids=STRUCTURES)


def both(test):
    """Every structure, a test of its own, on every layer."""
    return each(looped(layer=[*LAYERS, EXPERTS])(test))


def numbered(layer):
    """Every weight a number of its own, from 1."""
    return torch.arange(1.0, layer.numel + 1).reshape(layer.shape)


@both
def test_groups_are_a_partition(structure, layer):
    structure.check(layer)
    weight = numbered(layer)
    groups = structure.groups(weight, layer)
    assert groups.shape[:2] == structure.units(layer)
    assert torch.equal(groups.flatten().sort().values, weight.flatten())
    assert torch.equal(weight, numbered(layer)), "the weight was changed"


@both
def test_expand_keeps_exactly_the_members(structure, layer):
    groups = structure.groups(numbered(layer), layer)
    for share in (0.0, 0.3, 0.8, 1.0):
        keep = torch.rand(groups.shape[:2]) < share
        mask = structure.expand(keep, layer)
        assert mask.dtype == torch.bool
        assert mask.shape == layer.shape
        kept = numbered(layer)[mask].sort().values
        assert torch.equal(kept, groups[keep].flatten().sort().values)
        # and back: a mask's groups are whole
        again = structure.groups(mask, layer)
        assert torch.equal(again.any(-1), keep)
        assert torch.equal(again.all(-1), keep)


@both
def test_masks_can_be_written_to(structure, layer):
    mask = structure.expand(torch.ones(structure.units(layer), dtype=torch.bool), layer)
    mask.logical_not_()  # raises where entries share memory
    assert not mask.any()


@both
@looped(dtype=[torch.float16, torch.bfloat16, torch.float64])
def test_dtype_kept(structure, layer, dtype):
    assert structure.groups(torch.randn(layer.shape).to(dtype), layer).dtype == dtype


@both
def test_a_unit_lies_within_its_layer_rows(structure, layer):
    """Rows of units come from consecutive outputs, which per-row budgets rely on."""
    row_of = layer.unflat(torch.arange(layer.rows)[:, None].expand(-1, layer.columns).contiguous())
    rows = structure.groups(row_of, layer)
    share = layer.rows // rows.shape[0]
    expected = torch.arange(rows.shape[0]).repeat_interleave(share)
    for i in range(rows.shape[0]):
        assert set(rows[i].unique().tolist()) == set((expected == i).nonzero().flatten().tolist())


@both
def test_what_the_shape_selects_is_its_sparsity(structure, layer):
    if structure.sparsity is None:
        assert structure.select({"a": torch.rand(structure.units(layer))}) is None
        return
    kept = structure.select({"a": torch.rand(structure.units(layer))})["a"]
    assert int((~kept).sum()) == round(structure.sparsity * kept.numel())


def inputs_innermost(mask, layer):
    """Written out with loops: one list per output and kernel position, over the inputs."""
    lists = []
    for group in mask.chunk(layer.groups):
        outputs_first = group.transpose(0, 1) if layer.transposed else group
        for output in outputs_first:
            kernel = output.reshape(layer.inputs, -1)
            for position in range(kernel.shape[1]):
                lists.append([kernel[i, position] for i in range(layer.inputs)])
    return lists


@pytest.mark.parametrize("form", EXAMPLES["nm"])
@looped(layer=LAYERS)
def test_nm_groups_neighbouring_inputs(form, layer):
    structure = Structure.make(form)
    weight = torch.randn(layer.shape)
    units = structure.groups(weight, layer).squeeze(-1)
    mask = structure.expand(structure.select({"a": units})["a"], layer)
    values = inputs_innermost(weight, layer)
    for keeps, row in zip(inputs_innermost(mask, layer), values, strict=True):
        for start in range(0, len(keeps), structure.m):
            group = range(start, start + structure.m)
            assert sum(bool(keeps[j]) for j in group) == structure.n
            lost = max(abs(float(row[j])) for j in group if not keeps[j])
            held = min(abs(float(row[j])) for j in group if keeps[j])
            assert held >= lost


@pytest.mark.parametrize("name", list(Structure.registry))
def test_short_forms_are_read_by_one_structure(name):
    for form in EXAMPLES.get(name, []):
        readers = [n for n in Structure.registry if Structure.registry[n].parse(form) is not None]
        assert readers == [name]
        assert dataclasses.is_dataclass(Structure.make(form))


@pytest.mark.parametrize(
    ("text", "said"),
    [("2:4", "30 inputs in"), ("block:4x4", "30 inputs in"), ("block:4x8", "1 inputs in")],
)
def test_all_layers_that_do_not_fit_are_named_with_a_way_out_that_works(text, said):
    structure = Structure.make(text)
    layers = [Layer(f"layers.{i}.{n}.weight", s) for i in range(2) for n, s in MIXED.items()]
    with pytest.raises(SteppeError) as refused:
        structure.check_all(layers)
    message = str(refused.value)
    assert said in message
    excluded = re.findall("--exclude '([^']+)'", message)
    assert f"exclude={excluded}" in message
    assert excluded == ["*.down", "*.conv1d"]
    misfits = [x for x in layers if structure.misfit(x)]
    assert misfits
    assert all(layer.name in message for layer in misfits)
    structure.check_all([x for x in layers if not any(matches(x.name, p) for p in excluded)])


MIXED = {"up": (16, 16), "down": (16, 30), "conv1d": (16, 1, 4)}


def test_when_no_layer_fits_nothing_is_excluded():
    with pytest.raises(SteppeError, match=r"Way out: another structure, e\.g\. unstructured"):
        Structure.make("2:4").check_all([Layer("a.weight", (4, 3)), Layer("b.weight", (4, 5))])


def test_a_structure_of_others_may_refuse_layer_by_layer():
    class Odd(Structure):
        def check(self, layer):
            raise SteppeError("odd layers only", got=layer.name)

    with pytest.raises(SteppeError, match="odd layers only; got a"):
        Odd().check_all([Layer("a.weight", (4, 4))])
