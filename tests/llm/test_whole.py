"""Models in which more than the hidden states goes from block to block: the whole one in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import steppe
from steppe import SteppeError, methods
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.llm import memory
from steppe.llm.model import StreamedModel
from steppe.llm.streamed import streamed_perplexity

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
GEMMA = SIZES | {
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 8,
    "initializer_range": 0.3,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "vocab_size_per_layer_input": 48,
    "hidden_size_per_layer_input": 4,
    "num_kv_shared_layers": 2,
    "pad_token_id": 0,
}
STREAMS = SIZES | {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size_per_layer_input": 48,
    "hidden_size_per_layer_input": 4,
    "altup_num_inputs": 2,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 8,
    "activation_sparsity_pattern": [0.0, 0.0],
    "pad_token_id": 0,
}
# what goes between blocks, from text or from earlier blocks, in which form
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "keys shared between blocks": ("Gemma4TextConfig", GEMMA),
    "four dimensions": ("Gemma3nTextConfig", STREAMS),
    "window first": (
        "XLNetConfig",
        {"vocab_size": 48, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
    ),
    "lists": ("OpenAIGPTConfig", {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}),
    "two lists of modules": (
        "XLMConfig",
        {"vocab_size": 48, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "causal": True},
    ),
    "an ordinary one": ("LlamaConfig", SIZES | {"initializer_range": 0.3}),
}
TOKENS = torch.randint(3, 48, (6, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import transformers

    folders = {}
    for kind, (name, options) in KINDS.items():
        torch.manual_seed(0)
        config = getattr(transformers, name)(**options)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn_like(p))  # none begins with zeros
        folders[kind] = tmp_path_factory.mktemp("model")
        model.save_pretrained(folders[kind])
    return folders


@torch.no_grad()
def plain(folder: Path, tokens: Tensor) -> float:
    from transformers import AutoModelForCausalLM

    logits = AutoModelForCausalLM.from_pretrained(folder)(tokens, use_cache=False).logits
    return float(cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))


def weights(folder: Path) -> dict[str, Tensor]:
    from transformers import AutoModelForCausalLM

    state: dict[str, Tensor] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_and_measured_as_the_model_computes(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    # whatever the number of windows and of those that go through a block together
    record = steppe.prune(
        folders[kind], methods.sparsegpt(sparsity=0.5), TOKENS, tmp_path / "out", micro_batch=4
    )
    assert record["walk"]["streamed"] == (kind in ("an ordinary one", "lists")), record["walk"]
    assert record["walk"]["error"] <= 1e-6
    assert record["sparsity_reached"] == 0.5
    for folder in (folders[kind], tmp_path / "out"):
        for batch in (6, 4):
            model = StreamedModel(str(folder))
            measured = streamed_perplexity(model, TOKENS, tmp_path / "scratch", batch)
            assert measured["loss"] == pytest.approx(plain(folder, TOKENS), abs=1e-5)
    state = weights(tmp_path / "out")
    for row in record["blocks"]:
        assert row["layers"]
        for layer in row["layers"]:
            assert int((state[layer["name"]] == 0).sum()) * 2 == state[layer["name"]].numel()
            assert 0.0 < layer["output_error"] < 0.7


@pytest.mark.parametrize("method", ["sparsegpt", "safe", "wanda-owl"])
def test_the_same_as_one_block_at_a_time(
    method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    name, _, budget = method.partition("-")
    made = methods.make(name, sparsity=0.5, **({"budget": budget} if budget else {}))
    short = ReconstructionConfig(epochs=2, warmup_epochs=0, batch_size=2)
    records = [
        steppe.prune(
            folders["an ordinary one"],
            made,
            TOKENS,
            tmp_path / streamed,
            streamed=streamed,
            reconstruction=short,
            precision="float32",
        )
        for streamed in ("always", "never")
    ]
    assert [r["walk"]["streamed"] for r in records] == [True, False]
    one, other = (weights(tmp_path / streamed) for streamed in ("always", "never"))
    for key, tensor in one.items():
        assert torch.equal(tensor == 0, other[key] == 0), key
        torch.testing.assert_close(tensor, other[key])


def test_a_stopped_run_goes_on(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = folders["keys shared between blocks"], methods.sparsegpt(sparsity=0.5)
    steppe.prune(folder, made, TOKENS, tmp_path / "whole")
    write = StreamedModel.write

    def stop(model: StreamedModel, index: int, out: Path) -> None:
        if index == 2:
            raise KeyboardInterrupt
        write(model, index, out)

    with monkeypatch.context() as patch:
        patch.setattr(StreamedModel, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            steppe.prune(folder, made, TOKENS, tmp_path / "twice")
    steppe.prune(folder, made, TOKENS, tmp_path / "twice")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "twice")
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_always_is_refused_by_name_and_nothing_is_written(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match=r"per_layer_input.*--streamed never") as refused:
        steppe.prune(
            folders["keys shared between blocks"],
            methods.wanda(sparsity=0.5),
            TOKENS,
            tmp_path / "out",
            streamed="always",
        )
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_neither_streams_nor_fits(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"host": 40_000, "disk": 1 << 40}
    monkeypatch.setattr(memory, "available", lambda out, device: there)
    monkeypatch.setattr(memory, "_BUFFERS", 0)
    monkeypatch.setattr(memory, "_products", lambda *_: 0)
    with pytest.raises(SteppeError, match=r"the whole model .*cannot be streamed \(.*per_layer"):
        steppe.prune(
            folders["keys shared between blocks"],
            methods.magnitude(sparsity=0.5),
            TOKENS,
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_safe_on_a_block_that_gets_more(folders: dict[str, Path], tmp_path: Path) -> None:
    record = steppe.prune(
        folders["keys shared between blocks"],
        methods.safe(sparsity=0.5).for_language(),
        TOKENS,
        tmp_path / "out",
        reconstruction=ReconstructionConfig(epochs=2, warmup_epochs=0, batch_size=2),
    )
    assert record["sparsity_reached"] == 0.5


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BertForSequenceClassification"])
def test_encoders_and_what_has_both(name: str, tmp_path: Path) -> None:
    import transformers

    kind = getattr(transformers, name)
    sizes = {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2}
    options = sizes | {"num_heads": 2} if name.startswith("T5") else SIZES
    model = kind(kind.config_class(**options))
    model.save_pretrained(tmp_path / "dense")
    made = methods.sparsegpt(sparsity=0.5)
    record = steppe.prune(tmp_path / "dense", made, TOKENS, tmp_path / "out")
    assert len(record["blocks"]) == (4 if name.startswith("T5") else 2)
    assert record["fallbacks"] == []
    after, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    state = after.state_dict()
    names = [x["name"] for row in record["blocks"] for x in row["layers"]]
    assert sum(int((state[n] == 0).sum()) for n in names) * 2 == sum(
        state[n].numel() for n in names
    )
    with pytest.raises(SteppeError, match=r"predict each next token.*--evaluate text"):
        steppe.prune(tmp_path / "dense", made, TOKENS, tmp_path / "no", evaluate=("text",))


@pytest.mark.parametrize("streamed", ["auto", "never"])
def test_weights_that_are_no_numbers_are_named(streamed: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "m")
    tokens = torch.randint(3, 48, (2, 16))
    with pytest.raises(SteppeError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        steppe.prune(
            tmp_path / "m",
            methods.wanda(sparsity=0.5),
            tokens,
            tmp_path / "out",
            streamed=streamed,
        )
    assert not (tmp_path / "out").exists()
