"""Models written as another family that computes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from language_models import reload, windows
from steppe import SteppeError, methods
from steppe.llm.prune import prune
from steppe.llm.structured import slim
from steppe.llm.structured.family import of_family, others

LLAMA: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "llama3": {
        "rope_parameters": ROPE
        | {"original_max_position_embeddings": 32, "rope_theta": 500000.0, "rope_type": "llama3"}
    },
    "wide-heads": {"head_dim": 4, "rms_norm_eps": 1e-3, "hidden_act": "gelu"},
}


def saved(folder: Path, kind: str = "Llama", **options: Any) -> Path:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**LLAMA | options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def written(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return held


@pytest.mark.parametrize("name", KINDS)
def test_a_llama_cut_as_a_mistral_computes_what_the_masked_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, out = saved(tmp_path / "dense", **KINDS[name]), tmp_path / "out"
    # six heads do not divide a hidden size of sixteen
    with pytest.raises(SteppeError, match=r"not a multiple.*--family mistral"):
        prune(old, methods.slim(sparsity=0.25), windows(8, 40), out)
    assert not out.exists()
    monkeypatch.setattr(slim.shutil, "rmtree", lambda *_, **__: None)
    prune(old, methods.slim(sparsity=0.25), windows(8, 40), out, family="mistral")
    masked, cut = reload(out / "checkpoints/masked"), reload(out)
    assert type(masked).__name__ == "LlamaForCausalLM"
    assert type(cut).__name__ == "MistralForCausalLM"
    with torch.no_grad():
        expected, found = masked(windows(8, 40)).logits, cut(windows(8, 40)).logits
    assert float((expected - found).abs().max() / expected.abs().max()) <= 1e-5
    asked = {"max_new_tokens": 8, "do_sample": False}
    one = windows(1, 5)
    assert torch.equal(masked.generate(one, **asked), cut.generate(one, **asked))
    config = written(out)
    assert config["architectures"] == ["MistralForCausalLM"]
    assert config["sliding_window"] is None
    assert not {"attention_bias", "mlp_bias", "pretraining_tp"} & config.keys()
    assert json.loads((out / "record.json").read_text())["recipe"]["family"] == "mistral"


def test_what_is_not_cut_is_the_same_model(tmp_path: Path) -> None:
    """Every parameter of the one is the other's."""
    from transformers import AutoModelForCausalLM

    from steppe.llm.skeleton import config_of

    one = reload(saved(tmp_path / "dense"))
    other = AutoModelForCausalLM.from_config(
        config_of(of_family(written(tmp_path / "dense"), "mistral"))
    )
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(windows(8, 40)).logits, other.eval()(windows(8, 40)).logits)


@pytest.mark.parametrize("flag", ["attention_bias", "mlp_bias"])
def test_a_llama_with_biases_is_no_mistral(flag: str, tmp_path: Path) -> None:
    saved(tmp_path / "dense", **{flag: True})
    assert others(written(tmp_path / "dense")) == []
    refused(tmp_path, "llama as mistral")


@pytest.mark.parametrize("kind", ["Qwen2", "Gemma"])
def test_other_families_are_refused(kind: str, tmp_path: Path) -> None:
    options = {"head_dim": 4} if kind == "Gemma" else {}
    saved(tmp_path / "dense", kind, **options)
    refused(tmp_path, rf"{kind.lower()} as mistral.*no --family")


def test_a_shift_of_means_is_refused_as_a_mistral(tmp_path: Path) -> None:
    saved(tmp_path / "dense")
    refused(tmp_path, "llama as mistral", "flap")


def refused(folder: Path, said: str, method: str = "slim") -> None:
    made = methods.make(method, sparsity=0.25, structure="neurons")
    with pytest.raises(SteppeError, match=said) as error:
        prune(folder / "dense", made, windows(8, 40), folder / "out", family="mistral")
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()


def test_its_own_family_changes_nothing() -> None:
    config = {"model_type": "llama", "hidden_size": 4}
    assert of_family(config, "llama") is config
    assert of_family(config, None) is config


def test_what_is_not_cut_has_no_other_family(tmp_path: Path) -> None:
    """It would be written under its old config."""
    saved(tmp_path / "dense")
    with pytest.raises(SteppeError, match="family"):
        prune(
            tmp_path / "dense",
            methods.wanda(sparsity=0.5),
            windows(8, 40),
            tmp_path / "out",
            family="mistral",
        )


def test_what_a_config_leaves_to_its_family_is_said_in_the_other() -> None:
    """Llama has as many key heads as heads where nothing is said, Mistral eight."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 50, "num_hidden_layers": 1}
    given = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes}
    config = of_family(given, "mistral")
    assert config["num_key_value_heads"] == 4
    assert config["intermediate_size"] == 11008
    assert config["max_position_embeddings"] == 2048
