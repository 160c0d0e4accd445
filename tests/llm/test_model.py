"""A model of which one block is in memory; what all families share is in test_families."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe import SteppeError
from steppe.llm.model import StreamedModel


@pytest.fixture
def model(language_model: Path) -> StreamedModel:
    return StreamedModel(str(language_model))


@pytest.fixture
def plain(language_model: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(language_model).eval()


def test_what_it_knows_of_itself(model: StreamedModel) -> None:
    assert len(model) == 2
    assert (model.vocabulary, model.hidden_size, model.positions) == (26, 12, 64)


def test_nothing_is_loaded_at_first(model: StreamedModel) -> None:
    assert all(p.is_meta for p in model.model.parameters())


def test_windows(model: StreamedModel) -> None:
    assert model.window(None) == 64
    assert model.window(2) == 2
    for wrong in (0, 1, -1, 65):
        with pytest.raises(SteppeError, match=f"a window of {wrong}"):
            model.window(wrong)


def test_layers_lie_in_the_blocks(model: StreamedModel) -> None:
    layers = model.layers()
    assert len(layers) == 2 * 7
    assert {x.block for x in layers} == {"model.layers.0", "model.layers.1"}
    assert all(x.name.startswith(f"{x.block}.") for x in layers)
    some = model.layers(("*.mlp.*",), ("*.0.*", "*.down_proj"))
    assert [x.name for x in some] == [
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    ]


@pytest.mark.parametrize("pattern", ["lm_head", "lm_head.weight", "nothing", "layers"])
def test_patterns_that_match_no_layer_of_a_block(model: StreamedModel, pattern: str) -> None:
    with pytest.raises(SteppeError, match=r"decoder blocks; got '.*names look like model"):
        model.layers((pattern,))
    with pytest.raises(SteppeError, match="inside of the decoder blocks"):
        model.layers((), (pattern,))


def test_one_block_at_a_time(model: StreamedModel, plain: torch.nn.Module) -> None:
    block = model.load(1)
    held = plain.get_submodule("model.layers.1").state_dict()
    assert all(torch.equal(t, held[n]) for n, t in block.state_dict().items())
    assert not any(p.requires_grad for p in block.parameters())
    assert all(p.is_meta for p in model.blocks[0].parameters())
    model.free(1)
    assert all(p.is_meta for p in model.model.parameters())


def test_a_block_is_written_under_the_names_it_had(model: StreamedModel, tmp_path: Path) -> None:
    block = model.load(0)
    with torch.no_grad():
        block.mlp.up_proj.weight[0] = 0.0
    model.write(0, tmp_path)
    found = load_file(tmp_path / "model-00001-of-00003.safetensors")
    original = load_file(model.folder / "model.safetensors")
    assert set(found) == {n for n in original if ".layers.0." in n}
    changed = {n for n in found if not torch.equal(found[n], original[n])}
    assert changed == {"model.layers.0.mlp.up_proj.weight"}


def test_the_rest_is_copied(model: StreamedModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for index in range(len(model)):
        model.load(index)
        model.write(index, tmp_path)
    (model.folder / "record.json").write_text("{}")  # of an earlier pruning: not this one's
    written = model.write_rest(tmp_path)
    (model.folder / "record.json").unlink()
    assert not (tmp_path / "record.json").exists()
    assert written == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    original = AutoModelForCausalLM.from_pretrained(model.folder).state_dict()
    assert all(torch.equal(again[n], t) for n, t in original.items())
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 26


def test_rounding_is_to_the_stored_dtype(language_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(language_model, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    half = {n: t if "norm" in n else t.bfloat16() for n, t in weights.items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    model = StreamedModel(str(folder))
    block = model.load(0)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.001 * torch.rand(p.shape))
    before = {n: t.clone() for n, t in block.state_dict().items()}
    model.round(0)
    for name, tensor in block.state_dict().items():
        rounded = before[name] if "norm" in name else before[name].bfloat16().float()
        assert torch.equal(tensor, rounded), name
    stored = model.stored(0)
    assert {n: t.dtype for n, t in stored.items()} == {n: half[n].dtype for n in stored}
    for name, tensor in stored.items():
        short = name.removeprefix("model.layers.0.")
        assert torch.equal(tensor.float(), block.state_dict()[short]), "rounding twice is once"


def test_hidden_states_are_the_models(model: StreamedModel, plain: torch.nn.Module) -> None:
    tokens = torch.randint(26, (3, 10))
    with torch.no_grad():
        expected = plain(tokens, output_hidden_states=True).hidden_states
    hidden = model.embed(tokens)
    assert torch.equal(hidden, expected[0])
    model.load(0)
    assert torch.equal(model.call(0, hidden), expected[1])
    # another number of windows, and windows of another length; a kernel gives the same bits only
    # for the same shapes, so the model sees these too
    for rows, length in ((1, 10), (3, 7)):
        part = tokens[:rows, :length]
        with torch.no_grad():
            expected = plain(part, output_hidden_states=True).hidden_states
        given = hidden[:rows] if length == 10 else model.embed(part)
        assert torch.equal(model.call(0, given), expected[1])


def test_a_block_may_be_called_before_the_text_was_seen_in_that_shape(
    model: StreamedModel, plain: torch.nn.Module
) -> None:
    tokens = torch.randint(26, (4, 10))
    model.embed(tokens[:1])
    with torch.no_grad():
        expected = plain(tokens, output_hidden_states=True).hidden_states
    model.load(1)
    hidden = model.call(1, expected[1])
    with torch.no_grad():
        assert torch.equal(plain.get_submodule("model.norm")(hidden), expected[2])
    assert all(p.is_meta for p in model.blocks[0].parameters()), "block 0 is not in memory"


def test_the_head_alone(model: StreamedModel, plain: torch.nn.Module) -> None:
    hidden = torch.randn(100, 12)  # more rows than positions
    model.embed(torch.zeros(1, 4, dtype=torch.int64))
    with torch.no_grad():
        expected = plain.lm_head(plain.get_submodule("model.norm")(hidden))
    torch.testing.assert_close(model.head(hidden), expected)
    model.free_rest()
    assert all(p.is_meta for p in model.model.parameters())


def test_attention_while_a_block_is_fitted(model: StreamedModel) -> None:
    tokens = torch.randint(26, (2, 10))
    hidden = model.embed(tokens)
    model.load(0)
    usual, held = model.call(0, hidden), model.config._attn_implementation
    with model.fitting(low_precision=True):
        assert model.config._attn_implementation == "eager"
        torch.testing.assert_close(model.call(0, hidden), usual)
    assert model.config._attn_implementation == held
    with model.fitting(low_precision=False):
        assert model.config._attn_implementation == held
    assert torch.equal(model.call(0, hidden), usual)


def test_a_weight_that_is_not_there(language_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(language_model, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SteppeError, match=r"got no lm_head\.weight"):
        StreamedModel(str(folder))
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    StreamedModel(str(folder))


def test_a_weight_of_another_shape(language_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(language_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 24}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SteppeError, match=r"mlp\..*_proj\.weight of shape \[.*20.*\], not \[.*24"):
        StreamedModel(str(folder))
